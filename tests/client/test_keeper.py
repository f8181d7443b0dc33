"""Keeping leases alive. The clock is a number, and a test is the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from raftkv.client.calls import Kind
from raftkv.client.keeper import MAX_IDLE, Keeper, KeptLease
from raftkv.client.lease import AsyncLease
from raftkv.errors import ConnectionFailed, DeadlineExceeded, InvalidArgument, LeaseExpired, NoLeader, RaftKVError
from raftkv.v1 import kv_pb2


async def no_wait() -> None:
    """Answer at once."""


class Store:
    """Answers what a keeper asks, at once, and has the keeper's clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[kv_pb2.Operation] = []
        self.timeouts: list[float | None] = []
        self.ends: set[int] = set()
        """Leases that are gone."""
        self.failure: RaftKVError | None = None
        self.answer: kv_pb2.OperationResult | None = None
        self.before_answer: Callable[[], None] = lambda: None
        self.wait: Callable[[], Awaitable[None]] = no_wait

    def clock(self) -> float:
        return self.now

    async def perform(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None
    ) -> kv_pb2.OperationResult:
        assert kind is Kind.WRITE
        assert operation.ByteSize() <= size_bytes
        self.asked.append(operation)
        self.timeouts.append(timeout)
        self.before_answer()
        await self.wait()
        if self.failure is not None:
            raise self.failure
        result = kv_pb2.OperationResult()
        if self.answer is not None:
            return self.answer
        if operation.HasField("lease_grant"):
            result.lease_grant.id = len(self.asked)
            result.lease_grant.ttl_ms = operation.lease_grant.ttl_ms
        elif operation.HasField("lease_keep_alive"):
            ids = operation.lease_keep_alive.ids
            result.lease_keep_alive.ttls_ms.extend(0 if one in self.ends else 9_000 for one in ids)
        return result

    def renewals(self) -> list[list[int]]:
        return [list(one.lease_keep_alive.ids) for one in self.asked if one.HasField("lease_keep_alive")]

    def revoked(self) -> list[int]:
        return [one.lease_revoke.id for one in self.asked if one.HasField("lease_revoke")]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def keeper(store: Store) -> AsyncIterator[Keeper]:
    keeper = Keeper(store.perform, 10.0, store.clock)
    yield keeper
    await keeper.close()


async def passes(keeper: Keeper, store: Store, seconds: float) -> None:
    """Let time pass, and whatever it sets off happen."""
    store.now += seconds
    keeper._tick()
    while keeper._renewals:
        await asyncio.gather(*keeper._renewals)


async def test_all_leases_of_a_client_are_renewed_in_one_operation(keeper: Keeper, store: Store) -> None:
    leases = []
    for _ in range(5):
        leases.append(await keeper.grant(9.0))
        store.now += 0.1
    await passes(keeper, store, 2.0)
    assert store.renewals() == []
    await passes(keeper, store, 0.6)  # the first one is due: the others go along
    assert store.renewals() == [[lease.id for lease in leases]]
    await passes(keeper, store, 1.0)
    assert len(store.renewals()) == 1
    await passes(keeper, store, 2.0)
    assert len(store.renewals()) == 2
    assert [lease.remaining() for lease in leases] == pytest.approx([9.0 - 0.45] * 5)


async def test_only_a_lease_that_is_due_sooner_moves_the_timer(keeper: Keeper) -> None:
    await keeper.grant(30.0)
    before = keeper._timer
    assert before is not None
    await keeper.grant(30.0)
    assert keeper._timer is before
    await keeper.grant(0.6)
    assert before.cancelled()
    assert keeper._timer is not None
    assert keeper._timer.when() < before.when()


async def test_more_than_a_thousand_go_in_several(keeper: Keeper, store: Store) -> None:
    for _ in range(1_001):
        await keeper.grant(9.0)
    await passes(keeper, store, 3.0)
    assert [len(ids) for ids in store.renewals()] == [1_000, 1]


async def test_a_renewal_counts_from_before_it_was_sent(keeper: Keeper, store: Store) -> None:
    def slow() -> None:
        store.now += 2.0

    store.before_answer = slow
    lease = await keeper.grant(9.0)
    assert lease.remaining() == pytest.approx(9.0 - 0.45 - 2.0)
    await passes(keeper, store, 1.0)  # due at 3 s after sending
    assert lease.remaining() == pytest.approx(9.0 - 0.45 - 2.0)


async def test_an_attempt_ends_in_time_for_another_one(keeper: Keeper, store: Store) -> None:
    await keeper.grant(9.0)
    await passes(keeper, store, 3.0)
    assert store.timeouts[-1] == 3.0


async def test_a_failure_is_tried_again_until_the_margin_and_then_the_lease_is_lost(
    keeper: Keeper, store: Store
) -> None:
    lease = await keeper.grant(9.0)
    told: list[float] = []
    lease.on_end(lambda: told.append(store.now))
    store.failure = NoLeader("nobody")
    while lease.alive():
        assert store.now < 1008.55
        await passes(keeper, store, 0.25)
    await asyncio.sleep(0)
    assert told == [pytest.approx(1008.75)]
    assert len(store.renewals()) == pytest.approx(8, abs=1)
    store.failure = None
    await passes(keeper, store, 1.0)
    assert not lease.alive()
    assert lease.remaining() == 0


