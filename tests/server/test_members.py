"""Changes of the members, as the leader's service runs them."""

from __future__ import annotations

from typing import cast

import pytest

from raftkv.errors import FailedPrecondition
from raftkv.raft import MembershipChange, NodeId
from raftkv.server.services.members import MembershipChanges
from raftkv.transport.grpc_peer import GrpcTransport
from tests.server.memory_cluster import MemoryCluster, MemoryNode

A_LEARNER = MembershipChange(learners=((NodeId(4), "node-4:1"),))


def changes_of(member: MemoryNode) -> MembershipChanges:
    no_transport = cast(GrpcTransport, None)  # it carries requests to a leader and tells addresses
    return MembershipChanges(member.node, member.requests, no_transport)


async def test_bug_18_a_change_waits_for_the_first_commit_of_a_new_leader() -> None:
    """A leader refuses changes before it; whoever asks has no part in that, and need not ask again."""
    async with MemoryCluster() as cluster:
        successor = cluster.follower(await cluster.leader())
        assert cluster[successor.node.leader or 0].node.transfer_leader(successor.id) is None
        while not successor.node.is_leader:
            await successor.node.leadership_changed()
        assert not successor.node.raft.term_is_committed
        assert successor.node.change_membership(A_LEARNER) is not None

        await changes_of(successor).change(A_LEARNER)

        assert successor.node.raft.configuration.learners == {4}


async def test_a_change_is_refused_where_nobody_leads_any_more() -> None:
    async with MemoryCluster() as cluster:
        follower = cluster.follower(await cluster.leader())
        with pytest.raises(FailedPrecondition, match="is not the leader"):
            await changes_of(follower).change(A_LEARNER)
