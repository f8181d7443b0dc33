"""What a node's log ends with: the first half of a quorum read."""

from __future__ import annotations

from raftkv.errors import QuorumUnavailable
from raftkv.quorum import Answer, LogEnd, Membership
from raftkv.raft import NodeId
from raftkv.raft.quorum import Configuration
from raftkv.server.node import Node
from raftkv.v1 import kv_pb2


def log_end(node: Node) -> kv_pb2.LogEndResponse:
    """Return it, without a header. Raises QuorumUnavailable while a snapshot takes the log's place."""
    answer, machine = own_answer(node), node.machine
    membership, reads = answer.membership, not node.raft.is_witness and node.corruption is None
    return kv_pb2.LogEndResponse(
        last_term=answer.end.last_term,
        last_index=answer.end.last_index,
        applied_term=machine.applied_term if reads else 0,
        applied_index=machine.applied_index if reads else 0,
        configuration_index=membership.configuration_index,
        voters=sorted(membership.voters),
        witnesses=sorted(membership.witnesses),
        joint=membership.joint,
    )


def own_answer(node: Node) -> Answer:
    """Return the same as the rules of quorum reads have it.

    Only what is on disk: what is not may be forgotten, and then nobody may ever have had it.
    """
    log = node.raft.log
    last_term = log.term(log.durable)
    if last_term is None:
        # Of what it had on disk nothing counts any more, and what comes instead is not there yet.
        raise QuorumUnavailable(f"node {node.raft.node_id} takes a snapshot over: ask again")
    return Answer(LogEnd(last_term, log.durable), membership_of(node.raft.configuration, node.raft.configuration_index))


def membership_of(configuration: Configuration, index: int) -> Membership:
    """Return whom quorum reads count under a configuration."""
    witnesses = configuration.witnesses & configuration.voters
    return Membership(index, frozenset[int](configuration.voters), frozenset[int](witnesses), configuration.joint)


def answer_of(response: kv_pb2.LogEndResponse) -> Answer:
    """Return what a peer's answer says."""
    membership = Membership(
        response.configuration_index, frozenset(response.voters), frozenset(response.witnesses), response.joint
    )
    return Answer(LogEnd(response.last_term, response.last_index), membership)


def voters_of(membership: Membership) -> list[NodeId]:
    """Return the voters in a fixed order."""
    return [NodeId(voter) for voter in sorted(membership.voters)]