async def test_a_failure_that_passes_costs_nothing(keeper: Keeper, store: Store) -> None:
    lease = await keeper.grant(9.0)
    store.failure = DeadlineExceeded("slow", ambiguous=True)
    await passes(keeper, store, 3.0)
    store.failure = None
    await passes(keeper, store, 1.0)
    assert lease.alive()
    assert lease.remaining() == pytest.approx(9.0 - 0.45)


async def test_a_renewal_that_finds_no_lease_ends_it_at_once(keeper: Keeper, store: Store) -> None:
    gone, kept = await keeper.grant(9.0), await keeper.grant(9.0)
    store.ends = {gone.id}
    await passes(keeper, store, 3.0)
    assert not gone.alive()
    assert gone.remaining() == 0
    assert kept.alive()


async def test_whoever_looks_first_after_a_hang_sees_that_it_is_over(keeper: Keeper, store: Store) -> None:
    lease = await keeper.grant(9.0)
    store.now += 8.56  # the loop hung: no tick came
    assert lease.remaining() == 0
    assert not lease.alive()
    await passes(keeper, store, 0.0)
    assert store.renewals() == []  # nor is it brought back


async def test_an_answer_that_comes_too_late_does_not_bring_a_lease_back(keeper: Keeper, store: Store) -> None:
    lease = await keeper.grant(9.0)

    def very_slow() -> None:
        store.now += 6.0
        assert not lease.alive()

    store.before_answer = very_slow
    await passes(keeper, store, 3.0)
    assert len(store.renewals()) == 1
    assert not lease.alive()
    assert lease.remaining() == 0


async def test_an_answer_that_does_not_fit_is_a_failure(keeper: Keeper, store: Store) -> None:
    lease = await keeper.grant(9.0)

    store.answer = kv_pb2.OperationResult()
    await passes(keeper, store, 3.0)
    assert lease.alive()
    assert lease.remaining() == pytest.approx(9.0 - 0.45 - 3.0)


async def test_who_comes_too_late_is_told_too(keeper: Keeper) -> None:
    lease = await keeper.grant(9.0)
    lease.end("over")
    told: list[str] = []
    lease.on_end(lambda: told.append("late"))
    assert told == []
    await asyncio.sleep(0)
    assert told == ["late"]


async def test_a_grant_that_nobody_waits_for_any_more_is_revoked(keeper: Keeper, store: Store) -> None:
    """Be it that the answer comes later, or just then: else the lease would lie idle in the store until its ttl."""
    for answered_first in (False, True):
        store.asked.clear()
        sent, go_on = asyncio.Event(), asyncio.Event()

        async def wait(sent: asyncio.Event = sent, go_on: asyncio.Event = go_on) -> None:
            sent.set()
            await go_on.wait()

        store.wait = wait
        task = asyncio.create_task(keeper.grant(9.0))
        await sent.wait()
        if answered_first:
            go_on.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert answered_first or store.revoked() == []
        go_on.set()
        store.wait = no_wait
        await asyncio.gather(*keeper._farewells)
        assert store.revoked() == [1]
    await passes(keeper, store, 4.0)
    assert store.renewals() == []


async def test_a_grant_that_fails_when_nobody_waits_is_no_matter(keeper: Keeper, store: Store) -> None:
    sent, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        sent.set()
        await go_on.wait()
        raise NoLeader("electing")

    store.wait = wait
    task = asyncio.create_task(keeper.grant(9.0))
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await asyncio.gather(*keeper._farewells) == [False]
    assert store.revoked() == []


