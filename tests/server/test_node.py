"""The driver and the request runner, on whole in-memory nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from raftkv.errors import LeaderChanged, NotLeader, Overloaded, ShuttingDown, StorageError
from raftkv.kv.commands import Group, KeepAlive, Put
from raftkv.kv.limits import PAGE_PAIRS
from raftkv.raft import Entry, HardState, Index, LogWrite, NodeId
from raftkv.server.node import NodeLimits
from raftkv.server.proposals import Outcome
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import TICK_S, MemoryCluster, MemoryNode, until


def puts(count: int, *, start: int = 1) -> tuple[Put, ...]:
    return tuple(Put(number, b"key-%d" % number, b"value") for number in range(start, start + count))


def deadline(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_write_is_readable_through_every_node() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        written = await cluster.follower(leader).put(b"k", b"v")
        assert written.put.revision == 2
        for member in cluster.nodes.values():
            read = await member.get(b"k")
            assert [pair.value for pair in read.range.kvs] == [b"v"]
            assert read.read.guarantee == common_pb2.GUARANTEE_LINEARIZABLE


async def test_a_local_read_says_that_it_may_be_stale() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        await leader.put(b"k", b"v")
        await until(lambda: follower.node.machine.revision == 2)
        forwarded = cluster.forwarded
        read = await follower.get(b"k", kv_pb2.LOCAL)
        assert read.range.kvs[0].value == b"v"
        assert read.read.guarantee == common_pb2.GUARANTEE_STALE_PREFIX
        assert cluster.forwarded == forwarded


async def test_what_arrives_while_the_log_is_written_becomes_one_entry() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        before = leader.node.raft.log.last_index
        groups = [leader.node.propose(Group(0, 0, puts(3, start=10 * number)), 100, deadline()) for number in range(8)]
        results = await asyncio.gather(*groups)
        assert leader.node.raft.log.last_index == before + 1
        assert [len(group.results or ()) for group in results] == [3] * 8


async def test_what_fills_an_entry_does_not_wait_for_the_log() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, worthwhile_commands=5)) as cluster:
        leader = await cluster.leader()
        log = leader.node.raft.log
        before = log.last_index
        leader.gate.open = False
        first = leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        await until(lambda: log.last_index == before + 1)
        few = leader.node.propose(Group(0, 0, puts(4)), 100, deadline())
        await until(lambda: log.commit == before + 1)  # by the followers; a good many turns of the crank
        assert log.last_index == before + 1
        more = leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        await until(lambda: log.commit == before + 2)
        # What the answers still wait for is the leader's own disk.
        assert not any(outcome.done() for outcome in (first, few, more))


async def test_a_large_backlog_is_cut_into_entries_of_bounded_size() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, max_entry_bytes=250)) as cluster:
        leader = await cluster.leader()
        before = leader.node.raft.log.last_index
        await asyncio.gather(*(leader.node.propose(Group(0, 0, puts(1)), 100, deadline()) for _ in range(8)))
        assert leader.node.raft.log.last_index == before + 4


async def test_a_renewal_overtakes_a_backlog_of_writes() -> None:
    """However many writes wait, so few are in the log that what goes in front of the others is soon applied."""
    limits = NodeLimits(tick_s=TICK_S, worthwhile_commands=1, max_entry_commands=2, max_log_commands=4)
    async with MemoryCluster(1, limits=limits) as cluster:
        leader = await cluster.leader()
        before = leader.node.raft.log.last_index
        writes = [leader.node.propose(Group(0, 0, puts(1)), 100, deadline()) for _ in range(20)]
        for _ in range(5):
            leader.node._turn()  # in one turn of the loop: nothing is applied in between
        assert leader.node.raft.log.last_index == before + 2
        renewal = leader.node.propose(Group(0, 0, (KeepAlive(1, (1,)),)), 100, deadline())
        done: list[str] = []
        renewal.add_done_callback(lambda _: done.append("renewal"))
        for write in writes:
            write.add_done_callback(lambda _: done.append("write"))
        await asyncio.gather(renewal, *writes)
        assert done.index("renewal") == 4


async def test_bug_32_nothing_is_acknowledged_before_a_majority_has_it_on_disk() -> None:
    """A single node acknowledged before its own fsync (etcd#14370). Here: with one disk of three, and with none."""
    async with MemoryCluster(1) as alone:
        leader = await alone.leader()
        leader.gate.open = False
        outcome = leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        assert not await answered(outcome, leader)
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        for member in cluster.nodes.values():
            member.gate.open = member is leader
        outcome = leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        # The leader's own disk has it, and everybody has been sent it.
        await until(lambda: leader.node.raft.log.durable == leader.node.raft.log.last_index)
        assert not await answered(outcome, leader)
        assert leader.node.raft.log.commit < leader.node.raft.log.last_index


async def answered(outcome: Outcome, leader: MemoryNode) -> bool:
    """Whether a write is answered within some heartbeats; the leader itself must go on leading meanwhile."""
    await asyncio.wait([outcome], timeout=20 * TICK_S)
    assert leader.node.is_leader
    return outcome.done()


async def test_bug_42_a_leader_without_a_quorum_confirms_no_read() -> None:
    """A leader that had lost its followers went on answering (go-dqlite#207)."""
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        await old.put(b"k", b"old")
        cluster.isolate(old.id)
        barrier = old.node.read_barrier()
        assert old.node.is_leader
        new = await cluster.leader(other_than=old.id)
        await new.put(b"k", b"new")
        with pytest.raises(NotLeader):
            await asyncio.wait_for(barrier, 60)
        cluster.heal()
        read = await old.get(b"k")
        assert read.range.kvs[0].value == b"new"


async def test_bug_41_every_read_that_is_tried_again_is_a_new_request() -> None:
    """A retried ReadIndex reused its id, so an old confirmation answered it (etcd#20418)."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        asked: list[int] = []
        ask = leader.node.raft.read_index

        def recording(request: int) -> None:
            asked.append(request)
            ask(request)

        leader.node.raft.read_index = recording  # type: ignore[method-assign]
        for _ in range(20):
            await asyncio.gather(*(leader.get(b"k") for _ in range(5)))
        assert len(asked) >= 20
        assert len(set(asked)) == len(asked)


async def test_a_write_without_a_session_does_not_wait_for_ever_on_a_leader_that_lost() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, undecided_s=0.05)) as cluster:
        old = await cluster.leader()
        cluster.isolate(old.id)
        outcome = old.node.propose(Group(0, 0, puts(1)), 100, deadline(3600))
        await cluster.leader(other_than=old.id)
        with pytest.raises(LeaderChanged) as changed:
            await asyncio.wait_for(outcome, 60)
        assert changed.value.ambiguous


async def test_losing_leadership_tells_sessions_at_once_and_others_when_it_is_decided() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, undecided_s=60.0)) as cluster:
        old = await cluster.leader()
        session = await old.register()
        cluster.isolate(old.id)
        with_session = old.node.propose(Group(session, 1, puts(1)), 100, deadline())
        without = old.node.propose(Group(0, 0, puts(1, start=50)), 100, deadline())
        new = await cluster.leader(other_than=old.id)
        with pytest.raises(LeaderChanged) as changed:
            await asyncio.wait_for(with_session, 60)
        assert changed.value.ambiguous
        assert not without.done()
        await new.put(b"k", b"v")
        cluster.heal()
        with pytest.raises(NotLeader, match="no effect"):
            await asyncio.wait_for(without, 60)
        assert (await old.get(b"key-50")).range.count == 0


@pytest.mark.parametrize("operation", ["put", "range"])
async def test_a_leader_that_has_lost_its_quorum_sends_its_clients_elsewhere_at_once(operation: str) -> None:
    """An isolated leader kept its clients waiting for a leader, while the others had one: an RTO of 1.3 s for 0.3."""
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        old.requests._limits = replace(old.requests._limits, leader_wait_s=3600.0, deposed_wait_s=0.0)
        cluster.isolate(old.id)
        await until(lambda: not old.node.is_leader)
        asked = kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        if operation == "range":
            asked = kv_pb2.Operation(id=1, range=kv_pb2.RangeRequest(key=b"k"))
        answer = await asyncio.wait_for(old.run(asked, timeout_ms=3_600_000), 60)
        assert answer.error.code == common_pb2.NO_LEADER
        assert answer.error.retryable
        assert not answer.error.ambiguous


async def test_who_has_never_led_has_lost_no_quorum() -> None:
    """In term 0 nobody has led: clients of a node that has just started wait for the first election."""
    async with MemoryCluster() as cluster:
        new = [member.node for member in cluster.nodes.values() if member.node.raft.term == 0]
        assert new
        assert not any(node.lost_its_quorum for node in new)
        await cluster.leader()


async def test_bug_44_a_write_of_a_session_is_carried_over_to_the_new_leader_and_applied_once() -> None:
    """Retries applied twice (rabbitmq/ra#145) and proxies went in circles (redisraft#13)."""
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        session = await old.register()
        first = await old.put(b"k", b"1", session=session, sequence=5)
        limits = old.requests._limits
        old.requests._limits = replace(limits, default_timeout_s=60.0, leader_wait_s=60.0, deposed_wait_s=60.0)
        cluster.isolate(old.id)
        pending = asyncio.create_task(old.put(b"k", b"2", session=session, sequence=6))
        await cluster.leader(other_than=old.id)
        cluster.heal()
        second = await asyncio.wait_for(pending, 60)
        assert second.HasField("put"), second
        again = await cluster.follower(old).put(b"k", b"2", session=session, sequence=6)
        repeated = await cluster.follower(old).put(b"k", b"1", session=session, sequence=5)
        assert (again.put.revision, repeated.put.revision) == (second.put.revision, first.put.revision)
        read = await old.get(b"k")
        assert (read.range.kvs[0].value, read.range.kvs[0].version) == (b"2", 2)


async def test_a_forwarded_request_is_never_forwarded_again() -> None:
    async with MemoryCluster() as cluster:
        follower = cluster.follower(await cluster.leader())
        batch = kv_pb2.BatchRequest(operations=[kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v"))])
        forwarded = cluster.forwarded
        response = await follower.requests.run(batch, forwarded=True)
        assert response.results[0].error.code == common_pb2.NOT_LEADER
        assert response.results[0].error.leader_address.startswith("node-")
        assert cluster.forwarded == forwarded


async def test_a_write_without_a_session_is_ambiguous_when_the_leader_cannot_be_reached() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        cluster.cut_off.add(leader.id)  # the leader leads on, but requests do not reach it
        result = await cluster.follower(leader).put(b"k", b"v")
        assert result.error.code == common_pb2.LEADER_CHANGED
        assert result.error.ambiguous


async def test_an_attempt_with_an_open_outcome_is_admitted_even_if_a_later_one_had_no_effect() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        for member in cluster.nodes:
            cluster.isolate(member)
        result = await leader.run(
            kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v")), session, timeout_ms=1500
        )
        assert result.error.ambiguous, result


async def test_without_a_leader_a_request_ends_with_no_leader() -> None:
    async with MemoryCluster() as cluster:
        for member in cluster.nodes:
            cluster.isolate(member)
        await until(lambda: all(member.node.leader is None for member in cluster.nodes.values()))
        result = await cluster[1].put(b"k", b"v")
        assert result.error.code == common_pb2.NO_LEADER
        assert not result.error.ambiguous
        assert result.error.retryable


async def test_overload_is_refused_and_passes() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, max_proposal_commands=10)) as cluster:
        leader = await cluster.leader()
        leader.gate.open = cluster.follower(leader).gate.open = True
        first = leader.node.propose(Group(0, 0, puts(10)), 100, deadline())
        with pytest.raises(Overloaded, match="at most 10 writes"):
            leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        await first
        await leader.node.propose(Group(0, 0, puts(10)), 100, deadline())


async def test_the_room_that_a_request_takes_is_that_of_its_keys_and_values() -> None:
    limits = NodeLimits(tick_s=TICK_S, max_proposal_bytes=10_000)
    async with MemoryCluster(limits=limits) as cluster:
        leader = await cluster.leader()
        assert (await leader.put(b"k", bytes(9_000))).HasField("put")
        assert (await leader.put(b"k", bytes(10_000))).error.code == common_pb2.OVERLOADED


async def test_a_write_whose_deadline_passed_is_not_proposed() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        last = leader.node.raft.log.last_index
        late = leader.node.propose(Group(0, 0, puts(1)), 100, deadline(-1))
        await leader.node.propose(Group(0, 0, puts(1, start=9)), 100, deadline())
        with pytest.raises(Exception, match="no effect"):
            await late
        assert leader.node.raft.log.last_index == last + 1


async def test_bug_39_a_failed_disk_stops_the_node_and_says_so_to_everybody() -> None:
    """A retry after a failed fsync would lie (Rebello et al., ATC'20)."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        leader.disk.fail_next = OSError(5, "Input/output error")
        outcome = leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        with pytest.raises(ShuttingDown) as refused:
            await asyncio.wait_for(outcome, 60)
        assert refused.value.ambiguous
        with pytest.raises(StorageError):
            await asyncio.wait_for(leader.node.failure, 60)
        with pytest.raises(ShuttingDown):
            leader.node.propose(Group(0, 0, puts(1)), 100, deadline())
        await cluster.leader(other_than=leader.id)


async def test_handing_over_loses_no_request() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        writes = [
            asyncio.create_task(leader.put(b"k%d" % number, b"v", session=session, sequence=number))
            for number in range(1, 40)
        ]
        assert await leader.node.hand_over(10.0)
        results = await asyncio.gather(*writes)
        assert all(result.HasField("put") for result in results), results
        assert not leader.node.is_leader


async def test_a_restarted_node_serves_what_it_knew_to_be_committed() -> None:
    """An empty read after a restart (redisraft#18, raft-bugs 30): the log's commit index is applied before serving."""
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        await member.put(b"a", b"1")
        await member.put(b"b", b"2")  # its write carries the commit index of the first one
        await member.node.stop()
        member.store = MemoryOrderedStore()  # the state store is lost with the machine
        await member.start()
        assert member.node.machine.applied_index >= Index(2)
        read = await member.get(b"a", kv_pb2.LOCAL)
        assert read.range.kvs[0].value == b"1"
        await cluster.leader()
        assert (await member.get(b"b")).range.kvs[0].value == b"2"


async def test_a_stopped_node_answers_what_waits() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        for member in cluster.nodes:
            cluster.isolate(member)
        waiting = asyncio.create_task(follower.put(b"k", b"v"))
        await until(lambda: follower.node.leader is None)
        await follower.node.stop()
        result = await asyncio.wait_for(waiting, 60)
        assert result.error.code in (common_pb2.SHUTTING_DOWN, common_pb2.NO_LEADER, common_pb2.LEADER_CHANGED)


async def test_range_deletes_do_not_share_an_entry() -> None:
    """Applying one may take tens of milliseconds, and heartbeats wait while an entry is applied."""
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        await member.node.propose(Group(0, 0, puts(9)), 100, deadline())
        before = member.node.raft.log.last_index
        batch = kv_pb2.BatchRequest()
        for number in range(1, 4):
            delete = kv_pb2.DeleteRequest(key=b"key-%d" % number, range_end=b"key-%d\0" % number)
            batch.operations.add(id=number, delete=delete)
            batch.operations.add(id=number + 10, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        response = await member.requests.run(batch, forwarded=False)
        assert sorted(result.id for result in response.results) == [1, 2, 3, 11, 12, 13]
        assert sum(result.delete.deleted for result in response.results) == 3
        assert member.node.raft.log.last_index == before + 4


async def test_each_part_of_a_mixed_batch_takes_only_its_own_room() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        batch = kv_pb2.BatchRequest(timeout_ms=20_000)
        batch.operations.add(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"x" * 900_000))
        for number in range(2, 82):
            batch.operations.add(id=number, delete=kv_pb2.DeleteRequest(key=b"a", range_end=b"b"))
        response = await member.requests.run(batch, forwarded=False)
        assert len(response.results) == 81
        assert not [result for result in response.results if result.HasField("error")]


async def test_what_finds_no_room_is_refused_alone() -> None:
    """The parts of the batch that were proposed take effect, and are not called "no effect"."""
    async with MemoryCluster(1, limits=NodeLimits(tick_s=TICK_S, max_proposal_commands=3)) as cluster:
        member = await cluster.leader()
        batch = kv_pb2.BatchRequest()
        for number in range(1, 6):
            batch.operations.add(id=number, delete=kv_pb2.DeleteRequest(key=b"%d" % number, range_end=b"9"))
        batch.operations.add(id=9, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        response = await member.requests.run(batch, forwarded=False)
        refused = {result.id for result in response.results if result.HasField("error")}
        assert len(response.results) == 6
        assert refused == {4, 5, 9}
        assert {result.error.code for result in response.results if result.id in refused} == {common_pb2.OVERLOADED}


async def test_operations_of_one_id_are_refused() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        batch = kv_pb2.BatchRequest()
        batch.operations.add(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        batch.operations.add(id=1, range=kv_pb2.RangeRequest(key=b"k", level=kv_pb2.LOCAL))
        response = await member.requests.run(batch, forwarded=False)
        assert [result.error.code for result in response.results] == [common_pb2.INVALID_ARGUMENT] * 2
        assert member.node.machine.revision == 1


async def test_a_registration_does_not_belong_to_the_session_of_its_batch() -> None:
    """The client's old session may have expired, and writes of it may travel along."""
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        batch = kv_pb2.BatchRequest(session=12345)
        batch.operations.add(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        batch.operations.add(id=2, register_session=kv_pb2.RegisterSessionRequest())
        response = await member.requests.run(batch, forwarded=False)
        results = {result.id: result for result in response.results}
        assert results[1].error.code == common_pb2.SESSION_EXPIRED
        assert results[2].register_session.session > 0


async def test_answers_that_are_too_large_together_are_asked_for_again() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        await member.put(b"k", b"x" * 1_000_000)
        batch = kv_pb2.BatchRequest()
        for number in range(1, 9):
            batch.operations.add(id=number, range=kv_pb2.RangeRequest(key=b"k"))
        response = await member.requests.run(batch, forwarded=False)
        refused = [result for result in response.results if result.HasField("error")]
        assert len(response.results) == 8
        assert 1 <= len(refused) <= 4
        assert all(result.error.code == common_pb2.OVERLOADED and result.error.retryable for result in refused)
        assert response.ByteSize() < 8 << 20


async def test_a_page_is_bounded_by_its_number_of_pairs() -> None:
    """Turning 65,536 keys into an answer took 300 ms, in which no heartbeat left."""
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        for start in range(1, 3000, 1000):
            await member.node.propose(Group(0, 0, puts(1000, start=start)), 100, deadline())
        result = await member.run(
            kv_pb2.Operation(id=1, range=kv_pb2.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
        )
        assert len(result.range.kvs) == PAGE_PAIRS
        assert result.range.more


async def test_reads_are_refused_when_too_many_wait() -> None:
    async with MemoryCluster(limits=NodeLimits(tick_s=TICK_S, max_reads=3)) as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader.id)
        waiting = [leader.node.read_barrier() for _ in range(3)]
        with pytest.raises(Overloaded, match="3 batches"):
            leader.node.read_barrier()
        for barrier in waiting:
            with pytest.raises(NotLeader):
                await barrier
        cluster.heal()
        assert (await leader.get(b"k")).HasField("range")


async def test_bug_44_a_leader_that_lost_its_term_admits_what_it_had_begun() -> None:
    """It answers a forwarded batch NOT_LEADER, but the first attempt may still take effect."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        session = await leader.register()
        not_leader = common_pb2.Error(code=common_pb2.NOT_LEADER, ambiguous=True, retryable=True)
        answer = kv_pb2.BatchResponse(results=[kv_pb2.OperationResult(id=1, error=not_leader)])

        async def forward(to: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
            return answer

        cluster.forward = forward  # type: ignore[method-assign, assignment]
        put = kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        result = await follower.run(put, session, timeout_ms=300)
        assert result.HasField("error")
        assert result.error.ambiguous


async def test_bug_32_entries_that_are_replaced_were_on_disk_before_their_promise_left() -> None:
    """Writes gather while the disk is busy; one that replaces entries of an earlier one is not merged with it."""
    async with MemoryCluster(1) as cluster:
        node = (await cluster.leader()).node
        term = node.raft.term

        def write(number: int, *indexes: int) -> LogWrite:
            entries = tuple(Entry(term, Index(index)) for index in indexes)
            return LogWrite(
                number=number, hard_state=HardState(term), entries=entries, messages=(), needs_disk=bool(entries)
            )

        node._writes.extend([write(1, 5), write(2), write(3, 6, 7), write(4, 6), write(5, 7)])
        assert [write.number for write in node._next_writes()] == [1, 2, 3]
        assert [write.number for write in node._next_writes()] == [4, 5]
        # A promise may come in a write of its own, behind that of its entries.
        node._stored_index = Index(7)
        node._writes.extend([write(6), write(7, 7), write(8, 8)])
        assert [write.number for write in node._next_writes()] == [6]
        assert [write.number for write in node._next_writes()] == [7, 8]


async def test_a_long_range_lets_others_in() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        await member.node.propose(Group(0, 0, puts(5000)), 100, deadline())
        turns = 0
        done = False

        async def count_turns() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count_turns())
        result = await member.run(
            kv_pb2.Operation(id=1, range=kv_pb2.RangeRequest(key=b"\0", range_end=b"\0", count_only=True))
        )
        done = True
        await counter
        assert result.range.count == 5000
        assert turns >= 10
