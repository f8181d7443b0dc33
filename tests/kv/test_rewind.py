"""A state rewound to a revision answers as the original did there, and goes on from there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import Compacted, FutureRevision
from raftkv.kv import commands as c
from raftkv.kv.commands import Command, FenceMode, KeyValue, LockKind
from raftkv.kv.epoch import EPOCH_BITS, LEASE_GAP_BITS, MAX_EPOCH, epoch_of, epochs_at, in_epoch, next_epoch
from raftkv.kv.history import Cursor, Want
from raftkv.kv.keys import is_place
from raftkv.kv.ranges import RangeQuery
from raftkv.kv.records import EMPTY_META, read_meta
from raftkv.kv.rewind import rewind

from .dict_store import DictStore
from .host import Host, delete, put

ALL = RangeQuery(b"\0", b"\0")
KEYS = st.sampled_from([b"a", b"a\0", b"b", b"b\xff"])
LEASES = st.sampled_from([0, 1, 2, 7])
LOCKS = st.sampled_from([b"l", b"m\0"])


def put_leased(key: bytes, lease: int) -> c.Txn:
    return c.Txn(0, (), c.Branch((), (c.TxnPut(key, b"leased", lease, False),), ()))


def acquire(lock: bytes, lease: int) -> c.Acquire:
    return c.Acquire(0, lock, lease, LockKind.MUTEX, True, 0, b"shown", True)


COMMANDS = st.one_of(
    st.builds(put, KEYS, st.sampled_from([b"", b"1", b"2" * 5000])),
    st.builds(put_leased, KEYS, LEASES),
    st.builds(delete, KEYS, st.sampled_from([b"", b"\0"])),
    st.builds(c.GrantLease, st.just(0), st.sampled_from([0, 7]), st.sampled_from([500, 2000])),
    st.builds(c.RevokeLease, st.just(0), LEASES),
    st.just(c.Expire(0)),
    st.builds(acquire, LOCKS, LEASES),
    st.builds(c.Release, st.just(0), LOCKS, LEASES),
    st.builds(c.Compact, st.just(0), st.integers(1, 12)),
    st.just(c.Sweep(0)),
)
STEPS = st.lists(st.tuples(st.integers(0, 900), st.lists(COMMANDS, min_size=1, max_size=4)), min_size=1, max_size=12)


def rewound(host: Host, revision: int) -> Host:
    store = DictStore()
    with host.store.read() as reader:
        rows = list(rewind(reader, revision))
    assert [key for key, _ in rows] == sorted({key for key, _ in rows})
    with store.write() as writer:
        for key, value in rows:
            writer.put(key, value)
    return Host(store)


def history(host: Host, first: int, last: int) -> list[Any]:
    """The changes of keys, as a watch is told them."""

    def wants(revision: int, prefix: bytes) -> Want:
        return Want.NOTHING if is_place(prefix) else Want.WITH_PREVIOUS

    with host.machine.view() as view:
        return view.history(Cursor(first), last + 1, wants, 1 << 30).changes


def at(host: Host, revision: int) -> dict[bytes, KeyValue]:
    return {pair.key: pair for pair in host.range(ALL._replace(revision=revision)).pairs}


def check(host: Rewindable, revision: int) -> None:
    past = rewound(host, revision)
    before, after = host.machine, past.machine
    first = max(before.compacted_revision, 1)
    for one in range(first, revision + 1):
        assert at(past, one) == at(host, one)
    assert history(past, first, revision) == history(host, first, revision)
    if before.compacted_revision > 1:
        with pytest.raises(Compacted):
            at(past, before.compacted_revision - 1)
    # What its lease has ended with is gone, the rest is as it was.
    with host.machine.view() as view:
        alive = {
            lease
            for lease in view.leases(0, 1000)[0]
            if (info := view.lease(lease)) is not None and info.deadline_ms > view.meta.time_ms
        }
        counted = view.meta
    kept = {key: pair for key, pair in at(host, revision).items() if not pair.lease or pair.lease in alive}
    assert at(past, 0) == kept
    with past.machine.view() as view:
        assert view.leases(0, 1000)[0] == tuple(sorted(alive))
        for lease in alive:
            info = view.lease(lease, with_keys=True)
            assert info is not None
            assert info.keys == tuple(sorted(key for key, pair in kept.items() if pair.lease == lease))
        for lock in (b"l", b"m\0"):
            with host.machine.view() as now:
                was = now.line(lock, 10)
            line = view.line(lock, 10)
            assert (line.contenders, line.newest_token, line.floor_token) == ((), was.newest_token, was.floor_token)
        assert view.meta == counted._replace(revision=view.meta.revision)
    assert after.session_count == 0
    assert revision <= after.revision <= revision + 4
    goes_on(past, host)


def goes_on(past: Host, host: Rewindable) -> None:
    past.now = host.now
    newest = past.machine.revision
    assert past.do(put(b"a")) == [c.Written(newest + 1)]
    lease = past.grant()
    assert lease > host.machine_counters().last_lease
    for lock in (b"l", b"m\0"):
        (place,) = past.do(acquire(lock, lease))
        assert isinstance(place, c.Place)
        assert place.token > host.machine_counters().last_token
        # A contender with a ticket lower than tickets of the old state waits, and is granted in turn.
        other = past.grant()
        past.do(acquire(lock, other))
        past.do(c.Release(0, lock, lease))
        with past.machine.view() as view:
            (holder,) = view.line(lock, 10).contenders
        assert (holder.lease, holder.token) == (other, place.token + 1)
        fence = c.Fence(lock, holder.token, FenceMode.HOLDER)
        (done,) = past.do(c.Txn(0, (fence,), c.Branch((), (c.TxnPut(b"f", b"", 0, False),), ())))
        assert isinstance(done, c.TxnDone)
    past.now += 100_000
    past.do(c.Expire(0), c.Expire(0))
    past.do(put(b"a"))  # compaction keeps what its own revision changed
    past.do(c.Compact(0, past.machine.revision))
    while past.machine.unswept:
        past.do(c.Sweep(0))
    past.reopen()
    assert not any(pair.lease for pair in at(past, 0).values())
    assert {key for key, _ in past.versions()} == at(past, 0).keys()


class Rewindable(Host):
    def machine_counters(self) -> Any:
        with self.store.read() as reader:
            return read_meta(reader)


@settings(max_examples=40)
@given(STEPS)
def test_a_rewound_state_answers_as_the_original_did(steps: list[tuple[int, list[Command]]]) -> None:
    host = Rewindable()
    host.do(c.GrantLease(0, 0, 1000), c.GrantLease(0, 0, 3000))
    host.register()
    for passed_ms, commands in steps:
        host.now += passed_ms
        host.do(*commands)
    for revision in range(max(host.machine.compacted_revision, 1), host.machine.revision + 1):
        check(host, revision)
    with host.store.read() as reader:
        with pytest.raises(FutureRevision, match=f"the store is at {host.machine.revision}"):
            next(rewind(reader, host.machine.revision + 1))
        if host.machine.compacted_revision > 1:
            with pytest.raises(Compacted, match=f"begins at {host.machine.compacted_revision}"):
                next(rewind(reader, host.machine.compacted_revision - 1))


def test_leases_that_ended_are_ended_one_revision_each() -> None:
    host = Host()
    leases = [host.grant() for _ in range(3)]
    host.do(*[put_leased(b"%d/%d" % (lease, number), lease) for lease in leases for number in range(2)])
    revision = host.machine.revision
    host.do(c.RevokeLease(0, leases[0]), c.RevokeLease(0, leases[2]))
    past = rewound(host, revision)
    assert past.machine.revision == revision + 2
    ended = [(one.revision, one.prefix[1:-2]) for one in history(past, revision + 1, revision + 2)]
    assert ended == [(revision + 1, b"1/0"), (revision + 1, b"1/1"), (revision + 2, b"3/0"), (revision + 2, b"3/1")]
    assert set(at(past, 0)) == {b"2/0", b"2/1"}


def test_readers_of_before_pass_no_fence_once_another_one_was_let_in() -> None:
    host = Host()
    lease = host.grant()
    read = c.Acquire(0, b"l", lease, LockKind.READ_WRITE, False, 0, b"", True)
    (old,) = host.do(read)
    assert isinstance(old, c.Place)
    past = rewound(host, host.machine.revision)
    past.do(read)
    (refused,) = past.do(c.Txn(0, (c.Fence(b"l", old.token, FenceMode.MAX_SEEN),), c.Branch((), (), ())))
    assert isinstance(refused, c.Rejected)


def test_epochs_go_up_whatever_the_clock_says() -> None:
    assert next_epoch(EMPTY_META, 200_000_000) == 200_000_000
    assert next_epoch(EMPTY_META, -5) == 1
    restored = in_epoch(EMPTY_META, 200_000_000)
    assert epoch_of(restored) == 200_000_000
    assert next_epoch(restored, 200_000_000) == next_epoch(restored, 0) == 200_000_001
    assert next_epoch(EMPTY_META, 2 * MAX_EPOCH) == MAX_EPOCH
    assert in_epoch(EMPTY_META, MAX_EPOCH).last_token < 2**64


def test_an_epoch_is_above_all_that_a_cluster_restored_earlier_gives_by_then() -> None:
    busy = in_epoch(EMPTY_META, 200_000_000)
    # A million tokens each second, for a day: the counter has run on, and the clock is ahead of it.
    by_then = busy._replace(last_token=busy.last_token + 86_400 * 1_000_000)
    assert in_epoch(EMPTY_META, next_epoch(EMPTY_META, 200_000_000 + 86_400)).last_token > by_then.last_token
    # More sessions than tokens: they count, too.
    assert epoch_of(EMPTY_META._replace(last_session=7 << EPOCH_BITS)) == 7


def test_epochs_that_may_be_asked_for_are_near_the_clock_and_above_the_backup() -> None:
    now = 200_000_000
    assert epochs_at(EMPTY_META, now) == range(now - 86_400, now + 3_601)
    behind, ahead = in_epoch(EMPTY_META, now - 10), in_epoch(EMPTY_META, now + 10)
    assert epochs_at(behind, now) == range(now - 9, now + 3_601)
    assert epochs_at(ahead, now) == range(now + 11, now + 11 + 3_601)
    for meta in (EMPTY_META, behind, ahead):
        assert next_epoch(meta, now) in epochs_at(meta, now)


def test_numbers_of_a_new_epoch_lie_above_all_that_the_old_cluster_can_give() -> None:
    busy = EMPTY_META._replace(last_token=12, last_session=90, last_lease=2**63 - 1)
    restored = in_epoch(busy, 4)
    assert restored.last_token == restored.last_session == 4 << EPOCH_BITS
    assert restored.last_lease == busy.last_lease + (1 << LEASE_GAP_BITS)
    assert restored._replace(last_token=12, last_session=90, last_lease=2**63 - 1) == busy
