"""Bugs that real Raft systems shipped (notes/raft-bugs.md), at the level of the state machine."""

from __future__ import annotations

import pytest

from raftkv.kv.commands import Deleted, Group, Put, Written
from raftkv.kv.keys import VERSIONS
from raftkv.kv.machine import StateMachine

from .dict_store import Crash, CrashingStore, DictStore
from .host import Host, delete, entry, put, state_hash


@pytest.mark.parametrize("reopen", [False, True])
def test_bug_44_a_retry_applies_once(reopen: bool) -> None:
    host = Host()
    session = host.register()
    mine = (put(b"k", b"mine", 1), delete(b"gone", sequence=2))
    host.do(put(b"gone"))
    first = host.write(session, *mine)
    assert first == [Written(3), Deleted(4, 1)]
    # Somebody else writes in between: a retry that applied again would undo that, silently.
    host.do(put(b"k", b"theirs"), put(b"gone", b"back"))
    if reopen:
        host.reopen()
    assert host.write(session, *mine) == first
    pair, back = host.get(b"k"), host.get(b"gone")
    assert pair is not None
    assert pair.value == b"theirs"
    assert back is not None
    assert host.machine.revision == 6


def test_bug_44_control_without_a_session_a_retry_applies_twice() -> None:
    host = Host()
    first = host.do(put(b"k", b"mine", 1))
    host.do(put(b"k", b"theirs"))
    assert host.do(put(b"k", b"mine", 1)) != first
    pair = host.get(b"k")
    assert pair is not None
    assert pair.value == b"mine"


def test_bug_31_sessions_are_part_of_a_snapshot() -> None:
    host = Host()
    session = host.register()
    first = host.write(session, put(b"k", b"v", 1))
    with host.store.read() as reader:
        snapshot = DictStore(dict(reader.scan(b"\0", None)))
    follower = Host(snapshot)
    assert follower.write(session, put(b"k", b"v", 1)) == first
    assert follower.machine.revision == host.machine.revision
    assert follower.hash() != host.hash()
    host.write(session, put(b"k", b"v", 1))
    assert follower.hash() == host.hash()


def crash_everywhere(*, torn: bool) -> list[bool]:
    """Crash before each write of a transaction, recover, apply the rest of the log; say where the state came out right.

    `torn`: as if the store's writes were not atomic.
    """
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1), put(b"gone", b"1", 2))
    assert isinstance(host.store, DictStore)
    before = dict(host.store.rows)
    entries = [
        entry(3, Group(session, 1, (put(b"k", b"2", 3), delete(b"gone", sequence=4)))),
        entry(4, Group(session, 3, (put(b"k", b"3", 5),)), Group(0, 0, (put(b"k", b"4"),))),
    ]
    expected = StateMachine(DictStore(before))
    expected.apply(entries)

    right = []
    for crash_at in range(100):
        store = CrashingStore(before, crash_at, torn=torn)
        machine = StateMachine(store)
        try:
            machine.apply(entries)
        except Crash:
            recovered = StateMachine(DictStore(store.rows))
            recovered.apply(entries[recovered.applied_index - 2 :])
            right.append(state_hash(recovered) == state_hash(expected))
        else:
            return right
    raise AssertionError("the transaction never came to its end")


def test_bug_37_applied_index_is_atomic_with_the_state() -> None:
    right = crash_everywhere(torn=False)
    assert len(right) >= 8
    assert all(right)


def test_bug_37_control_torn_writes_are_noticed() -> None:
    assert not all(crash_everywhere(torn=True))


def test_bug_48_the_revision_does_not_depend_on_the_rows() -> None:
    """A compaction may remove the newest rows of all (tombstones); the revision must survive it."""
    host = Host()
    host.do(put(b"k"), delete(b"k"))
    assert isinstance(host.store, DictStore)
    with host.store.write() as writer:
        for key in [key for key in host.store.order if key.startswith(VERSIONS)]:
            writer.delete(key)
    host.reopen()
    assert host.machine.revision == 3
    assert host.do(Put(0, b"k", b"v")) == [Written(4)]
