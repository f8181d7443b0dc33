"""The past, read back in steps of bounded work."""

from __future__ import annotations

import pytest

from raftkv.errors import Compacted
from raftkv.kv.commands import Branch, Compact, Sweep, Txn, TxnDelete, TxnPut
from raftkv.kv.history import Cursor, Want
from raftkv.kv.keys import version_prefix
from raftkv.kv.records import TOMBSTONE
from raftkv.kv.writing import Change
from tests.kv.dict_store import DictStore, DictView
from tests.kv.host import Host, delete, put


def everything(_: int, __: bytes) -> Want:
    return Want.WITH_PREVIOUS


def read(host: Host, first: int, stop: int = 1 << 60, max_work: int = 1 << 20) -> tuple[list[Change], int]:
    """Return the changes and in how many steps they came."""
    cursor, found, steps = Cursor(first), [], 0
    stop = min(stop, host.machine.revision + 1)
    while cursor.revision < stop:
        with host.machine.view() as view:
            stretch = view.history(cursor, stop, everything, max_work)
        assert stretch.next > cursor
        found += stretch.changes
        cursor = stretch.next
        steps += 1
    return found, steps


def written() -> tuple[Host, list[Change]]:
    """A store and all its changes: entries of one and of many revisions, revisions of one and of many changes."""
    host = Host()
    changes: list[Change] = []
    for number in range(4):
        host.do(put(b"a", b"%d" % number), put(b"b", b"%d" % number))
        changes += host.changes
        host.do(delete(b"a"))
        changes += host.changes
        operations = (TxnPut(b"c", b"x", 0, False), TxnPut(b"a\0", b"y", 0, False), TxnDelete(b"b", b"", False))
        host.do(Txn(0, (), Branch((), operations, ())))
        changes += host.changes
    return host, changes


@pytest.mark.parametrize("max_work", [1, 2, 5, 1000])
def test_what_is_read_back_is_what_was_done(max_work: int) -> None:
    host, changes = written()
    for first in range(1, host.machine.revision + 2):
        for stop in range(first, host.machine.revision + 2):
            found, _ = read(host, first, stop, max_work)
            assert found == [change for change in changes if first <= change.revision < stop]


def test_who_asks_may_end_a_step() -> None:
    host, changes = written()
    asked: list[int] = []

    def up_to_five(revision: int, _: bytes) -> Want:
        asked.append(revision)
        return Want.STOP if revision == 5 else Want.WITH_PREVIOUS

    with host.machine.view() as view:
        stretch = view.history(Cursor(2), host.machine.revision + 1, up_to_five, 1 << 20)
    assert stretch == ([change for change in changes if change.revision < 5], Cursor(5))
    assert asked[-2:] == [4, 5]
    assert read(host, 5)[0] == [change for change in changes if change.revision >= 5]


def test_a_step_does_no_more_than_it_may() -> None:
    host = Host()
    host.do(*(put(b"%d" % number, b"v" * 5000) for number in range(100)))
    _, steps = read(host, 1, max_work=10)
    assert steps > 20
    _, steps = read(host, 1)
    assert steps == 1


def test_what_is_not_wanted_is_not_read() -> None:
    store = DictStore()
    host = Host(store)
    host.do(*(put(b"%d" % number) for number in range(1000)))
    prefix = version_prefix(b"7")

    with store.read() as reader:
        counting = Counting(reader)
        from raftkv.kv.history import read_history

        stretch = read_history(
            counting, Cursor(1), 2000, lambda _, found: Want.CHANGE if found == prefix else Want.NOTHING, 1 << 20
        )
    assert [change.prefix for change in stretch.changes] == [prefix]
    assert stretch.changes[0].previous is None
    assert counting.gets == 2, "the META row, and the one version"


class Counting(DictView):
    def __init__(self, view: DictView) -> None:
        super().__init__(view.rows, view.order)
        self.gets = 0

    def get(self, key: bytes) -> bytes | None:
        self.gets += 1
        return super().get(key)


def test_the_compacted_revision_can_be_read_and_nothing_before_it() -> None:
    """Whatever it is that the revision did: also a deletion, of which no read shows anything."""
    for at in range(2, 18):
        host, changes = written()
        host.do(Compact(0, at), Sweep(0))
        assert not host.machine.unswept
        with pytest.raises(Compacted) as caught:
            read(host, at - 1)
        assert caught.value.compacted_revision == at
        found, _ = read(host, at)
        expected = [change for change in changes if change.revision >= at]
        assert [change[:3] for change in found] == [change[:3] for change in expected]
        for change, whole in zip(found, expected, strict=True):
            if change.revision > at:
                assert change == whole
            else:
                assert change.previous in (None, whole.previous)


def test_what_an_earlier_compaction_kept_goes_with_the_change_that_hides_it() -> None:
    """Else a deleted key comes back: its tombstone is swept, and the version before it is not."""
    host = Host()
    host.do(put(b"k", b"1"))
    host.do(put(b"other"))
    host.do(Compact(0, 3), Sweep(0))
    assert host.get(b"k") is not None
    host.do(delete(b"k"))
    host.do(put(b"other"))
    host.do(Compact(0, 5), Sweep(0))
    assert host.get(b"k") is None
    assert not [key for key in host.store.order if key.startswith(version_prefix(b"k"))]  # type: ignore[attr-defined]


def test_a_deletion_is_read_back_as_one() -> None:
    host = Host()
    host.do(put(b"k", b"1"))
    host.do(delete(b"k"))
    found, _ = read(host, 3)
    (change,) = found
    assert (change.revision, change.row, change.previous_revision) == (3, TOMBSTONE, 2)
