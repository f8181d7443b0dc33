"""The oracle notices what it is there to notice, of transactions, leases, locks and watches: each property by a history
that breaks only it. The histories come from the real state machine, but for what is wrong about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import (
    Acquire,
    Batch,
    Branch,
    BranchDone,
    Command,
    Compact,
    Compacted,
    Compare,
    Expire,
    Expired,
    Fence,
    FenceMode,
    GrantLease,
    Group,
    KeepAlive,
    KeptAlive,
    LockKind,
    Place,
    Proclaim,
    PutDone,
    RegisterSession,
    Rejected,
    Release,
    Released,
    Result,
    RevokeLease,
    Sweep,
    Target,
    Txn,
    TxnDone,
    TxnOperation,
    TxnPut,
)
from raftkv.kv.keys import place_prefix
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.kv.records import TOMBSTONE, PlaceRecord, encode_place, encode_version
from raftkv.kv.writing import Change
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.v1 import common_pb2, kv_pb2, lease_pb2, watch_pb2
from tests.sim.l1.oracle import Call, Oracle
from tests.sim.l1.watching import Watched, Wish

LOCK = b"lock"


class Run:
    """A history under way."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        self.time_s = 0.0
        """Virtual time."""
        self.time_ms = 0
        """Cluster time."""
        self.oracle = Oracle([1, 2, 3], self.reports.append, now=lambda: self.time_s)
        self._machine = StateMachine(MemoryOrderedStore())
        self._index = 0

    def do(
        self, command: Command, result: Result | None = None, changes: Sequence[Change] | None = None, session: int = 0
    ) -> Any:
        """Apply a command; the oracle is told of this result and these changes, where they are given."""
        self._index += 1
        payload = encode_batch(Batch(self.time_ms, (Group(session, 0, (command,)),)))
        entry = AppliedEntry(self._index, 1, payload)
        doctored = result is not None or changes is not None
        (real,) = self._machine.apply([entry]) if not doctored else [None]
        if real is not None:
            ((result,),), changes = real
        assert result is not None
        self.oracle.applied(1, entry, ([result],), list(changes or ()))
        return result

    @property
    def next(self) -> int:
        """The next revision."""
        return self.oracle.revision + 1

    def lease(self, ttl_ms: int = 1000) -> int:
        lease: int = self.do(GrantLease(0, 0, ttl_ms)).lease
        return lease

    def hold(self, *, exclusive: bool = True, kind: LockKind = LockKind.MUTEX, limit: int = 0) -> tuple[int, Any]:
        """Ask for the lock with a new lease. Return (lease, place)."""
        lease = self.lease()
        return lease, self.do(Acquire(0, LOCK, lease, kind, exclusive, limit, b"", True))

    def place(
        self,
        lease: int,
        token: int,
        *,
        ticket: int = 0,
        exclusive: bool = True,
        kind: LockKind = LockKind.MUTEX,
        limit: int = 0,
    ) -> Change:
        """Return what makes or changes a place at the next revision."""
        value = encode_place(PlaceRecord(token, lease, kind, exclusive, limit, b""))
        row = encode_version(self.next, 1, lease, value)
        return Change(self.next, place_prefix(LOCK, ticket or self.next), row, None, 0)

    def grants(self, token: int, **of: Any) -> None:
        """Grant another place at once, to a lease of its own."""
        lease = self.lease()
        change = self.place(lease, token, **of)
        exclusive, kind, limit = of.get("exclusive", True), of.get("kind", LockKind.MUTEX), of.get("limit", 0)
        command = Acquire(0, LOCK, lease, kind, exclusive, limit, b"", True)
        self.do(command, Place(token, self.next, self.next), [change])

    def put(self, key: bytes, value: bytes = b"v", *, lease: int = 0, fences: tuple[Fence, ...] = ()) -> Any:
        return self.do(put(key, value, lease=lease, fences=fences))


def txn(*then: TxnOperation, compares: tuple[Compare, ...] = (), fences: tuple[Fence, ...] = ()) -> Txn:
    return Txn(0, fences, Branch(compares, then, ()))


