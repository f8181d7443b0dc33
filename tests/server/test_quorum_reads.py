"""Quorum reads: no leader in the path, and never more than is true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.client.core import DEFAULT_ATTEMPT_TIMEOUT_S
from raftkv.errors import QuorumUnavailable
from raftkv.kv.commands import Group, Put
from raftkv.quorum import Guarantee, LogEnd
from raftkv.raft import Configuration, Entry, Index, NodeId, Term
from raftkv.raft.log import Log
from raftkv.server.log_end import own_answer
from raftkv.server.quorum_reads import ROUND_TIMEOUT_S, QuorumReads
from raftkv.transport.calls import unavailable
from raftkv.v1 import common_pb2, kv_pb2, peer_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.server.reading import Answer, Held, appended, others, read, settled, written_behind


async def quorum(member: MemoryNode, replicas: int = 0, timeout_ms: int = 0) -> Answer:
    return await read(member, kv_pb2.QUORUM, timeout_ms, replicas=replicas)


async def test_it_goes_on_without_any_leader() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        await settled(cluster)
        cluster.silence()
        await until(lambda: all(member.node.leader is None for member in cluster.nodes.values()))
        for member in cluster.nodes.values():
            answer = await quorum(member)
            assert (answer.value, answer.guarantee) == (b"v", Guarantee.LINEARIZABLE)


async def test_it_goes_on_with_the_leader_dead() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        await settled(cluster)
        cluster.silence()
        await leader.node.stop()
        cluster.cut_off.add(leader.id)
        for member in others(cluster, leader):
            assert (await quorum(member)).value == b"v"


async def test_below_r_voters_it_is_refused_and_says_who_did_not_answer() -> None:
    async with MemoryCluster() as cluster:
        await settled(cluster)
        cluster.isolate(1)
        error = (await quorum(cluster[1])).error
        assert (error.code, error.retryable) == (common_pb2.QUORUM_UNAVAILABLE, True)
        assert "QUORUM(2) of 3 voters: 1 answered" in error.message
        assert "node 2 (UNAVAILABLE), node 3 (UNAVAILABLE)" in error.message
        error = (await quorum(cluster[2], 3)).error
        assert error.code == common_pb2.QUORUM_UNAVAILABLE
        assert "node 1 (UNAVAILABLE)" in error.message
        assert (await quorum(cluster[2], 2)).receipt.replicas == 2


async def test_voters_that_say_nothing_are_waited_for_in_bounded_time() -> None:
    async with MemoryCluster() as cluster:
        await settled(cluster)
        cluster.before_call = held = Held(1)
        error = (await quorum(cluster[1], timeout_ms=60)).error
        assert error.code == common_pb2.QUORUM_UNAVAILABLE
        assert "node 2 (no answer in time), node 3 (no answer in time)" in error.message
        assert cluster.calls[1, 2] == cluster.calls[1, 3] == 1
        again = [asyncio.create_task(quorum(cluster[1], timeout_ms=60)) for _ in range(20)]
        await asyncio.wait(again)
        assert cluster.calls[1, 2] == cluster.calls[1, 3] == 1, "no more than one question to a voter is open"
        held.let_go()
        assert not (await quorum(cluster[1])).error.code


async def test_nothing_is_kept_for_a_number_that_is_not_possible() -> None:
    """Or whoever sends bad numbers could fill the memory."""
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        rounds = leader.requests.reads._quorum
        for replicas in (4, 5, 2**32 - 1):
            error = (await quorum(leader, replicas)).error
            assert error.code == common_pb2.INVALID_ARGUMENT
            assert "1 to 3 voters" in error.message
        assert not any((rounds._questions, rounds._rounds))
        assert sum(cluster.calls.values()) == 0
        for replicas in (0, 2):
            assert (await quorum(leader, replicas)).receipt.replicas == 2
        assert list(rounds._rounds) == [2], "a majority is its number"


async def test_a_majority_is_one_of_the_members_that_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number was found for others, before the round began."""
    async with MemoryCluster(5) as cluster:
        leader = await settled(cluster)
        rounds = leader.requests.reads._quorum
        monkeypatch.setattr(rounds, "_number", lambda replicas: 2)
        assert (await quorum(leader)).receipt.replicas == 3


def test_what_keeps_a_node_from_answering_is_told_before_clients_ask_another() -> None:
    """Or its callers would hear of a node that fell silent, and not of the voters that did."""
    assert ROUND_TIMEOUT_S <= 0.8 * DEFAULT_ATTEMPT_TIMEOUT_S


async def test_an_end_of_the_log_that_may_not_be_committed_is_waited_for() -> None:
    """The rinse. Control: without it the read answers at once, and the next one may say something else."""
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        cluster.silence()
        await appended(leader, b"maybe")
        follower = cluster.follower(leader)
        refused = (await quorum(follower, 3, 60)).error
        assert (refused.code, refused.retryable) == (common_pb2.QUORUM_UNAVAILABLE, True)
        assert "needs a leader" in refused.message
        waiting = asyncio.create_task(quorum(follower, 3, 10_000))
        cluster.heal()
        answer = await waiting
        assert not answer.error.code
        await settled(cluster)
        # It answered what was decided, by whoever leads now.
        decided = await read(follower, kv_pb2.LINEARIZABLE)
        assert decided.value in (None, b"maybe")
        assert answer.value == decided.value


