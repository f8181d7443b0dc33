"""The driver's half of leases: how long they last, and from when on."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest

from raftkv.raft import NodeId
from raftkv.server.clock import MonotonicClock
from raftkv.server.lease import Lease, lease_ms, quarantine_ticks
from raftkv.server.read_receipts import receipt_of
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import TICK_S, MemoryCluster, MemoryNode, until


def test_a_lease_is_shorter_than_the_promise_by_a_tick_and_the_drift_of_both_clocks() -> None:
    assert lease_ms(25, 10, 0) == 240
    assert lease_ms(25, 10, 1_000) == 239
    assert lease_ms(25, 10, 100_000) == 240 * 90 // 110


@pytest.mark.parametrize("drift_ppm", [500, 10_000, 250_000])
def test_it_is_over_before_the_fastest_clock_lets_a_follower_vote(drift_ppm: int) -> None:
    drift = drift_ppm / 1_000_000
    true_ms_of_the_lease = lease_ms(25, 10, drift_ppm) / (1 - drift)
    true_ms_of_the_promise = 24 * 10 / (1 + drift)
    assert true_ms_of_the_lease <= true_ms_of_the_promise


def test_where_settings_differ_what_a_follower_promises_is_enough_under_the_smaller_of_the_two_bounds() -> None:
    """A follower whose answer counts (it promises at least the leader's lease) cannot vote before the lease is over.

    Under the larger bound that does not hold: with settings that differ, the guarantee is that of the smallest bound.
    """
    counted = beyond = 0
    told = list(itertools.product((20, 22, 25, 26, 50), (5, 10), (1, 500, 10_000, 100_000, 250_000)))
    for (ticks, tick_ms, bound), (its_ticks, its_tick_ms, its_bound) in itertools.product(told, told):
        leased, promised = lease_ms(ticks, tick_ms, bound), lease_ms(its_ticks, its_tick_ms, its_bound)
        if promised < leased:
            continue  # such an answer does not count: see test_a_follower_that_promises_less_does_not_count
        counted += 1
        its_silence_ms = (its_ticks - 1) * its_tick_ms
        drift, larger = min(bound, its_bound) / 1e6, max(bound, its_bound) / 1e6
        assert leased / (1 - drift) <= its_silence_ms / (1 + drift) + 1e-9
        beyond += leased / (1 - larger) > its_silence_ms / (1 + larger)
    assert counted > 1000
    assert beyond, "or the documents could say more"


def test_a_large_drift_leaves_nothing() -> None:
    assert lease_ms(2, 1, 500_000) == 0


def test_what_a_run_has_promised_the_next_one_keeps_at_any_length_of_its_tick() -> None:
    assert quarantine_ticks(0, 10) == 0
    for promised_ms, tick_ms in itertools.product((10, 250, 999), (1, 7, 10, 300)):
        assert (quarantine_ticks(promised_ms, tick_ms) - 1) * tick_ms >= promised_ms


def test_a_lease_begins_when_the_round_began_not_when_it_was_confirmed() -> None:
    lease = Lease(100)
    lease.note(1000, (1, 0))
    assert not lease.holds(1000, (1, 0)), "nobody has confirmed it"
    lease.note(1060, (1, 1))
    assert lease.holds(1099.9, (1, 1))
    assert not lease.holds(1100, (1, 1))


def test_each_confirmed_round_prolongs_it() -> None:
    lease = Lease(100)
    for number in range(1, 8):
        lease.note(1000 + 50 * number, (number, number - 1))
    assert lease.holds(1399, (7, 6))
    assert not lease.holds(1400, (7, 6)), "round 6 began at 1300"
    assert lease.holds(1449, (7, 7))


def test_a_round_that_may_be_no_lease_yet_is_taken_down_all_the_same() -> None:
    """While a transfer is under way nothing is a lease; when it was given up, the rounds of meanwhile are, from their
    own beginnings (raft-bugs 43)."""
    lease = Lease(100)
    lease.note(1000, (1, 0))
    lease.note(1050, (2, 0))
    assert not lease.holds(1060, (2, 0))
    lease.note(1140, (2, 2))
    assert lease.holds(1149, (2, 2))
    assert not lease.holds(1150, (2, 2))


def test_nothing_is_left_of_an_earlier_leadership() -> None:
    lease = Lease(100)
    lease.note(1000, (3, 3))
    assert lease.holds(1010, (3, 3))
    lease.note(1020, None)
    assert not lease.holds(1021, None)
    lease.note(1030, (3, 0))
    assert not lease.holds(1031, (3, 0))


def test_only_what_can_still_become_a_lease_is_remembered() -> None:
    lease = Lease(100)
    for number in range(1, 1000):
        lease.note(number, (number, max(0, number - 2)))
    assert len(lease._begun) <= 3
    lease = Lease(100)
    for number in range(1, 1000):
        lease.note(number * 10, (number, 0))  # none is confirmed: after a transfer that failed, for a whole term
    assert len(lease._begun) <= 12
    assert lease.holds(9990, (999, 995))


class OwnClock(MonotonicClock):
    """A clock that jumps when a test says so, and runs at a pace of its own."""

    def __init__(self, pace: float = 1.0) -> None:
        super().__init__()
        self._pace = pace
        self.ahead_ms = 0.0

    def now_ms(self) -> float:
        return super().now_ms() * self._pace + self.ahead_ms


LEASE_MS = lease_ms(25, int(TICK_S * 1000), 1_000)


async def lease_read(member: MemoryNode) -> kv_pb2.OperationResult:
    return await member.get(b"key", kv_pb2.LEASE)


async def holding(cluster: MemoryCluster) -> MemoryNode:
    """Wait for a leader that holds a lease."""
    leader = await cluster.leader()
    await until(leader.node.lease_barrier)
    return leader


async def test_a_leader_answers_by_its_lease_without_asking_anybody() -> None:
    async with MemoryCluster(lease_ms=LEASE_MS) as cluster:
        await cluster[1].put(b"key", b"value")
        for through in ("leader", "follower"):
            for _ in range(20):  # on a machine that stands still for longer than the lease, it asks the others
                leader = await holding(cluster)
                answer = await lease_read(leader if through == "leader" else cluster.follower(leader))
                if answer.read.guarantee == common_pb2.GUARANTEE_LEASE:
                    break
            assert answer.read.guarantee == common_pb2.GUARANTEE_LEASE
            assert answer.range.kvs[0].value == b"value"


async def test_where_leases_are_off_a_lease_read_is_refused_and_its_neighbours_are_not() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        operations = [
            kv_pb2.Operation(id=number, range=kv_pb2.RangeRequest(key=b"key", level=level))
            for number, level in enumerate((kv_pb2.LEASE, kv_pb2.LINEARIZABLE), 1)
        ]
        response = await leader.requests.run(kv_pb2.BatchRequest(operations=operations), forwarded=False)
        refused, served = sorted(response.results, key=lambda result: result.id)
        assert refused.error.code == common_pb2.FAILED_PRECONDITION
        assert "--lease-drift-ppm" in refused.error.message
        assert receipt_of(response, served).guarantee == common_pb2.GUARANTEE_LINEARIZABLE


async def test_a_leader_without_a_lease_asks_the_others() -> None:
    clocks = {NodeId(number): OwnClock() for number in (1, 2, 3)}
    async with MemoryCluster(lease_ms=LEASE_MS, clocks=clocks) as cluster:
        leader = await holding(cluster)
        clocks[leader.id].ahead_ms += 3_600_000  # the machine was suspended
        answers = await leader.requests.run(
            kv_pb2.BatchRequest(
                operations=[
                    kv_pb2.Operation(id=number, range=kv_pb2.RangeRequest(key=b"key", level=level))
                    for number, level in enumerate((kv_pb2.LEASE, kv_pb2.LINEARIZABLE), 1)
                ]
            ),
            forwarded=False,
        )
        guarantees = {receipt_of(answers, answer).guarantee for answer in answers.results}
        assert guarantees == {common_pb2.GUARANTEE_LINEARIZABLE}


async def test_a_lease_that_is_over_is_over_although_the_node_still_takes_itself_for_the_leader() -> None:
    clocks = {NodeId(number): OwnClock() for number in (1, 2, 3)}
    async with MemoryCluster(lease_ms=LEASE_MS, clocks=clocks) as cluster:
        leader = await holding(cluster)
        cluster.isolate(leader.id)
        clocks[leader.id].ahead_ms += 3_600_000
        assert leader.node.is_leader
        assert leader.node.lease_barrier() is None
        assert (await lease_read(leader)).HasField("error")


async def test_bug_43_a_transfer_ends_the_lease_at_once() -> None:
    async with MemoryCluster(lease_ms=LEASE_MS) as cluster:
        leader = await holding(cluster)
        assert leader.node.transfer_leader(cluster.follower(leader).id) is None
        assert leader.node.lease_barrier() is None


async def test_ticks_are_never_early_by_the_clock_that_leases_are_measured_with() -> None:
    """Here the clock runs at a third of the pace of the timers."""
    clock = OwnClock(1 / 3)
    async with MemoryCluster(1, lease_ms=LEASE_MS, clocks={NodeId(1): clock}) as cluster:
        raft = cluster[1].node.raft
        moments: list[float] = []
        tick = raft.tick

        def watched() -> None:
            moments.append(clock.now_ms())
            tick()

        raft.tick = watched  # type: ignore[method-assign]
        await until(lambda: len(moments) >= 10)
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        assert min(gaps) >= TICK_S * 1000 * 0.999