def put(key: bytes, value: bytes = b"v", *, lease: int = 0, fences: tuple[Fence, ...] = ()) -> Txn:
    return txn(TxnPut(key, value, lease, False), fences=fences)


# --- locks ------------------------------------------------------------------------------------------------------------


def two_hold_a_mutex(run: Run) -> None:
    run.hold()
    run.grants(2)


def a_writer_beside_a_reader(run: Run) -> None:
    run.hold(exclusive=False, kind=LockKind.READ_WRITE)
    run.grants(2, kind=LockKind.READ_WRITE)


def too_many_hold_a_semaphore(run: Run) -> None:
    semaphore = {"exclusive": False, "kind": LockKind.SEMAPHORE, "limit": 2}
    run.hold(exclusive=False, kind=LockKind.SEMAPHORE, limit=2)
    run.hold(exclusive=False, kind=LockKind.SEMAPHORE, limit=2)
    run.grants(3, **semaphore)


def a_token_is_given_again(run: Run) -> None:
    lease, _ = run.hold()
    run.do(Release(0, LOCK, lease))
    run.grants(1)


def a_reader_overtakes(run: Run) -> None:
    run.hold(exclusive=False, kind=LockKind.READ_WRITE)
    run.hold(kind=LockKind.READ_WRITE)  # it waits
    run.grants(2, exclusive=False, kind=LockKind.READ_WRITE)


def nobody_is_next(run: Run) -> None:
    lease, _ = run.hold()
    run.hold()
    result = Released(True, run.next)
    place = run.oracle.state.lines[LOCK]
    (ticket,) = [ticket for ticket, one in place.places.items() if one.lease == lease]
    run.do(Release(0, LOCK, lease), result, [Change(run.next, place_prefix(LOCK, ticket), TOMBSTONE, None, 0)])


def a_lease_has_two_places(run: Run) -> None:
    lease, _ = run.hold()
    command = Acquire(0, LOCK, lease, LockKind.MUTEX, True, 0, b"", True)
    run.do(command, Place(0, run.next, run.next), [run.place(lease, 0)])


def a_repeated_acquire_has_another_token(run: Run) -> None:
    lease, place = run.hold()
    run.do(Acquire(0, LOCK, lease, LockKind.MUTEX, True, 0, b"", True), place._replace(token=place.token + 1))


def a_place_is_taken_by_nobody(run: Run) -> None:
    _, place = run.hold()
    done = TxnDone(run.next, BranchDone(True, (PutDone(None),)))
    change = Change(run.next, b"\x02k\0\0", encode_version(run.next, 1, 0, b"v"), None, 0)
    gone = Change(run.next, place_prefix(LOCK, place.ticket), TOMBSTONE, None, 0)
    run.do(put(b"k"), done, [change, gone])


# --- fences -----------------------------------------------------------------------------------------------------------


def _passes(run: Run, fence: Fence) -> None:
    done = TxnDone(run.next, BranchDone(True, (PutDone(None),)))
    change = Change(run.next, b"\x02k\0\0", encode_version(run.next, 1, 0, b"v"), None, 0)
    run.do(put(b"k", fences=(fence,)), done, [change])


def a_token_of_nobody_passes(run: Run) -> None:
    lease, place = run.hold()
    run.do(Release(0, LOCK, lease))
    _passes(run, Fence(LOCK, place.token, FenceMode.HOLDER))


def a_token_of_a_dead_lease_passes(run: Run) -> None:
    _, place = run.hold()
    run.time_ms = 1001
    _passes(run, Fence(LOCK, place.token, FenceMode.HOLDER))


def an_older_token_passes(run: Run) -> None:
    lease, place = run.hold()
    run.do(Release(0, LOCK, lease))
    run.hold()
    _passes(run, Fence(LOCK, place.token, FenceMode.MAX_SEEN))


def a_good_token_is_refused(run: Run) -> None:
    _, place = run.hold()
    fence = Fence(LOCK, place.token, FenceMode.HOLDER)
    run.do(put(b"k", fences=(fence,)), Rejected(ErrorCode.STALE_FENCE, "", place.token))


