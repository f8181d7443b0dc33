"""raftkv.v1.Cluster: what a node knows of itself and its cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

import raftkv
from raftkv.errors import DeadlineExceeded, FailedPrecondition, LeaderChanged, NotLeader, ShuttingDown
from raftkv.raft import NodeId, Role
from raftkv.server import wire
from raftkv.server.comparison import Comparison
from raftkv.server.drift import Drift
from raftkv.server.failovers import Failover
from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.leading import on_leader
from raftkv.server.services.members import MembershipChanges, members_of
from raftkv.server.services.status import abort, answered
from raftkv.storage.protocols import LogStore
from raftkv.transport.grpc_peer import GrpcTransport
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1 import peer_pb2
from raftkv.v1.cluster_pb2_grpc import ClusterServicer

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

HASH_ROWS = 2_000
"""Rows that are hashed in one go."""

TRANSFER_TIMEOUT_S = 5.0

_ROLES = {
    Role.FOLLOWER: pb.FOLLOWER,
    Role.PRE_CANDIDATE: pb.PRE_CANDIDATE,
    Role.CANDIDATE: pb.CANDIDATE,
    Role.LEADER: pb.LEADER,
}


def _failover(newest: Failover | None) -> pb.Failover | None:
    if newest is None:
        return None
    return pb.Failover(
        term=newest.reign.term,
        leader=newest.reign.leader,
        duration_ms=round(newest.duration_ms),
        ended_at_ms=int(newest.ended_at_s * 1000),
        planned=newest.planned,
    )


class LeadershipTransfers:
    """Handing leadership over, wherever the request comes in."""

    def __init__(self, node: Node, requests: Requests, transport: GrpcTransport) -> None:
        self._node = node
        self._requests = requests
        self._transport = transport

    async def run(self, request: pb.TransferLeaderRequest) -> pb.TransferLeaderResponse:
        """Run here when this node leads, else on the leader. Raises RaftKVError."""
        identity = self._transport.identity
        forward = peer_pb2.ForwardTransferLeaderRequest(cluster_id=identity.cluster_id, request=request)
        setattr(forward, "from", identity.node_id)

        async def there(stub: PeerAsyncStub) -> pb.TransferLeaderResponse:
            return await stub.ForwardTransferLeader(forward, timeout=TRANSFER_TIMEOUT_S + 1)

        return await on_leader(self._node, self._transport, here=lambda: self.run_here(request), there=there)

    async def run_here(self, request: pb.TransferLeaderRequest) -> pb.TransferLeaderResponse:
        """Hand over; answer when this node follows another leader.

        Raises NotLeader, FailedPrecondition (nothing was begun), LeaderChanged (another one was elected meanwhile),
        DeadlineExceeded (the target may yet take over) and ShuttingDown; the last three are ambiguous.
        """
        node = self._node
        if not node.is_leader:
            raise NotLeader(f"node {node.raft.node_id} is not the leader")
        if request.target == node.raft.node_id:
            return pb.TransferLeaderResponse(header=self._requests.header())
        refusal = node.transfer_leader(NodeId(request.target) if request.target else None)
        if refusal is not None:
            raise FailedPrecondition(refusal)
        try:
            finished = await node.transfer_finished(TRANSFER_TIMEOUT_S)
        except ShuttingDown as error:
            raise ShuttingDown(error.message, ambiguous=True) from None
        if not finished:
            raise DeadlineExceeded(
                "the target did not take over within an election timeout; it may yet: see `raftkv status`",
                ambiguous=True,
            )
        if request.target and node.leader != request.target:
            raise LeaderChanged(f"node {node.leader} was elected instead of node {request.target}", ambiguous=True)
        return pb.TransferLeaderResponse(header=self._requests.header())


class ClusterService(ClusterServicer):
    """Answers from this node's own state; only the transfer needs a leader."""

    def __init__(
        self,
        *,
        node: Node,
        log_store: LogStore,
        store_bytes: Callable[[], int],
        requests: Requests,
        transport: GrpcTransport,
        transfers: LeadershipTransfers,
        changes: MembershipChanges,
        comparison: Comparison,
        drift: Drift,
        scrub: Callable[[], pb.ScrubStatus] = pb.ScrubStatus,
        http_address: str = "",
        certificates: Callable[[], Sequence[pb.CertificateStatus]] = list,
    ) -> None:
        self._http_address = http_address
        self._certificates = certificates
        self._started_at_ms = int(time.time() * 1000)
        self._scrub = scrub
        self._node = node
        self._log_store = log_store
        self._store_bytes = store_bytes
        self._requests = requests
        self._transport = transport
        self._transfers = transfers
        self._changes = changes
        self._comparison = comparison
        self._drift = drift

    async def Status(  # noqa: N802 - the name in the proto
        self, request: pb.StatusRequest, context: grpc.aio.ServicerContext[pb.StatusRequest, pb.StatusResponse]
    ) -> pb.StatusResponse:
        return self.status()

    def status(self) -> pb.StatusResponse:
        """Return what this node knows of itself and its cluster now."""
        raft, machine, quota = self._node.raft, self._node.machine, self._requests.quota
        quota.report(self._node.alarms)
        return pb.StatusResponse(
            header=self._requests.header(),
            version=raftkv.__version__,
            role=_ROLES[raft.role],
            commit_index=raft.log.commit,
            applied_index=machine.applied_index,
            last_index=raft.log.last_index,
            durable_index=raft.log.durable,
            store_bytes=self._store_bytes(),
            log_bytes=self._log_store.size_bytes(),
            members=members_of(raft.configuration, self._transport),
            progress=[
                pb.PeerProgress(
                    id=peer,
                    match_index=status.match,
                    state=status.state.value,
                    recently_active=status.silent_ticks < raft.election_ticks,
                    lag_ms=int(self._node.lag_ms(peer, status.match)),
                    connected=self._transport.connected(peer),
                )
                for peer, status in sorted(raft.followers().items())
            ],
            used_bytes=self._node.used_bytes(),
            quota_bytes=quota.limit_bytes,
            alarms=self._node.alarms.raised(),
            disk=self._node.disk_health.status(),
            compacted_revision=machine.compacted_revision,
            sessions=machine.session_count,
            leases=len(machine.leases),
            watches=self._node.hub.watches,
            comparison=self._comparison.newest,
            scrub=self._scrub(),
            checkpoint=self._node.checkpoints.status(),
            transfers=self._node.checkpoints.transfers(),
            started_at_ms=self._started_at_ms,
            failover=_failover(self._node.failovers.newest),
            http_address=self._http_address,
            certificates=self._certificates(),
            settings_hash=self._drift.hash,
            drift=[
                pb.SettingsDrift(peer=peer, setting=one.setting, here=one.here, there=one.there)
                for peer, found in self._drift.differing.items()
                for one in found
            ],
            protocol_version=self._transport.protocol_version,
        )

    async def TransferLeader(  # noqa: N802
        self,
        request: pb.TransferLeaderRequest,
        context: grpc.aio.ServicerContext[pb.TransferLeaderRequest, pb.TransferLeaderResponse],
    ) -> pb.TransferLeaderResponse:
        return await answered(context, self._transfers.run(request))

    async def ChangeMembers(  # noqa: N802
        self,
        request: pb.ChangeMembersRequest,
        context: grpc.aio.ServicerContext[pb.ChangeMembersRequest, pb.ChangeMembersResponse],
    ) -> pb.ChangeMembersResponse:
        return await answered(context, self._changes.run(request))

    async def StateHash(  # noqa: N802
        self,
        request: pb.StateHashRequest,
        context: grpc.aio.ServicerContext[pb.StateHashRequest, pb.StateHashResponse],
    ) -> pb.StateHashResponse:
        if self._node.raft.is_witness:
            await abort(context, wire.to_error(FailedPrecondition("a witness holds no state")))
        with self._node.machine.view() as view:
            hasher = view.hasher()
            while not hasher.step(HASH_ROWS):  # noqa: ASYNC110 - gives way to others, waits for nothing
                await asyncio.sleep(0)
        return pb.StateHashResponse(
            header=self._requests.header(),
            applied_index=hasher.applied_index,
            applied_term=hasher.applied_term,
            hash=hasher.digest(),
        )
