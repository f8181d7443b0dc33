"""Comparing the states of nodes: found, judged, taken out of service, and what goes on without them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from raftkv.errors import CorruptState, FailedPrecondition, LeaderChanged, NoRoom, NotLeader
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, CheckState, Group, Put
from raftkv.kv.hashing import StateHasher
from raftkv.kv.keys import VERSIONS, VERSIONS_END
from raftkv.raft import Entry, EntryKind, Fitness, Index, Term
from raftkv.server.comparison import Comparison
from raftkv.server.disk_health import DiskHealth
from raftkv.server.disk_pace import DiskPace
from raftkv.server.disk_room import DiskRoom
from raftkv.server.node import Node
from raftkv.server.services.watch import WatchService
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.storage.worker import Worker
from raftkv.transport.calls import unavailable
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2, lease_pb2, lock_pb2, peer_pb2
from tests.server.follower import Follower, append, checkpoint_of, install
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until

LEVELS = [
    kv_pb2.LINEARIZABLE,
    kv_pb2.LOCAL,
    kv_pb2.LEASE,
    kv_pb2.BOUNDED,
    kv_pb2.AT_LEAST,
    kv_pb2.QUORUM,
]


def corrupt(member: MemoryNode, key: bytes = b"k") -> None:
    """Change a value in a node's store behind its back, as a flipped bit would."""
    with member.store.write() as writer:
        ((stored_key, row),) = [
            pair for pair in writer.scan(VERSIONS, VERSIONS_END) if pair[0].startswith(VERSIONS + key)
        ][:1]
        writer.put(stored_key, row[:-1] + bytes([row[-1] ^ 1]))


async def cluster_with_a_key(cluster: MemoryCluster) -> MemoryNode:
    """Write a key, and wait until all who hold data have it; return the leader."""
    leader = await cluster.leader()
    assert (await leader.put(b"k", b"value")).HasField("put")
    await until(lambda: all(applied(cluster, leader)))
    return leader


def outcome(found: cluster_pb2.StateComparison) -> tuple[list[int], list[int], list[int]]:
    return sorted(found.agreed), sorted(found.differ), sorted(found.silent)


def applied(cluster: MemoryCluster, leader: MemoryNode) -> list[bool]:
    index = leader.node.machine.applied_index
    return [member.node.machine.applied_index >= index for member in cluster.nodes.values()]


def refused(result: kv_pb2.OperationResult) -> bool:
    assert result.error.code in (common_pb2.CORRUPT_STATE, common_pb2.ERROR_CODE_UNSPECIFIED), result
    assert not result.error.ambiguous
    return result.error.retryable


async def read_all(member: MemoryNode) -> list[kv_pb2.OperationResult]:
    """Ask a node for what it knows from its state, in every way there is."""
    reads = [kv_pb2.RangeRequest(key=b"k", level=level) for level in LEVELS]
    for read in reads:
        if read.level == kv_pb2.BOUNDED:
            read.max_staleness_ms = 10_000
        if read.level == kv_pb2.AT_LEAST:
            read.at_least.CopyFrom(common_pb2.ReadToken(cluster_id=7, term=1, index=1, committed=True))
    pick = kv_pb2.TxnOperation(range=kv_pb2.RangeRequest(key=b"k"))
    operations = [
        *(kv_pb2.Operation(range=read) for read in reads),
        kv_pb2.Operation(txn=kv_pb2.TxnRequest(branch=kv_pb2.TxnBranch(then=[pick]))),
        kv_pb2.Operation(lease_list=lease_pb2.LeaseListRequest()),
        kv_pb2.Operation(lease_time_to_live=lease_pb2.LeaseTimeToLiveRequest(id=1)),
        kv_pb2.Operation(lock_query=lock_pb2.LockQueryRequest(name=b"l")),
    ]
    for number, operation in enumerate(operations, 1):
        operation.id = number
    return [await member.run(operation) for operation in operations]


async def test_equal_states_are_found_equal() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        found = await leader.comparison.compare()
        assert outcome(found) == ([1, 2, 3], [], [])
        with leader.node.machine.view() as view:
            hasher = StateHasher(view._reader)
            while not hasher.step(100):
                pass
        assert (found.index, found.hash) == (leader.node.machine.applied_index, hasher.digest())
        assert leader.comparison.newest == found
        assert not any(member.node.alarms.raised() for member in cluster.nodes.values())