def a_proclamation_of_somebody_else(run: Run) -> None:
    run.hold()
    lease = run.lease()
    run.do(Proclaim(0, LOCK, lease, 1, b""), run.do(Proclaim(0, LOCK, 1, 1, b"")))


# --- leases -----------------------------------------------------------------------------------------------------------


def a_lease_is_expired_early(run: Run) -> None:
    run.lease()
    run.time_ms = 1000
    run.do(Expire(0), Expired(1))


def a_renewed_lease_is_expired(run: Run) -> None:
    lease = run.lease()
    run.time_ms = 900
    run.do(KeepAlive(0, (lease,)))
    run.time_ms = 1100
    run.do(Expire(0), Expired(1))


def a_lease_is_not_expired(run: Run) -> None:
    run.lease()
    run.time_ms = 1001
    run.do(Expire(0), Expired(0))


def a_dead_lease_is_renewed(run: Run) -> None:
    lease = run.lease()
    run.time_ms = 1001
    run.do(KeepAlive(0, (lease,)), KeptAlive((1000,)))


def a_living_lease_is_refused(run: Run) -> None:
    lease = run.lease()
    run.do(RevokeLease(0, lease), Rejected(ErrorCode.LEASE_NOT_FOUND, ""))


def a_key_outlives_its_lease(run: Run) -> None:
    lease = run.lease()
    run.put(b"k", lease=lease)
    run.time_ms = 1001
    run.do(Expire(0), Expired(1))


def a_place_outlives_its_lease(run: Run) -> None:
    run.hold()
    run.time_ms = 1001
    run.do(Expire(0), Expired(1))


def a_lease_ends_before_its_owner_was_told(run: Run) -> None:
    lease = run.lease()
    run.oracle.lease_promised(lease, 0.0, 1000)
    run.time_ms, run.time_s = 1001, 0.9995
    run.do(Expire(0))


def an_owner_is_told_too_late(run: Run) -> None:
    lease = run.lease()
    run.time_ms, run.time_s = 1001, 0.9995
    run.do(Expire(0))
    run.oracle.lease_promised(lease, 0.0, 1000)


def cluster_time_is_faster_than_clocks(run: Run) -> None:
    run.oracle.times.stamped(1, 1, 1, 0)
    run.time_s = 1.0
    run.oracle.times.stamped(1, 1, 2, 1100)


def a_new_leader_begins_in_the_future(run: Run) -> None:
    times = run.oracle.times
    times.stamped(1, 1, 1, 0)
    times.applied(1, 1, 0)
    run.time_s = 1.0
    times.stamped(2, 2, 2, 1100)
    times.applied(2, 2, 1100)


def a_pause_counts_as_time(run: Run) -> None:
    times = run.oracle.times
    times.stamped(1, 1, 1, 0)
    run.time_s = 2.0
    times.stood_still(1, 0.1)
    times.stamped(1, 1, 2, 2000)


# --- transactions, exactly once, totals, compaction -------------------------------------------------------------------


def another_result_for_the_same_sequence(run: Run) -> None:
    run.do(RegisterSession(0))
    granted = run.do(GrantLease(1, 0, 1000), session=1)
    run.do(GrantLease(1, 0, 1000), granted._replace(lease=2), session=1)


def a_transaction_takes_the_wrong_way(run: Run) -> None:
    run.put(b"k")
    compare = Compare(b"k", b"", Target.VERSION, 0, 2)
    done = TxnDone(run.oracle.revision, BranchDone(True, ()))
    run.do(txn(compares=(compare,)), done)


def a_transaction_does_half_of_it(run: Run) -> None:
    command = txn(TxnPut(b"a", b"1", 0, False), TxnPut(b"b", b"1", 0, False))
    done = TxnDone(run.next, BranchDone(True, (PutDone(None), PutDone(None))))
    change = Change(run.next, b"\x02a\0\0", encode_version(run.next, 1, 0, b"1"), None, 0)
    run.do(command, done, [change])


