"""Comparing states, wherever the request comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.errors import NotLeader
from raftkv.server.comparison import HASHING_S, Comparison
from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.leading import on_leader
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import maintenance_pb2 as pb
from raftkv.v1 import peer_pb2

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

FORWARD_S = 2 * HASHING_S
"""The caller's deadline ends it sooner; a comparison that is under way comes first."""


class StateComparisons:
    """The calls about it of one node."""

    def __init__(self, node: Node, comparison: Comparison, requests: Requests, transport: GrpcTransport) -> None:
        self._node = node
        self._comparison = comparison
        self._requests = requests
        self._transport = transport

    async def run(self, request: pb.CompareStatesRequest) -> pb.CompareStatesResponse:
        """Run here when this node leads, else on the leader. Raises RaftKVError."""
        identity = self._transport.identity
        forward = peer_pb2.ForwardCompareStatesRequest(cluster_id=identity.cluster_id, request=request)
        setattr(forward, "from", identity.node_id)

        async def there(stub: PeerAsyncStub) -> pb.CompareStatesResponse:
            return await stub.ForwardCompareStates(forward, timeout=FORWARD_S)

        return await on_leader(self._node, self._transport, here=self.run_here, there=there)

    async def run_here(self) -> pb.CompareStatesResponse:
        """Compare. Raises RaftKVError, NotLeader among others."""
        if not self._node.is_leader:
            raise NotLeader(f"node {self._node.raft.node_id} is not the leader")
        found = await self._comparison.compare()
        return pb.CompareStatesResponse(header=self._requests.header(), comparison=found)

    async def hash_at(self, index: int, timeout_s: float | None) -> peer_pb2.StateHashAtResponse:
        """Answer a peer that waits for so long."""
        return await self._comparison.hash_at(index, HASHING_S if timeout_s is None else timeout_s)

    async def told(self, verdict: peer_pb2.CondemnRequest) -> bool:
        """See `Comparison.told`."""
        return await self._comparison.told(verdict)
