"""How a follower reaches its leader: over the peer channel, so that a partition between nodes cuts this as well."""

from __future__ import annotations

from raftkv.raft import NodeId
from raftkv.transport.calls import unavailable, unless_cancelled
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import kv_pb2, peer_pb2


class PeerForwarder:
    """The `Forwarder` of a node on a network."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport

    async def forward(self, leader: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        """See `Forwarder.forward`."""
        identity = self._transport.identity
        request = peer_pb2.ForwardRequest(cluster_id=identity.cluster_id, batch=batch)
        setattr(request, "from", identity.node_id)
        stub = self._transport.stub(leader)
        if stub is None:
            raise unavailable(f"no way to node {leader} is known")
        return await unless_cancelled(stub.Forward(request, timeout=timeout_s))

    def client_address(self, node: NodeId) -> str:
        """See `Forwarder.client_address`."""
        return self._transport.client_addresses.get(node, "")