def an_update_of_a_counter_is_lost(run: Run) -> None:
    run.put(b"counter-0", b"1")
    run.put(b"counter-0", b"1")


def an_account_is_filled_from_nowhere(run: Run) -> None:
    run.put(b"account-0", b"300")
    run.put(b"account-1", b"1")


def what_nobody_asked_for(run: Run) -> None:
    change = Change(run.next, b"\x02k\0\0", encode_version(run.next, 1, 0, b"v"), None, 0)
    run.do(KeepAlive(0, (1,)), KeptAlive((0,)), [change])


def compaction_goes_back(run: Run) -> None:
    run.put(b"k")
    run.put(b"k")
    run.do(Compact(0, 3))
    run.do(Compact(0, 2), Compacted(2))


def history_is_refused_that_is_there(run: Run) -> None:
    run.put(b"k")
    run.do(Compact(0, 2))
    run.oracle.refused_as_compacted(2)


# --- what clients are told --------------------------------------------------------------------------------------------


def _call(run: Run) -> Call:
    call = Call(kv_pb2.Operation(lease_grant=lease_pb2.LeaseGrantRequest(ttl_ms=1000)), 1, 1)
    run.oracle.asks(call)
    return call


def told_something_else(run: Run) -> None:
    call = _call(run)
    run.do(RegisterSession(0))
    run.do(GrantLease(1, 0, 1000), session=1)
    grant = lease_pb2.LeaseGrantResponse(id=77, ttl_ms=1000)
    run.oracle.told(call, kv_pb2.OperationResult(lease_grant=grant))


def a_call_had_an_effect(run: Run) -> None:
    call = _call(run)
    run.oracle.had_no_effect(call)
    run.do(Compact(1, 1), Compacted(1), session=1)


# --- watches ----------------------------------------------------------------------------------------------------------


def _watch(run: Run, **of: Any) -> Watched:
    watched = run.oracle.watch(Wish(b"k", **of))
    watched.created(1)
    return watched


def _event(revision: int, value: bytes = b"v", *, version: int = 1, create: int = 2) -> watch_pb2.Event:
    pair = kv_pb2.KeyValue(key=b"k", create_revision=create, mod_revision=revision, version=version, value=value)
    return watch_pb2.Event(kv=pair)


def a_gap(run: Run) -> None:
    run.put(b"k")
    run.put(b"k")
    _watch(run).told([_event(3, version=2)], fragment=False)


def a_repeat(run: Run) -> None:
    run.put(b"k")
    watched = _watch(run)
    watched.told([_event(2)], fragment=False)
    watched.told([_event(2)], fragment=False)


def another_value(run: Run) -> None:
    run.put(b"k")
    _watch(run).told([_event(2, b"w")], fragment=False)


def what_was_never_committed(run: Run) -> None:
    _watch(run).told([_event(2)], fragment=False)


def half_a_revision(run: Run) -> None:
    run.do(txn(TxnPut(b"k", b"v", 0, False), TxnPut(b"l", b"v", 0, False)))
    _watch(run, range_end=b"\0").told([_event(2)], fragment=False)


def a_promise_that_is_not_kept(run: Run) -> None:
    run.put(b"k")
    _watch(run).everything_up_to(2)


def resumed_somewhere_else(run: Run) -> None:
    watched = _watch(run)
    watched.resumed()
    watched.created(2)


def ended_without_a_compaction(run: Run) -> None:
    run.put(b"k")
    _watch(run).compacted(3)