async def test_the_odd_one_out_goes_out_of_service_and_the_others_serve() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        found = await leader.comparison.compare()
        assert outcome(found) == (sorted({1, 2, 3} - {odd.id}), [odd.id], [])
        assert odd.node.corruption is not None
        assert [one.alarm for one in odd.node.alarms.raised()] == [cluster_pb2.CORRUPT]
        assert "raftkv repair" in odd.node.alarms.raised()[0].message
        assert odd.mark is not None
        assert odd.mark.agreed == tuple(found.agreed)
        for result in await read_all(odd):
            assert refused(result), result
        assert (odd.requests.reads.log_end().applied_index, odd.requests.reads.log_end().last_index > 0) == (0, True)
        for member in cluster.nodes.values():
            if member is not odd:
                for result in await read_all(member):
                    assert result.error.code != common_pb2.CORRUPT_STATE, result
                assert (await member.get(b"k", kv_pb2.LOCAL)).range.kvs[0].value == b"value"
                assert member.node.corruption is None
        # It goes on voting and storing, and takes writes for the leader.
        assert (await odd.put(b"k2", b"v")).HasField("put")
        others = [member for member in cluster.nodes.values() if member not in (odd, leader)]
        cluster.isolate(others[0].id)
        assert (await leader.put(b"k3", b"v")).HasField("put")


async def test_control_without_the_judge_a_corrupt_row_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(self: Comparison, verdict: peer_pb2.CondemnRequest) -> bool:
        return False

    monkeypatch.setattr(Comparison, "told", deaf)
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        assert (await leader.comparison.compare()).differ == [odd.id]
        assert (await odd.get(b"k", kv_pb2.LOCAL)).range.kvs[0].value != b"value"


async def test_a_restart_does_not_forget() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        await leader.comparison.compare()
        await odd.restart()
        assert [one.alarm for one in odd.node.alarms.raised()] == [cluster_pb2.CORRUPT]
        for result in await read_all(odd):
            assert refused(result), result
        # And a state that is like the others' by now is no way out: what came of it meanwhile is not known.
        corrupt(odd)
        await until(lambda: all(applied(cluster, leader)))
        assert odd.id in (await leader.comparison.compare()).agreed
        assert refused(await odd.get(b"k", kv_pb2.LOCAL))


async def test_a_leader_that_is_the_odd_one_out_hands_over() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        corrupt(leader)
        found = await leader.comparison.compare()
        assert found.differ == [leader.id]
        assert not leader.node.is_leader
        with pytest.raises(NotLeader):
            leader.node.read_barrier()
        other = await cluster.leader(other_than=leader.id)
        assert (await other.get(b"k")).range.kvs[0].value == b"value"
        assert (await leader.put(b"k", b"new")).HasField("put"), "forwarded"
        assert (await other.get(b"k")).range.kvs[0].value == b"new"
        assert refused(await leader.get(b"k"))
        assert leader.node.raft.fitness is Fitness.BARRED


async def test_writes_that_a_corrupt_leader_has_under_way_are_not_answered_from_its_state() -> None:
    """Without `give_up` a write without a session waited for its result, and got that of the corrupt state."""
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        cluster.silence()
        before = leader.node.raft.log.last_index
        for session in (0, 1):
            second = leader.node.propose(Group(session, 1, (Put(1, b"k", b"new"),)), 20, _soon())
            await until(lambda: leader.node.raft.log.last_index > before)  # noqa: B023 - awaited here
            before = leader.node.raft.log.last_index
            if not session:
                first = second
        await leader.node.condemn(CorruptMark(1, b"a", b"b", (1, 2), 0.0))
        assert first.done()
        assert second.done()
        for write in (first, second):
            with pytest.raises(LeaderChanged) as caught:
                await write
            assert caught.value.ambiguous
        with pytest.raises(NotLeader):
            leader.node.propose(Group(0, 0, (Put(0, b"k", b"new"),)), 20, _soon())


async def test_two_of_three_judge_while_the_third_is_silent() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        silent, other = (member for member in cluster.nodes.values() if member is not leader)
        cluster.isolate(silent.id)
        found = await leader.comparison.compare()
        assert outcome(found) == (sorted([leader.id, other.id]), [], [silent.id])
        assert found.hash


