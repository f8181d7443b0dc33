"""Changing the members, and saying who they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raftkv.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, LeaderChanged, NotLeader, ShuttingDown
from raftkv.raft import Configuration, MembershipChange, NodeId, Position, Term
from raftkv.raft.membership import spent_id
from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.leading import on_leader
from raftkv.server.settings import check_address
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1 import peer_pb2

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

CHANGE_TIMEOUT_S = 10.0
"""A change that is not over by then goes on by itself; the answer says so."""


def members_of(configuration: Configuration, transport: GrpcTransport) -> list[pb.Member]:
    """Return the members of `configuration` in their wire form."""
    addresses = dict(configuration.addresses)
    return [
        pb.Member(
            id=node,
            peer_address=addresses.get(node, ""),
            client_address=transport.client_addresses.get(node, ""),
            kind=_kind(configuration, node),
            leaving=node not in configuration.voters | configuration.learners,
        )
        for node in sorted(configuration.members)
    ]


def _kind(configuration: Configuration, node: NodeId) -> pb.MemberKind.ValueType:
    if node in configuration.witnesses:
        return pb.WITNESS
    return pb.LEARNER if node in configuration.learners else pb.VOTER


class MembershipChanges:
    """One at a time, run by the leader, answered when the new configuration alone is in force."""

    def __init__(self, node: Node, requests: Requests, transport: GrpcTransport) -> None:
        self._node = node
        self._requests = requests
        self._transport = transport

    async def run(self, request: pb.ChangeMembersRequest) -> pb.ChangeMembersResponse:
        """Run here when this node leads, else on the leader. Raises RaftKVError."""
        identity = self._transport.identity
        forward = peer_pb2.ForwardChangeMembersRequest(cluster_id=identity.cluster_id, request=request)
        setattr(forward, "from", identity.node_id)

        async def there(stub: PeerAsyncStub) -> pb.ChangeMembersResponse:
            return await stub.ForwardChangeMembers(forward, timeout=CHANGE_TIMEOUT_S + 1)

        return await on_leader(self._node, self._transport, here=lambda: self.run_here(request), there=there)

    async def run_here(self, request: pb.ChangeMembersRequest) -> pb.ChangeMembersResponse:
        """Change the members; this node must lead. Raises InvalidArgument, and what `change` does."""
        await self.change(_decode(request))
        return pb.ChangeMembersResponse(
            header=self._requests.header(), members=members_of(self._node.raft.configuration, self._transport)
        )

    async def change(self, change: MembershipChange) -> None:
        """Change the members; return when the new configuration alone is in force. This node must lead.

        Raises FailedPrecondition, NotLeader (no effect), LeaderChanged (ambiguous), DeadlineExceeded and
        ShuttingDown (ambiguous where they say so).
        """
        node = self._node
        deadline = asyncio.get_running_loop().time() + CHANGE_TIMEOUT_S
        await self._settled(deadline)
        began = node.change_membership(change)
        if isinstance(began, str):
            # While another change is under way, that is what it is refused for.
            spent = None if node.raft.changing else spent_id(node.raft.configuration, change)
            raise FailedPrecondition(began, number=spent or 0)
        try:
            async with asyncio.timeout_at(deadline):
                while node.raft.changing and self._leads_in(began.term):
                    await node.leadership_changed()
        except ShuttingDown as error:
            raise ShuttingDown(f"{error.message}: see `raftkv member list`", ambiguous=True) from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"the change of the members is not over after {CHANGE_TIMEOUT_S:g} s; it goes on by itself as soon as "
                "majorities of the old and of the new voters can be reached: see `raftkv member list`",
                ambiguous=True,
            ) from None
        if not self._leads_in(began.term) and not self._is_over(began):
            raise LeaderChanged(
                "leadership was lost during the change of the members: see `raftkv member list`", ambiguous=True
            )

    def _leads_in(self, term: Term) -> bool:
        return self._node.is_leader and self._node.raft.term == term

    def _is_over(self, began: Position) -> bool:
        """Whether a node that leads no more, as one that has removed itself, knows that the change is made.

        That nothing is under way proves nothing: a successor may have rolled it back.
        """
        raft = self._node.raft
        return not raft.changing and raft.log.commit >= began.index and raft.log.matches(began.index, began.term)

    async def _settled(self, deadline: float) -> None:
        """Wait until this leader may begin a change: it has committed something in its term, and is not handing over.

        Raises NotLeader, DeadlineExceeded, ShuttingDown (no effect).
        """
        node = self._node
        try:
            async with asyncio.timeout_at(deadline):
                while node.is_leader and (node.raft.transferring or not node.raft.term_is_committed):
                    await node.leadership_changed()
            if not node.is_leader:
                raise NotLeader(f"node {node.raft.node_id} is not the leader")
        except TimeoutError:
            raise DeadlineExceeded(
                f"no majority has confirmed this leader within {CHANGE_TIMEOUT_S:g} s: nothing was changed"
            ) from None


def _decode(request: pb.ChangeMembersRequest) -> MembershipChange:
    """Raises InvalidArgument."""
    for one in request.add:
        try:
            check_address(one.peer_address)
        except ValueError as error:
            raise InvalidArgument(f"the peer address of node {one.id}: {error}") from error
    if 0 in {*(one.id for one in request.add), *request.promote, *request.remove}:
        raise InvalidArgument("node ids start at 1")
    return MembershipChange(
        learners=tuple((NodeId(one.id), one.peer_address) for one in request.add if not one.witness),
        witnesses=tuple((NodeId(one.id), one.peer_address) for one in request.add if one.witness),
        promote=frozenset(NodeId(node) for node in request.promote),
        remove=frozenset(NodeId(node) for node in request.remove),
    )
