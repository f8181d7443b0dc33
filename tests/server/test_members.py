"""Changes of the members, as the leader's service runs them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from raftkv.errors import DeadlineExceeded, FailedPrecondition, LeaderChanged, NotLeader, ShuttingDown
from raftkv.raft import MembershipChange, NodeId
from raftkv.server.services.cluster import LeadershipTransfers
from raftkv.server.services.members import CHANGE_TIMEOUT_S, MembershipChanges
from raftkv.server.wire import from_error, to_error
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until

A_LEARNER = MembershipChange(learners=((NodeId(4), "node-4:1"),))


NO_TRANSPORT = cast(GrpcTransport, None)
"""It would carry requests to a leader, and tell addresses."""


def changes_of(member: MemoryNode) -> MembershipChanges:
    return MembershipChanges(member.node, member.requests, NO_TRANSPORT)


async def test_bug_18_a_change_waits_for_the_first_commit_of_a_new_leader() -> None:
    """A leader refuses changes before it; whoever asks has no part in that, and need not ask again."""
    async with MemoryCluster() as cluster:
        successor = cluster.follower(await cluster.leader())
        assert cluster[successor.node.leader or 0].node.transfer_leader(successor.id) is None
        while not successor.node.is_leader:
            await successor.node.leadership_changed()
        assert not successor.node.raft.term_is_committed
        assert isinstance(successor.node.change_membership(A_LEARNER), str)

        await changes_of(successor).change(A_LEARNER)

        assert successor.node.raft.configuration.learners == {4}


async def test_a_change_is_refused_where_nobody_leads_any_more() -> None:
    async with MemoryCluster() as cluster:
        follower = cluster.follower(await cluster.leader())
        with pytest.raises(NotLeader, match="is not the leader"):
            await changes_of(follower).change(A_LEARNER)


async def test_a_change_waits_for_a_transfer_to_end() -> None:
    """Whoever asks for it has no part in that either: it goes to the new leader."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        assert leader.node.transfer_leader(None) is None
        with pytest.raises(NotLeader):
            await changes_of(leader).change(A_LEARNER)


async def test_a_change_that_was_rolled_back_is_not_answered_as_made() -> None:
    """The successor's first entry replaces the change in the same step that ends the leadership: nothing is under way
    then, and nothing was changed."""
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        for other in cluster.ids:
            cluster.hub.cut(old.id, other)  # nobody hears it; it hears the others
        changing = asyncio.create_task(changes_of(old).change(A_LEARNER))
        new = await cluster.leader(other_than=old.id)
        with pytest.raises(LeaderChanged) as raised:
            await changing
        assert raised.value.ambiguous
        cluster.heal()
        await until(lambda: old.node.raft.log.commit == new.node.raft.log.commit)
        assert old.node.raft.configuration.learners == set()


async def test_a_leader_that_steps_down_does_not_keep_the_caller_waiting() -> None:
    """Without a quorum it steps down within its term: far sooner than the 10 s that a change may take."""
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        cluster.isolate(old.id)
        async with asyncio.timeout(CHANGE_TIMEOUT_S / 2):
            with pytest.raises(LeaderChanged):
                await changes_of(old).change(A_LEARNER)


async def test_a_leader_that_removes_itself_says_that_it_is_done() -> None:
    async with MemoryCluster() as cluster:
        old = await cluster.leader()
        await changes_of(old).change(MembershipChange(remove=frozenset([old.id])))
        new = await cluster.leader(other_than=old.id)
        await until(lambda: old.node.was_removed)
        assert old.id not in new.node.raft.voters

        stale = await old.get(b"key", kv_pb2.LOCAL)
        assert stale.error.code == common_pb2.NO_LEADER
        assert "is not a member of the cluster any more" in stale.error.message


async def test_a_transfer_whose_target_does_not_take_over_may_yet_happen() -> None:
    """TimeoutNow has left; it may arrive whenever the target is heard again."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        target = cluster.follower(leader)
        await until(lambda: leader.node.raft.followers()[target.id].match == leader.node.raft.log.last_index)
        cluster.hub.cut(leader.id, target.id)
        transfers = LeadershipTransfers(leader.node, leader.requests, NO_TRANSPORT)
        with pytest.raises(DeadlineExceeded) as raised:
            await transfers.run_here(cluster_pb2.TransferLeaderRequest(target=target.id))
        assert raised.value.ambiguous


async def test_a_stop_hands_over_although_a_transfer_is_under_way_already() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        assert leader.node.transfer_leader(None) is None
        assert leader.node.raft.transferring
        assert await leader.node.hand_over(5)


async def test_a_node_that_stops_does_not_say_that_a_change_it_has_begun_had_no_effect() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader.id)
        changing = asyncio.create_task(changes_of(leader).change(A_LEARNER))
        await until(lambda: leader.node.raft.changing)
        await leader.node.stop()
        with pytest.raises(ShuttingDown) as raised:
            await changing
        assert raised.value.ambiguous


async def test_a_change_that_is_refused_for_an_id_names_it_as_a_number() -> None:
    """`raftkv repair` takes the next one then, and must not take that for granted of other refusals."""
    joins = {node: MembershipChange(learners=((NodeId(node), f"elsewhere-{node}:1"),)) for node in (1, 4, 5)}
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        changes = changes_of(leader)
        await changes.change(joins[4])
        await changes.change(MembershipChange(remove=frozenset([NodeId(4)])))
        for node, text in ((1, "is a member already"), (4, "an id is used once")):
            with pytest.raises(FailedPrecondition, match=text) as raised:
                await changes.change(joins[node])
            assert raised.value.spent_id == node
            assert from_error(to_error(raised.value)).number == node
        cluster.silence()
        assert not isinstance(leader.node.change_membership(joins[5]), str)
        with pytest.raises(FailedPrecondition, match="another change") as raised:
            await changes.change(joins[5])
        assert raised.value.spent_id == 0