BAD: dict[Callable[[Run], None], str] = {
    two_hold_a_mutex: "mutual exclusion",
    a_writer_beside_a_reader: "mutual exclusion",
    too_many_hold_a_semaphore: "mutual exclusion",
    a_token_is_given_again: "tokens",
    a_reader_overtakes: "line",
    nobody_is_next: "line",
    a_lease_has_two_places: "line",
    a_repeated_acquire_has_another_token: "line",
    a_place_is_taken_by_nobody: "lease",
    a_token_of_nobody_passes: "fence",
    a_token_of_a_dead_lease_passes: "fence",
    an_older_token_passes: "fence",
    a_good_token_is_refused: "fence",
    a_proclamation_of_somebody_else: "fence",
    a_lease_is_expired_early: "lease",
    a_renewed_lease_is_expired: "lease",
    a_lease_is_not_expired: "lease",
    a_dead_lease_is_renewed: "lease",
    a_living_lease_is_refused: "lease",
    a_key_outlives_its_lease: "lease",
    a_place_outlives_its_lease: "lease",
    a_lease_ends_before_its_owner_was_told: "lease in time",
    an_owner_is_told_too_late: "lease in time",
    cluster_time_is_faster_than_clocks: "cluster time",
    a_new_leader_begins_in_the_future: "cluster time",
    a_pause_counts_as_time: "cluster time",
    another_result_for_the_same_sequence: "exactly once",
    a_transaction_takes_the_wrong_way: "transaction",
    a_transaction_does_half_of_it: "transaction",
    an_update_of_a_counter_is_lost: "totals",
    an_account_is_filled_from_nowhere: "totals",
    what_nobody_asked_for: "exactly once",
    compaction_goes_back: "compaction",
    history_is_refused_that_is_there: "compaction",
    told_something_else: "acknowledged",
    a_call_had_an_effect: "no effect",
    a_gap: "watch",
    a_repeat: "watch",
    another_value: "watch",
    what_was_never_committed: "watch",
    half_a_revision: "watch",
    a_promise_that_is_not_kept: "watch",
    resumed_somewhere_else: "watch",
    ended_without_a_compaction: "compaction",
}


@pytest.mark.parametrize("history", BAD, ids=lambda history: str(history.__name__))
def test_a_bad_history_is_noticed(history: Callable[[Run], None]) -> None:
    run = Run()
    history(run)
    assert run.reports
    assert {report.split(":")[0] for report in run.reports} == {BAD[history]}, run.reports


def test_a_good_history_is_not_reported() -> None:
    run = Run()
    watched = run.oracle.watch(Wish(b"k", previous=True))
    watched.created(1)
    first, place = run.hold()
    second, _ = run.hold()
    run.oracle.lease_promised(first, 0.0, 1000)
    fence = Fence(LOCK, place.token, FenceMode.HOLDER)
    run.put(b"k", lease=second, fences=(fence,))
    run.time_ms, run.time_s = 900, 1.0
    run.do(KeepAlive(0, (second,)))
    run.time_ms, run.time_s = 1001, 1.1
    assert run.put(b"k", fences=(fence,)).code is ErrorCode.STALE_FENCE
    run.do(Expire(0))
    assert run.put(b"k", fences=(Fence(LOCK, 2, FenceMode.MAX_SEEN),)) == TxnDone(6, BranchDone(True, (PutDone(None),)))
    run.do(Compact(0, 5))
    run.do(Sweep(0))
    assert run.do(RevokeLease(0, second)).revision == 7
    revisions = [event.revision for events in run.oracle.state.events.values() for event in events]
    assert revisions == [2, 3, 4, 5, 5, 6, 7]
    before = kv_pb2.KeyValue(key=b"k", create_revision=4, mod_revision=4, version=1, lease=second, value=b"v")
    watched.told([watch_pb2.Event(kv=before)], fragment=False)
    after = _event(6, version=2, create=4)
    after.prev_kv.CopyFrom(before)
    watched.told([after], fragment=True)
    watched.resumed()
    watched.told([after], fragment=False)
    watched.everything_up_to(7)
    assert run.reports == []
    assert watched.next == 8


def test_a_call_that_was_refused_is_compared_with_the_log() -> None:
    run = Run()
    call = _call(run)
    rejected = Rejected(ErrorCode.LEASE_NOT_FOUND, "gone")
    run.do(RevokeLease(1, 7), rejected, session=1)
    error = common_pb2.Error(code=common_pb2.LEASE_NOT_FOUND, message="gone")
    run.oracle.told(call, kv_pb2.OperationResult(error=error))
    assert run.reports == []
    error.number = 1
    run.oracle.told(call, kv_pb2.OperationResult(error=error))
    assert run.reports[0].startswith("acknowledged: ")
