"""Tokens that name what cannot be waited for."""

from __future__ import annotations

import asyncio

from raftkv.quorum import Guarantee
from raftkv.raft import Index
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode
from tests.server.reading import appended, read, settled, token


async def asked(member: MemoryNode, seen: common_pb2.ReadToken, timeout_ms: int = 200) -> common_pb2.Error:
    return (await read(member, kv_pb2.AT_LEAST, timeout_ms, at_least=seen)).error


async def test_one_of_another_cluster_is_refused() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        error = await asked(leader, token(1, 1, cluster_id=99))
        assert error.code == common_pb2.CLUSTER_MISMATCH
        assert f"{99:016x}" in error.message


async def test_a_write_that_another_leader_has_replaced_is_lost_on_every_node() -> None:
    async with MemoryCluster() as cluster:
        old = await settled(cluster)
        cluster.isolate(old.id)
        await appended(old, b"lost")
        await appended(old, b"lost")
        doomed = await appended(old, b"lost")
        seen = token(old.node.raft.term, old.node.raft.log.last_index, committed=False)
        new = await cluster.leader(other_than=old.id)
        cluster.heal()
        # Every node says so: by a later term below the entry, by another entry in its place.
        for _ in range(2):
            for member in cluster.nodes.values():
                error = await asked(member, seen, 5_000)
                assert (error.code, error.retryable) == (common_pb2.WRITE_LOST, False)
            for _ in range(3):
                await new.put(b"k", b"v")
            await settled(cluster)
        # Had it said that it is committed, the histories would not be the same.
        error = await asked(new, token(seen.term, seen.index))
        assert error.code == common_pb2.TOKEN_OUT_OF_RANGE
        assert "another history" in error.message
        await asyncio.wait([doomed])
        assert doomed.exception() is not None


async def test_a_write_that_is_not_committed_yet_is_waited_for() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        cluster.silence()
        outcome = await appended(leader, b"v")
        seen = token(leader.node.raft.term, leader.node.raft.log.last_index, committed=False)
        assert (await asked(leader, seen, 30)).code == common_pb2.TOO_STALE
        cluster.heal()
        answer = await read(leader, kv_pb2.AT_LEAST, 10_000, at_least=seen)
        # Whoever leads now: the entry was committed, or another one stands there.
        assert (answer.value == b"v") != (answer.error.code == common_pb2.WRITE_LOST)
        await asyncio.wait([outcome])
        assert outcome.exception() is None or answer.error.code == common_pb2.WRITE_LOST


async def test_one_of_the_future_is_refused_by_the_leader_with_the_range() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        term, last = leader.node.raft.term, leader.node.raft.log.last_index
        for committed in (True, False):
            error = await asked(leader, token(term, last + 1000, committed=committed))
            assert (error.code, error.retryable) == (common_pb2.TOKEN_OUT_OF_RANGE, False)
            assert f"0 to {last}" in error.message
        follower = cluster.follower(leader)
        error = await asked(follower, token(term, last + 1000))
        assert error.code == common_pb2.TOO_STALE  # it may only lag
        assert f"log ends at {last}" in error.message
        # Of a term that has not begun here this node can say nothing, even if it leads.
        assert (await asked(leader, token(term + 1, last + 1000))).code == common_pb2.TOO_STALE


async def test_the_leader_knows_that_an_entry_of_an_earlier_term_above_its_log_is_lost() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        assert leader.node.transfer_leader(None) is None
        new = await cluster.leader(other_than=leader.id)
        earlier = new.node.raft.term - 1
        error = await asked(new, token(earlier, new.node.raft.log.last_index + 5, committed=False))
        assert error.code == common_pb2.WRITE_LOST
        error = await asked(new, token(earlier, new.node.raft.log.last_index + 5))
        assert error.code == common_pb2.TOKEN_OUT_OF_RANGE
        assert "nobody has written" in error.message


async def test_of_what_is_compacted_only_committed_writes_are_known_to_be_there() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        for number in range(5):
            await leader.put(b"k", b"%d" % number)
        raft = leader.node.raft
        index = raft.log.applied
        term = raft.log.term(index)
        assert term is not None
        gone = Index(index - 2)
        known = await read(leader, kv_pb2.AT_LEAST, at_least=token(term, gone, committed=False))
        assert known.value == b"4"
        raft.compact(raft.snapshot_at(index), index)
        error = await asked(leader, token(term, gone, committed=False))
        assert (error.code, error.retryable) == (common_pb2.TOKEN_OUT_OF_RANGE, False)
        assert f"before {raft.log.first_index}" in error.message
        assert (await read(leader, kv_pb2.AT_LEAST, at_least=token(term, gone))).value == b"4"


async def test_a_linearizable_read_here_shows_a_write_of_ones_own_that_is_not_committed() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        cluster.silence()
        outcome = await appended(leader, b"mine")
        seen = token(leader.node.raft.term, leader.node.raft.log.last_index, committed=False)
        waiting = asyncio.create_task(
            read(cluster.follower(leader), kv_pb2.LINEARIZABLE, 10_000, here=True, at_least=seen)
        )
        cluster.heal()
        answer = await waiting
        assert (answer.value == b"mine") != (answer.error.code == common_pb2.WRITE_LOST)
        await asyncio.wait([outcome])
        assert outcome.exception() is None or answer.error.code == common_pb2.WRITE_LOST


async def test_a_linearizable_read_here_looks_at_its_token() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        raft = leader.node.raft
        for member in cluster.nodes.values():
            lost = token(raft.term - 1, raft.log.last_index, committed=False)
            answer = await read(member, kv_pb2.LINEARIZABLE, here=True, at_least=lost)
            assert answer.error.code == common_pb2.WRITE_LOST
            there = token(raft.term, raft.log.last_index, committed=False)
            answer = await read(member, kv_pb2.LINEARIZABLE, here=True, at_least=there)
            assert answer.guarantee is Guarantee.LINEARIZABLE
        answer = await read(leader, kv_pb2.LINEARIZABLE, at_least=there)
        assert answer.error.code == common_pb2.INVALID_ARGUMENT