async def test_a_mark_that_finds_no_room_is_written_once_there_is_some() -> None:
    """The node stays up meanwhile, and in quarantine."""
    async with MemoryCluster() as cluster:
        for member in cluster.nodes.values():
            member.disk_health = lambda: DiskHealth(DiskRoom(look_s=0.001), DiskPace(lambda: 0.0))
            member.mark_failure = NoRoom("no space left")
            await member.restart()
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        await leader.comparison.compare()
        assert odd.node.corruption is not None
        assert odd.mark is None
        await leader.comparison.compare()  # it is told again
        assert odd.mark is None
        odd.mark_failure = None
        await until(lambda: odd.mark)
        assert not odd.node.failure.done()
        await odd.restart()
        assert odd.node.corruption is not None


async def test_without_a_majority_all_raise_an_alarm_and_go_on() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        silent, other = (member for member in cluster.nodes.values() if member is not leader)
        cluster.isolate(silent.id)
        corrupt(other)
        found = await leader.comparison.compare()
        assert (sorted(found.differ), found.hash) == (sorted([leader.id, other.id]), b"")
        for member in (leader, other):
            assert [one.alarm for one in member.node.alarms.raised()] == [cluster_pb2.DIVERGED]
            assert (await member.get(b"k", kv_pb2.LOCAL)).HasField("range")
            assert member.node.corruption is None
        # The third comes back, and decides; the alarm is over where the state turns out right.
        cluster.heal()
        await until(lambda: all(applied(cluster, leader)))
        await until(lambda: leader.comparison._answering() == sorted({1, 2, 3} - {leader.id}))
        assert (await leader.comparison.compare()).differ == [other.id]
        assert not leader.node.alarms.raised()
        assert cluster_pb2.CORRUPT in other.node.alarms


async def test_a_witness_is_not_asked() -> None:
    async with MemoryCluster(witnesses=[3]) as cluster:
        leader = await cluster.leader()
        assert (await leader.put(b"k", b"value")).HasField("put")
        found = await leader.comparison.compare()
        assert outcome(found) == ([1, 2], [], [])


async def test_the_leader_compares_by_itself() -> None:
    async with MemoryCluster(compare_s=0.05) as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        await until(lambda: odd.node.corruption)


async def test_a_node_that_applied_the_entry_before_it_was_asked_still_knows() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        found = await leader.comparison.compare()
        assert (await leader.put(b"k2", b"v")).HasField("put")
        for member in cluster.nodes.values():
            assert (await member.comparison.hash_at(found.index, 1.0)).hash == found.hash
            assert not (await member.comparison.hash_at(1, 1.0)).hash, "nobody hashed there"
            assert not (await member.comparison.hash_at(found.index + 100, 0.01)).hash, "nobody is there yet"


async def test_who_does_not_know_its_hash_there_condemns_nobody() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        found = await leader.comparison.compare()
        follower = cluster.follower(leader)
        verdict = peer_pb2.CondemnRequest(index=found.index + 1, hash=b"x" * 16, agreed=[1, 2, 3])
        assert not await follower.comparison.told(verdict)
        verdict.index = found.index
        verdict.hash = found.hash
        assert not await follower.comparison.told(verdict)
        assert follower.node.corruption is None


async def test_only_the_leader_compares() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        with pytest.raises(NotLeader):
            await cluster.follower(leader).comparison.compare()


class Old:
    """Peers of an earlier raftkv."""

    async def state_hash_at(self, node: int, index: int, timeout_s: float) -> Any:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, grpc.aio.Metadata(), grpc.aio.Metadata())

    async def condemn(self, node: int, verdict: Any, timeout_s: float) -> bool:
        raise unavailable("never")


async def test_nothing_is_written_that_an_earlier_raftkv_would_stop_for() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        comparison = Comparison(leader.node, Old(), interval_s=0, now_s=lambda: 0.0)
        before = leader.node.raft.log.last_index
        with pytest.raises(FailedPrecondition, match="earlier raftkv"):
            await comparison.compare()
        assert leader.node.raft.log.last_index == before


