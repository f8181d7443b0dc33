"""CheckState: an entry at which nodes compare their states, and which is no difference between them."""

from __future__ import annotations

from raftkv.kv import commands as c
from raftkv.kv.keys import META
from raftkv.kv.records import Meta, read_meta

from .host import Host, put


def test_a_check_moves_nothing_but_the_applied_index_and_the_time() -> None:
    host = Host()
    host.do(put(b"k"))
    before, meta = rows(host)
    host.now = 5
    assert host.do(c.CheckState(0)) == [c.StateChecked(2)]
    assert rows(host) == (before, meta._replace(applied_index=meta.applied_index + 1, time_ms=5))
    assert host.changes == []


def test_a_check_in_a_session_is_remembered_like_any_command() -> None:
    host = Host()
    session = host.register()
    assert host.write(session, c.CheckState(1)) == [c.StateChecked(1)]
    host.reopen()
    host.do(put(b"k"))
    assert host.write(session, c.CheckState(1)) == [c.StateChecked(1)]


def test_states_differ_by_hash_where_one_row_differs() -> None:
    one, other = Host(), Host()
    for host, value in ((one, b"1"), (other, b"2")):
        host.do(put(b"k", value))
        host.do(c.CheckState(0))
    assert one.hash() != other.hash()


def rows(host: Host) -> tuple[dict[bytes, bytes], Meta]:
    """All rows but META, and META."""
    with host.store.read() as reader:
        found = dict(reader.scan(b"\0", None))
        del found[META]
        return found, read_meta(reader)
