"""Reads of bounded staleness: measured on one clock, from before the question."""

from __future__ import annotations

import asyncio

from raftkv.quorum import Guarantee
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.server.reading import Answer, own_clocks, read, settled, written_behind


async def bounded(member: MemoryNode, bound_ms: int, timeout_ms: int = 0) -> Answer:
    return await read(member, kv_pb2.BOUNDED, timeout_ms, max_staleness_ms=bound_ms)


async def test_within_the_bound_nobody_is_asked_again() -> None:
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        first = await bounded(follower, 60_000)
        assert first.guarantee == Guarantee.BOUNDED
        asked = cluster.calls[follower.id, leader.id]
        clocks[follower.id].ahead_ms += 20_000
        later = await bounded(follower, 60_000)
        assert 20_000 < later.receipt.staleness_ms <= 60_000
        assert cluster.calls[follower.id, leader.id] == asked


async def test_past_half_of_the_bound_it_is_answered_at_once_and_asked_again_behind() -> None:
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await bounded(follower, 60_000)
        asked = cluster.calls[follower.id, leader.id]
        clocks[follower.id].ahead_ms += 40_000
        assert (await bounded(follower, 60_000)).receipt.staleness_ms > 40_000
        await until(lambda: cluster.calls[follower.id, leader.id] > asked)

        async def is_newer() -> bool:
            return (await bounded(follower, 60_000)).receipt.staleness_ms < 30_000

        async with asyncio.timeout(60):
            while not await is_newer():  # noqa: ASYNC110 - see below
                await asyncio.sleep(0)  # an answer that is at hand gives nobody else a turn


async def test_a_confirmation_that_was_long_under_way_claims_no_more_than_when_it_was_asked_for() -> None:
    """Control: a stamp at the receipt of the answer would call the state fresh."""
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        await leader.put(b"k", b"old")
        await settled(cluster)
        follower = cluster.follower(leader)
        delays = iter([5_000.0])

        async def delay(sender: int, receiver: int) -> None:
            clocks[follower.id].ahead_ms += next(delays, 0)

        cluster.before_answer = delay
        assert (await bounded(follower, 60_000)).receipt.staleness_ms > 5_000
        delays = iter([5_000.0])
        clocks[follower.id].ahead_ms += 100_000
        answer = await bounded(follower, 2_000)  # so the first answer is no good, and it asks again
        assert (answer.value, answer.error.code) == (b"old", 0)
        assert answer.receipt.staleness_ms <= 2_000
        assert next(delays, None) is None


async def test_without_a_leader_it_is_served_until_the_bound_is_over_and_then_refused() -> None:
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await bounded(follower, 60_000)
        cluster.isolate(follower.id)
        clocks[follower.id].ahead_ms += 50_000
        assert (await bounded(follower, 60_000)).receipt.staleness_ms > 50_000
        clocks[follower.id].ahead_ms += 20_000
        refused = (await bounded(follower, 60_000)).error
        assert (refused.code, refused.retryable) == (common_pb2.TOO_STALE, True)
        assert "BOUNDED(60000 ms)" in refused.message
        assert "it is 70" in refused.message  # 70,0.. ms


async def test_a_state_that_has_not_come_to_the_read_point_is_not_called_fresh_by_it() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await written_behind(cluster, leader, follower, b"v")
        refused = (await bounded(follower, 60_000, 60)).error
        assert refused.code == common_pb2.TOO_STALE
        assert "no leader has told how old" in refused.message
        waiting = asyncio.create_task(bounded(follower, 60_000))
        await asyncio.sleep(0)
        assert not waiting.done()
        cluster.heal()
        assert (await waiting).value == b"v"


async def test_an_older_read_point_serves_while_the_newest_is_not_reached() -> None:
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await bounded(follower, 60_000)
        await written_behind(cluster, leader, follower, b"v")
        clocks[follower.id].ahead_ms += 40_000
        asked = cluster.calls[follower.id, leader.id]
        answer = await bounded(follower, 60_000)
        assert (answer.value, answer.receipt.staleness_ms > 40_000) == (None, True)
        await until(lambda: cluster.calls[follower.id, leader.id] > asked)
        assert (await bounded(follower, 60_000)).receipt.staleness_ms > 40_000


async def test_time_that_passes_before_the_state_is_opened_counts() -> None:
    """Reads of ranges wait for their turn, and a bound may be over by then."""
    clocks = own_clocks()
    async with MemoryCluster(clocks=clocks) as cluster:
        leader = await settled(cluster)
        reader, own = leader.requests.reader, clocks[leader.id]
        await bounded(leader, 60_000)
        turn = reader._scans
        for _ in range(64):
            await turn.acquire()
        request = kv_pb2.RangeRequest(key=b"a", range_end=b"z", level=kv_pb2.BOUNDED, max_staleness_ms=60_000)
        operation = kv_pb2.Operation(id=1, range=request)
        waiting = asyncio.create_task(leader.requests.run(kv_pb2.BatchRequest(operations=[operation]), forwarded=False))
        await asyncio.sleep(0)
        own.ahead_ms += 70_000
        for _ in range(64):
            turn.release()
        assert 0 < (await waiting).read.staleness_ms < 60_000
