"""Changing the members, and saying who they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from raftkv.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, LeaderChanged, RaftKVError
from raftkv.raft import Configuration, MembershipChange, NodeId, Term
from raftkv.server import wire
from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.leading import on_leader
from raftkv.server.services.status import abort
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

    async def run(
        self, request: pb.ChangeMembersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ChangeMembersResponse:
        """Run here when this node leads, else on the leader."""
        identity = self._transport.identity
        forward = peer_pb2.ForwardChangeMembersRequest(cluster_id=identity.cluster_id, request=request)
        setattr(forward, "from", identity.node_id)

        async def there(stub: PeerAsyncStub) -> pb.ChangeMembersResponse:
            return await stub.ForwardChangeMembers(forward, timeout=CHANGE_TIMEOUT_S + 1)

        return await on_leader(
            self._node, self._transport, context, here=lambda: self.run_here(request, context), there=there
        )

    async def run_here(
        self, request: pb.ChangeMembersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ChangeMembersResponse:
        """Change the members; this node must lead."""
        try:
            await self.change(_decode(request))
        except RaftKVError as error:
            await abort(context, wire.to_error(error))
        return pb.ChangeMembersResponse(
            header=self._requests.header(), members=members_of(self._node.raft.configuration, self._transport)
        )

    async def change(self, change: MembershipChange) -> None:
        """Change the members; return when the new configuration alone is in force. This node must lead.

        Raises FailedPrecondition (no effect), LeaderChanged, DeadlineExceeded (ambiguous where they say so) and
        ShuttingDown.
        """
        node = self._node
        term = node.raft.term
        await self._settled(term)
        refusal = node.change_membership(change)
        if refusal is not None:
            raise FailedPrecondition(refusal)
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                while node.raft.changing and node.raft.term == term:
                    await node.leadership_changed()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the change of the members is not over after {CHANGE_TIMEOUT_S:g} s; it goes on by itself as soon as "
                "majorities of the old and of the new voters can be reached: see `raftkv member list`",
                ambiguous=True,
            ) from None
        if node.raft.changing:
            raise LeaderChanged(
                "leadership was lost during the change of the members: see `raftkv member list`", ambiguous=True
            )

    async def _settled(self, term: Term) -> None:
        """Wait for the first commit of the term of a leader that has just taken office: before it, it changes nothing.

        Raises DeadlineExceeded, ShuttingDown (no effect).
        """
        node = self._node
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                while node.is_leader and node.raft.term == term and not node.raft.term_is_committed:
                    await node.leadership_changed()
        except TimeoutError:
            raise DeadlineExceeded(
                f"no majority has confirmed this leader's term within {CHANGE_TIMEOUT_S:g} s: nothing was changed"
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
