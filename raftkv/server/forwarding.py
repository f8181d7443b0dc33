"""How a node reaches its peers: over the peer channel, so that a partition between nodes cuts this as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from raftkv.raft import NodeId
from raftkv.server.services.status import error_of
from raftkv.transport.calls import unavailable, unless_cancelled
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import kv_pb2, peer_pb2

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

R = TypeVar(
    "R",
    peer_pb2.ForwardRequest,
    peer_pb2.ReadIndexRequest,
    peer_pb2.PeerLogEndRequest,
    peer_pb2.StateHashAtRequest,
    peer_pb2.CondemnRequest,
)


class Forwarder(Protocol):
    """The way to other nodes. All calls raise grpc.aio.AioRpcError when nobody answers."""

    async def forward(self, node: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        """Run `batch` on `node`: its leader, for most that a batch may hold."""
        ...

    async def read_index(self, leader: NodeId, timeout_s: float) -> peer_pb2.ReadIndexResponse:
        """Ask `leader` how far a state must have come to be read linearizably, now. Raises RaftKVError (NotLeader)."""
        ...

    async def log_end(self, voter: NodeId, timeout_s: float) -> kv_pb2.LogEndResponse:
        """Ask `voter` what its log ends with. Raises RaftKVError, where it cannot say at the moment."""
        ...

    def client_address(self, node: NodeId) -> str:
        """Return where clients reach `node`; empty when unknown."""
        ...


class StatePeers(Protocol):
    """What nodes ask each other about their states. All calls raise grpc.aio.AioRpcError when nobody answers."""

    async def state_hash_at(self, node: NodeId, index: int, timeout_s: float) -> peer_pb2.StateHashAtResponse:
        """Ask `node` for the hash of its state after entry `index`; it waits until that is known, or never will be."""
        ...

    async def condemn(self, node: NodeId, verdict: peer_pb2.CondemnRequest, timeout_s: float) -> bool:
        """Tell `node` what a comparison came to. Return whether it has taken itself out of service."""
        ...


class PeerForwarder:
    """The `Forwarder` of a node on a network."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport

    async def forward(self, node: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        """See `Forwarder.forward`."""
        stub = self._stub(node)
        request = self._signed(peer_pb2.ForwardRequest(batch=batch))
        return await unless_cancelled(stub.Forward(request, timeout=timeout_s))

    async def read_index(self, leader: NodeId, timeout_s: float) -> peer_pb2.ReadIndexResponse:
        """See `Forwarder.read_index`."""
        stub = self._stub(leader)
        request = self._signed(peer_pb2.ReadIndexRequest())
        try:
            return await unless_cancelled(stub.ReadIndex(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise _cause(failure) from None

    async def log_end(self, voter: NodeId, timeout_s: float) -> kv_pb2.LogEndResponse:
        """See `Forwarder.log_end`."""
        stub = self._stub(voter)
        request = self._signed(peer_pb2.PeerLogEndRequest())
        try:
            return await unless_cancelled(stub.LogEnd(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise _cause(failure) from None

    async def state_hash_at(self, node: NodeId, index: int, timeout_s: float) -> peer_pb2.StateHashAtResponse:
        """See `StatePeers.state_hash_at`."""
        request = self._signed(peer_pb2.StateHashAtRequest(index=index))
        return await unless_cancelled(self._stub(node).StateHashAt(request, timeout=timeout_s))

    async def condemn(self, node: NodeId, verdict: peer_pb2.CondemnRequest, timeout_s: float) -> bool:
        """See `StatePeers.condemn`."""
        answer = await unless_cancelled(self._stub(node).Condemn(self._signed(verdict), timeout=timeout_s))
        return answer.condemned

    def client_address(self, node: NodeId) -> str:
        """See `Forwarder.client_address`."""
        return self._transport.client_addresses.get(node, "")

    def _stub(self, node: NodeId) -> PeerAsyncStub:
        stub = self._transport.stub(node)
        if stub is None:
            raise unavailable(f"no way to node {node} is known")
        return stub

    def _signed(self, request: R) -> R:
        identity = self._transport.identity
        request.cluster_id = identity.cluster_id
        setattr(request, "from", identity.node_id)
        return request


def _cause(failure: grpc.aio.AioRpcError) -> Exception:
    """Return what the peer said, or that it said nothing."""
    answered: Any = error_of(failure)
    return answered if answered is not None else failure
