"""raftkv.v1.Peer: what nodes call on each other, served on the peer address only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from raftkv.errors import ClusterMismatch, FailedPrecondition, RaftKVError
from raftkv.raft import NodeId
from raftkv.server import wire
from raftkv.server.requests import Requests
from raftkv.server.services.cluster import LeadershipTransfers
from raftkv.server.services.comparison import StateComparisons
from raftkv.server.services.members import MembershipChanges
from raftkv.server.services.status import abort, answered
from raftkv.transport import checkpoints
from raftkv.transport.grpc_peer import GrpcTransport, PeerStreams
from raftkv.v1 import cluster_pb2, kv_pb2, maintenance_pb2, peer_pb2
from raftkv.v1.peer_pb2_grpc import PeerServicer


class PeerService(PeerServicer):
    """Raft messages, what followers forward, and what nodes ask each other for reads."""

    def __init__(
        self,
        transport: GrpcTransport,
        requests: Requests,
        transfers: LeadershipTransfers,
        changes: MembershipChanges,
        comparisons: StateComparisons,
    ) -> None:
        self._transport = transport
        self._changes = changes
        self._comparisons = comparisons
        self._streams = PeerStreams(transport)
        self._requests = requests
        self._transfers = transfers

    async def Stream(  # noqa: N802 - the name in the proto
        self,
        request_iterator: AsyncIterator[peer_pb2.PeerFrame],
        context: grpc.aio.ServicerContext[peer_pb2.PeerFrame, peer_pb2.HelloReply],
    ) -> AsyncIterator[peer_pb2.HelloReply]:
        async for reply in self._streams.serve(request_iterator, context):
            yield reply

    async def SendCheckpoint(  # noqa: N802
        self,
        request_iterator: AsyncIterator[peer_pb2.CheckpointPiece],
        context: grpc.aio.ServicerContext[peer_pb2.CheckpointPiece, peer_pb2.CheckpointProgress],
    ) -> AsyncIterator[peer_pb2.CheckpointProgress]:
        async for progress in checkpoints.receive(self._transport, request_iterator, context):
            yield progress

    async def Forward(  # noqa: N802
        self,
        request: peer_pb2.ForwardRequest,
        context: grpc.aio.ServicerContext[peer_pb2.ForwardRequest, kv_pb2.BatchResponse],
    ) -> kv_pb2.BatchResponse:
        await self._check(request, context)
        return await self._requests.run(request.batch, forwarded=True)

    async def ReadIndex(  # noqa: N802
        self,
        request: peer_pb2.ReadIndexRequest,
        context: grpc.aio.ServicerContext[peer_pb2.ReadIndexRequest, peer_pb2.ReadIndexResponse],
    ) -> peer_pb2.ReadIndexResponse:
        await self._check(request, context)
        return await answered(context, self._requests.reads.read_index())

    async def LogEnd(  # noqa: N802
        self,
        request: peer_pb2.PeerLogEndRequest,
        context: grpc.aio.ServicerContext[peer_pb2.PeerLogEndRequest, kv_pb2.LogEndResponse],
    ) -> kv_pb2.LogEndResponse:
        await self._check(request, context)
        try:
            return self._requests.reads.log_end()
        except RaftKVError as error:
            await abort(context, wire.to_error(error))

    async def ForwardTransferLeader(  # noqa: N802
        self,
        request: peer_pb2.ForwardTransferLeaderRequest,
        context: grpc.aio.ServicerContext[peer_pb2.ForwardTransferLeaderRequest, cluster_pb2.TransferLeaderResponse],
    ) -> cluster_pb2.TransferLeaderResponse:
        await self._check(request, context)
        return await answered(context, self._transfers.run_here(request.request))

    async def ForwardChangeMembers(  # noqa: N802
        self,
        request: peer_pb2.ForwardChangeMembersRequest,
        context: grpc.aio.ServicerContext[peer_pb2.ForwardChangeMembersRequest, cluster_pb2.ChangeMembersResponse],
    ) -> cluster_pb2.ChangeMembersResponse:
        await self._check(request, context)
        return await answered(context, self._changes.run_here(request.request))

    async def ForwardCompareStates(  # noqa: N802
        self,
        request: peer_pb2.ForwardCompareStatesRequest,
        context: grpc.aio.ServicerContext[peer_pb2.ForwardCompareStatesRequest, maintenance_pb2.CompareStatesResponse],
    ) -> maintenance_pb2.CompareStatesResponse:
        await self._check(request, context)
        return await answered(context, self._comparisons.run_here())

    async def StateHashAt(  # noqa: N802
        self,
        request: peer_pb2.StateHashAtRequest,
        context: grpc.aio.ServicerContext[peer_pb2.StateHashAtRequest, peer_pb2.StateHashAtResponse],
    ) -> peer_pb2.StateHashAtResponse:
        await self._check(request, context)
        return await self._comparisons.hash_at(request.index, context.time_remaining())

    async def Condemn(  # noqa: N802
        self,
        request: peer_pb2.CondemnRequest,
        context: grpc.aio.ServicerContext[peer_pb2.CondemnRequest, peer_pb2.CondemnResponse],
    ) -> peer_pb2.CondemnResponse:
        await self._check(request, context)
        return peer_pb2.CondemnResponse(condemned=await answered(context, self._comparisons.told(request)))

    async def _check(
        self,
        request: peer_pb2.ForwardRequest
        | peer_pb2.ReadIndexRequest
        | peer_pb2.PeerLogEndRequest
        | peer_pb2.ForwardTransferLeaderRequest
        | peer_pb2.ForwardChangeMembersRequest
        | peer_pb2.ForwardCompareStatesRequest
        | peer_pb2.StateHashAtRequest
        | peer_pb2.CondemnRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        identity = self._transport.identity
        sender = getattr(request, "from")
        if request.cluster_id != identity.cluster_id:
            mismatch = ClusterMismatch(
                f"node {sender} of cluster {request.cluster_id:016x} is not a peer of node {identity.node_id} "
                f"of cluster {identity.cluster_id:016x}"
            )
            await abort(context, wire.to_error(mismatch))
        no_peer = self._transport.no_peer(NodeId(sender), context)
        if no_peer is not None:
            self._transport.log_refusal(context, no_peer)
            await abort(context, wire.to_error(FailedPrecondition(f"refused: {no_peer}")))