async def test_a_voter_that_has_it_already_answers_for_a_node_that_lags() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        behind = cluster.follower(leader)
        await written_behind(cluster, leader, behind, b"v")
        answer = await quorum(behind)
        assert answer.value == b"v"
        assert answer.receipt.served_by in {member.id for member in others(cluster, behind)}
        assert (answer.guarantee, answer.receipt.replicas) == (Guarantee.LINEARIZABLE, 2)
        assert answer.receipt.sees_writes_at == 2
        assert answer.receipt.applied_index >= leader.node.raft.log.commit
        assert cluster.forwarded == 1


async def test_where_that_voter_falls_silent_the_node_waits_for_its_own_state() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        behind = cluster.follower(leader)
        await written_behind(cluster, leader, behind, b"v")
        tried: list[int] = []

        async def forward(to: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
            tried.append(to)
            cluster.heal()
            raise unavailable("gone")

        cluster.forward = forward  # type: ignore[method-assign, assignment]
        answer = await quorum(behind)
        assert tried
        assert (answer.value, answer.receipt.served_by) == (b"v", behind.id)


async def test_a_holder_that_hangs_does_not_hold_up_a_state_that_has_come_so_far() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        behind = cluster.follower(leader)
        await written_behind(cluster, leader, behind, b"v")

        async def forward(to: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
            cluster.heal()
            await asyncio.Event().wait()
            raise AssertionError

        cluster.forward = forward  # type: ignore[method-assign, assignment]
        answer = await asyncio.wait_for(quorum(behind, timeout_ms=600_000), 60)
        assert (answer.value, answer.receipt.served_by) == (b"v", behind.id)


async def test_an_answer_from_an_earlier_state_is_not_taken_for_that_of_the_round() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        behind = cluster.follower(leader)
        await written_behind(cluster, leader, behind, b"v")

        async def forward(to: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
            cluster.heal()
            result = kv_pb2.OperationResult(id=1, range=kv_pb2.RangeResponse())
            return kv_pb2.BatchResponse(results=[result], read=common_pb2.ReadReceipt(applied_index=1, applied_term=1))

        cluster.forward = forward  # type: ignore[method-assign, assignment]
        answer = await quorum(behind)
        assert (answer.value, answer.receipt.served_by) == (b"v", behind.id)


async def test_a_read_joins_the_next_round_not_the_one_under_way() -> None:
    """Control: joined to the one under way, it would miss a write that was acknowledged before it began."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"old")
        await settled(cluster)
        behind = cluster.follower(leader)
        cluster.before_answer = held = Held(behind.id)
        early = asyncio.create_task(quorum(behind))
        await until(lambda: cluster.calls[behind.id, leader.id] == 1)
        await held.held.wait()  # the voters have said what their logs end with
        await written_behind(cluster, leader, behind, b"new")
        late = asyncio.create_task(quorum(behind))
        await asyncio.sleep(0)
        held.let_go()
        assert (await early).value == b"old"
        assert (await late).value == b"new"


async def test_what_a_slow_voter_was_asked_for_an_earlier_round_is_no_answer_to_a_later_one() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"old")
        await settled(cluster)
        behind = cluster.follower(leader)
        (other,) = others(cluster, leader, behind)
        held = Held(behind.id)

        async def slow(sender: int, receiver: int) -> None:
            if receiver == leader.id:
                await held(sender, receiver)

        cluster.before_answer = slow
        assert (await quorum(behind)).value == b"old"  # the other one has answered
        await held.held.wait()
        await written_behind(cluster, leader, behind, b"new")
        cluster.cut_off.add(other.id)
        late = asyncio.create_task(quorum(behind))
        await asyncio.sleep(0)
        held.let_go()
        assert (await late).value == b"new"


async def test_reads_of_one_turn_share_a_round() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        asked = cluster.follower(leader)
        answers = await asyncio.gather(*[quorum(asked) for _ in range(100)])
        assert not any(answer.error.code for answer in answers)
        assert cluster.calls[asked.id, leader.id] == 1


async def test_a_witness_tells_where_the_log_ends_and_never_answers() -> None:
    async with MemoryCluster(witnesses=[3]) as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        log = leader.node.raft.log
        await until(lambda: cluster[3].node.raft.log.durable == log.last_index)
        end = cluster[3].requests.reads.log_end()
        assert (end.last_index, end.applied_index, end.applied_term) == (log.last_index, 0, 0)
        assert list(end.witnesses) == [3]
        other = next(member for member in others(cluster, leader) if member.id != 3)
        await until(lambda: other.node.machine.applied_index == log.last_index)
        other.node.raft.log.validate()
        cluster.cut_off.add(leader.id)
        answer = await quorum(other)
        assert (answer.value, answer.receipt.replicas) == (b"v", 2)  # this node and the witness


async def test_only_what_is_on_disk_is_told() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        before = leader.node.raft.log.last_index
        leader.gate.open = False
        loop = asyncio.get_running_loop()
        leader.node.propose(Group(0, 0, (Put(1, b"k", b"v"),)), 100, loop.time() + 10)
        await until(lambda: leader.node.raft.log.last_index > before)
        assert leader.requests.reads.log_end().last_index == before


def own_end(log: Log) -> LogEnd:
    configuration = Configuration(frozenset({NodeId(1)}))
    raft = SimpleNamespace(node_id=NodeId(1), log=log, configuration=configuration, configuration_index=0)
    return own_answer(cast(Any, SimpleNamespace(raft=raft))).end


def test_the_term_told_is_that_of_the_entry_on_disk() -> None:
    log = Log([Entry(Term(1), Index(1))], commit=Index(0), applied=Index(0))
    log.append([Entry(Term(2), Index(2))])
    assert own_end(log) == LogEnd(1, 1)
    log.durable = Index(2)
    assert own_end(log) == LogEnd(2, 2)


def test_while_a_snapshot_takes_the_logs_place_nothing_is_told() -> None:
    log = Log([Entry(Term(1), Index(1))], commit=Index(1), applied=Index(1))
    log.restore(Index(10), Term(3))
    with pytest.raises(QuorumUnavailable, match="snapshot") as refused:
        own_end(log)
    assert refused.value.retryable
    log.restored()
    assert own_end(log) == LogEnd(3, 10)


# --- other configurations, told by voters that only exist as answers --------------------------------------------------


class Script:
    """The other voters, as a coordinator hears them."""

    def __init__(self, answers: dict[int, Callable[[], kv_pb2.LogEndResponse]]) -> None:
        self.answers = answers
        self.asked: list[int] = []

    async def log_end(self, voter: NodeId, timeout_s: float) -> kv_pb2.LogEndResponse:
        self.asked.append(voter)
        if voter not in self.answers:
            raise unavailable("nobody there")
        return self.answers[voter]()

    async def forward(self, node: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        raise unavailable("nobody there")

    async def read_index(self, leader: NodeId, timeout_s: float) -> peer_pb2.ReadIndexResponse:
        raise unavailable("nobody there")

    def client_address(self, node: NodeId) -> str:
        return ""


def says(
    end: tuple[int, int], configuration: int = 0, voters: tuple[int, ...] = (1, 2, 3), *, joint: bool = False
) -> Callable[[], kv_pb2.LogEndResponse]:
    return lambda: kv_pb2.LogEndResponse(
        last_term=end[0], last_index=end[1], configuration_index=configuration, voters=voters, joint=joint
    )


async def find(cluster: MemoryCluster, script: Script, replicas: int = 0) -> tuple[LogEnd, frozenset[int]]:
    reads = QuorumReads(cluster[1].node, script, 0.2)
    found = await reads.find(replicas, asyncio.get_running_loop().time() + 10)
    return found.target, found.membership.voters


async def test_a_voter_that_knows_newer_members_makes_it_begin_anew_with_them() -> None:
    async with MemoryCluster() as cluster:
        await settled(cluster)
        members = 2, 3, 4
        script = Script({node: says((9, 90 + node), 80, members) for node in members})
        target, voters = await find(cluster, script)
        assert voters == frozenset(members)
        assert target in {LogEnd(9, 93), LogEnd(9, 94)}
        assert 4 in script.asked
        # Of those who are voters there, two are needed: what this node has does not count.
        script.answers = {2: script.answers[2]}
        with pytest.raises(QuorumUnavailable, match=r"1 answered, and not node 3 \(UNAVAILABLE\), node 4"):
            await find(cluster, script)


async def test_while_members_change_it_is_refused_and_may_be_tried_again() -> None:
    async with MemoryCluster() as cluster:
        await settled(cluster)
        script = Script({2: says((9, 90), 80, (2, 3, 4), joint=True)})
        with pytest.raises(QuorumUnavailable, match="being changed") as refused:
            await find(cluster, script)
        assert refused.value.retryable


async def test_a_learner_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryCluster() as cluster:
        await settled(cluster)
        raft = cluster[1].node.raft
        learns = Configuration(frozenset({NodeId(2), NodeId(3)}), learners=frozenset({NodeId(1)}))
        monkeypatch.setattr(type(raft), "configuration", property(lambda self: learns))
        script = Script({2: says((9, 90), 0, (2, 3))})
        with pytest.raises(QuorumUnavailable, match=r"QUORUM\(2\) of 2 voters: 1 answered, and not node 3"):
            await find(cluster, script)
        script.answers[3] = says((9, 95), 0, (2, 3))
        assert await find(cluster, script) == (LogEnd(9, 95), frozenset({2, 3}))


async def test_of_two_configurations_at_the_same_place_only_one_is_counted() -> None:
    """One of them is not committed, and never will be: their majorities need not intersect."""
    async with MemoryCluster() as cluster:
        await settled(cluster)
        script = Script({2: says((9, 90), 0, (1, 2, 3, 4)), 3: says((9, 91), 0, (1, 2, 3, 4))})
        with pytest.raises(QuorumUnavailable, match="1 answered"):
            await find(cluster, script)