async def test_closing_does_not_wait_for_ever_for_a_grant(
    keeper: Keeper, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.client.keeper.CLOSE_PATIENCE_S", 0.01)
    sent = asyncio.Event()

    async def wait() -> None:
        sent.set()
        await asyncio.Event().wait()

    store.wait = wait
    task = asyncio.create_task(keeper.grant(9.0))
    await sent.wait()
    task.cancel()
    await asyncio.wait({task})
    await keeper.close()
    assert not keeper._farewells
    assert len(asyncio.all_tasks()) == 1


async def test_idle_leases_are_taken_again_and_not_renewed(keeper: Keeper, store: Store) -> None:
    first = await keeper.borrow(9.0)
    keeper.give_back(first)
    await passes(keeper, store, 4.0)
    assert store.renewals() == []
    assert await keeper.borrow(9.0) is first
    other = await keeper.borrow(9.0)
    assert other is not first
    keeper.give_back(other)
    assert await keeper.borrow(8.0) is not other  # another ttl
    await passes(keeper, store, 5.0)  # less than half of it is left
    assert await keeper.borrow(9.0) not in {first, other}


@pytest.mark.parametrize(("ttl", "kept_s"), [(9.0, 4.0), (86_400.0, 59.0)])
async def test_idle_leases_for_which_nobody_comes_are_revoked(
    keeper: Keeper, store: Store, ttl: float, kept_s: float
) -> None:
    lease = await keeper.borrow(ttl)
    keeper.give_back(lease)
    await passes(keeper, store, kept_s)
    assert store.revoked() == []
    await passes(keeper, store, 1.1)
    await asyncio.gather(*keeper._farewells)
    assert store.revoked() == [lease.id]
    assert (keeper._idle, keeper._idle_count, keeper._timer) == ({}, 0, None)


async def test_a_ttl_for_every_lease_leaves_nothing_behind(keeper: Keeper, store: Store) -> None:
    """Idle leases are bounded in number and in time, however many ttls there are."""
    for number in range(MAX_IDLE + 5):
        keeper.give_back(await keeper.borrow(9.0 + number / 1000))
    await asyncio.gather(*keeper._farewells)
    assert len(store.revoked()) == 5
    assert keeper._idle_count == len(keeper._idle) == MAX_IDLE
    keeper.give_back(await keeper.borrow(9.0))
    await passes(keeper, store, 6.0)
    await asyncio.gather(*keeper._farewells)
    assert len(store.revoked()) == len(set(store.revoked())) == MAX_IDLE + 5
    assert (keeper._idle, keeper._idle_count) == ({}, 0)


async def test_the_timer_goes_off_for_idle_leases_alone(keeper: Keeper) -> None:
    lease = await keeper.borrow(9.0)
    keeper._tick()
    keeper.give_back(lease)
    keeper._tick()
    assert keeper._timer is not None


async def test_an_ended_lease_is_never_taken_again(keeper: Keeper) -> None:
    lease = await keeper.borrow(9.0)
    keeper.drop(lease, "lost")
    keeper.give_back(lease)
    assert await keeper.borrow(9.0) is not lease


async def test_revoking_waits_no_longer_than_the_lease_lasts(keeper: Keeper, store: Store) -> None:
    lease = await keeper.grant(2.0)
    assert await keeper.revoke(lease)
    assert store.timeouts[-1] == pytest.approx(1.9)
    assert not lease.alive()
    asked = len(store.asked)
    assert not await keeper.revoke(lease)
    assert len(store.asked) == asked
    store.failure = NoLeader("nobody")
    store.failure = None
    other = await keeper.grant(2.0)
    store.failure = NoLeader("nobody")
    assert not await keeper.revoke(other)
    assert not other.alive()


async def test_closing_ends_what_is_in_use_and_revokes_what_is_idle(keeper: Keeper, store: Store) -> None:
    used, idle = await keeper.borrow(9.0), await keeper.borrow(9.0)
    keeper.give_back(idle)
    await keeper.close()
    assert not used.alive()
    assert store.revoked() == [idle.id]  # the holder of the other one may still be at work
    with pytest.raises(ConnectionFailed, match="closed"):
        await keeper.borrow(9.0)


class Leases:
    """Public leases over a keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def make(self, ttl: float) -> AsyncLease:
        return AsyncLease(lambda: self._keeper, ttl)


async def test_a_lease_says_what_is_left_and_when_it_is_lost(keeper: Keeper, store: Store) -> None:
    lease = Leases(keeper).make(10.0)
    with pytest.raises(InvalidArgument, match="not granted"):
        _ = lease.id
    with pytest.raises(LeaseExpired, match="could not be renewed"):  # noqa: PT012 - it is the body that matters
        async with lease:
            assert lease.remaining() == 9.5
            assert not lease.lost.is_set()
            lease.check()
            store.now += 9.5
            assert lease.lost.is_set()
            assert lease.remaining() == 0
            with pytest.raises(LeaseExpired):
                lease.check()
    with pytest.raises(InvalidArgument, match="already"):
        await lease.grant()


async def test_leaving_a_lease_revokes_it_even_when_cancelled(keeper: Keeper, store: Store) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with Leases(keeper).make(10.0):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.revoked() == [1]


async def test_the_error_of_the_body_goes_before_the_loss_of_the_lease(keeper: Keeper, store: Store) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is the body that matters
        async with Leases(keeper).make(10.0):
            store.now += 20
            raise ZeroDivisionError


def test_callbacks_are_for_a_loop() -> None:
    with pytest.raises(RuntimeError):
        KeptLease(1, None, lambda: 0.0)  # type: ignore[arg-type]


def test_uvloop_s_timers_do_not_know_when_they_go_off_if_that_is_now(store: Store) -> None:
    """A lease that is due at once, while another one comes: that is what a busy client meets every few seconds."""

    async def borrow_while_one_is_due() -> None:
        keeper = Keeper(store.perform, 10.0, store.clock)
        first = await keeper.borrow(9.0)
        store.now += 4.0  # it is due
        keeper._schedule()
        await keeper.borrow(9.0)
        await keeper.borrow(1.0)
        while not store.renewals():  # noqa: ASYNC110 - the timer does it
            await asyncio.sleep(0)
        assert first.id in store.renewals()[0]
        await keeper.close()

    uvloop.run(borrow_while_one_is_due())