async def test_nothing_is_compared_unasked_until_all_have_shown_in_this_term_that_they_understand_it() -> None:
    """A member of an earlier raftkv that is down would stop at the entry once it is back."""
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        silent = cluster.follower(leader)
        comparison = leader.comparison
        cluster.isolate(silent.id)
        assert (await comparison.compare()).silent == [silent.id], "whoever asks for it gets it"
        with pytest.raises(FailedPrecondition, match=rf"nodes \[{silent.id}\]"):
            await comparison._require_understood_by_all()
        cluster.heal()
        await until(lambda: silent.id in comparison._answering())
        await comparison._require_understood_by_all()
        cluster.isolate(silent.id)
        await until(lambda: silent.id not in comparison._answering())
        await comparison._require_understood_by_all()
        cluster.heal()
        # It leads again, and another build may run there by now.
        (other,) = (member for member in cluster.nodes.values() if member not in (leader, silent))
        await until(lambda: leader.node.transfer_leader(other.id) is None)
        await until(lambda: other.node.is_leader)
        await until(lambda: other.node.transfer_leader(leader.id) is None)
        await until(lambda: leader.node.is_leader)
        comparison._peers = Old()
        with pytest.raises(FailedPrecondition, match="earlier raftkv"):
            await comparison._require_understood_by_all()


async def test_the_leader_compares_by_itself_only_when_all_understand_it() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        silent = cluster.follower(leader)
        cluster.isolate(silent.id)
        comparison = Comparison(leader.node, leader.comparison._peers, interval_s=0.001, now_s=lambda: 0.0)
        asked = asyncio.Event()
        refuse = comparison._require_understood_by_all
        before = leader.node.raft.log.last_index

        async def watched() -> None:
            try:
                await refuse()
            finally:
                asked.set()

        comparison._require_understood_by_all = watched  # type: ignore[method-assign]
        running = asyncio.create_task(comparison._run())
        for _ in range(2):
            await asyncio.wait_for(asked.wait(), 60)
            asked.clear()
        running.cancel()
        assert leader.node.raft.log.last_index == before


async def test_a_condemned_node_makes_and_sends_no_checkpoint() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        corrupt(odd)
        await leader.comparison.compare()
        with pytest.raises(CheckpointRefused, match="out of service"):
            await odd.node.checkpoints.make_now()


async def test_watches_end_and_no_new_ones_begin() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster_with_a_key(cluster)
        odd = cluster.follower(leader)
        service = WatchService(odd.node, odd.requests.header)
        watching = asyncio.create_task(service.run())
        ended: list[BaseException | None] = []

        class Sender:
            def end(self, error: BaseException | None = None) -> None:
                ended.append(error)

        service._senders[Sender()] = asyncio.get_running_loop().create_future()  # type: ignore[index]
        corrupt(odd)
        await leader.comparison.compare()
        await until(lambda: ended)
        assert isinstance(ended[0], CorruptState)
        assert isinstance(service._misfit(), CorruptState)
        watching.cancel()


async def test_states_are_hashed_in_a_thread_and_the_newest_wins() -> None:
    """Hashing must not be cut off by closing the snapshot under the thread that reads it."""
    async with MemoryCluster(1) as cluster:
        leader = await cluster.leader()
        for number in range(3000):
            leader.node.propose(Group(0, 0, (Put(0, b"key-%d" % number, b"v"),)), 20, _soon())
        await leader.put(b"k", b"v")
        worker = Worker("test-hash")
        leader.node.states._runner = worker
        try:
            first, second = await asyncio.gather(_check(leader.node), _check(leader.node))
            found = await leader.node.states.at(second, _soon())
            assert found is not None
            assert found.index == second
            known = await leader.node.states.at(first, _soon())
            assert known is None or known.index == first
        finally:
            await leader.node.stop()
            await worker.stop()


def _soon() -> float:
    return asyncio.get_running_loop().time() + 10


async def _check(node: Node) -> int:
    return (await node.propose(Group(0, 0, (CheckState(0),)), 20, _soon(), alone=True)).index


async def test_a_node_is_not_condemned_for_a_state_that_a_checkpoint_has_replaced() -> None:
    check = Entry(Term(1), Index(1), EntryKind.COMMANDS, encode_batch(Batch(1001, (Group(0, 0, (CheckState(0),)),))))
    async with Follower() as follower:
        follower.hear(append(0, [check], 1))
        await until(lambda: follower.node.states.known(1))
        await follower.receive(await checkpoint_of(10))
        follower.hear(install(10))
        await follower.applied(10)
        comparison = Comparison(follower.node, Old(), interval_s=0, now_s=lambda: 0.0)
        assert not await comparison.told(peer_pb2.CondemnRequest(index=1, hash=b"x" * 16, agreed=[2, 3]))
        assert follower.node.corruption is None
