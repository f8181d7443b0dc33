"""A node as a process: builds the parts, serves, and stops in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from raftkv.errors import ConfigurationError, ShuttingDown
from raftkv.raft import Index, NodeId, Raft, RaftConfig
from raftkv.server.backups import Backups
from raftkv.server.certificates import Certificates, client_certificate, peer_certificate
from raftkv.server.clock import Clock, MonotonicClock
from raftkv.server.cluster import Cluster, find_cluster
from raftkv.server.comparison import Comparison
from raftkv.server.disk import Disk, open_disk
from raftkv.server.disk_health import disk_health
from raftkv.server.drift import Drift, agreed_settings
from raftkv.server.endpoints_book import keep_endpoints, known_endpoints
from raftkv.server.forwarding import PeerForwarder
from raftkv.server.grpc_health import report_health
from raftkv.server.http.no_site import NoSite
from raftkv.server.lease import quarantine_ticks
from raftkv.server.node import Node, NodeLimits
from raftkv.server.peer_book import PeerBook
from raftkv.server.promotion import promote_when_caught_up
from raftkv.server.quarantine import Quarantine
from raftkv.server.requests import RequestLimits, Requests
from raftkv.server.scrubber import Scrubber
from raftkv.server.services.cluster import ClusterService, LeadershipTransfers
from raftkv.server.services.comparison import StateComparisons
from raftkv.server.services.kv import KvService
from raftkv.server.services.lease import LeaseService
from raftkv.server.services.lock import LockService
from raftkv.server.services.maintenance import MAINTENANCE_SERVICE, MaintenanceService
from raftkv.server.services.members import MembershipChanges
from raftkv.server.services.peer import PeerService
from raftkv.server.services.watch import WATCH_SERVICE, WatchService
from raftkv.server.settings import ServerSettings
from raftkv.server.tallies import Tallies
from raftkv.storage.corrupt_mark import read_mark, write_mark
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.way_out import exact
from raftkv.storage.worker import Worker
from raftkv.tls.reach import CLIENTS_TLS, PEERS_TLS, require_tls_or_loopback
from raftkv.transport.channel import SERVER_OPTIONS
from raftkv.transport.greetings import Greeting
from raftkv.transport.grpc_peer import GrpcTransport, Identity
from raftkv.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    lease_pb2,
    lease_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    maintenance_pb2_grpc,
    peer_pb2_grpc,
)

if TYPE_CHECKING:
    from raftkv.tls.rotation import RotatingCertificate

log = structlog.get_logger("raftkv.app")

KV_SERVICE = kv_pb2.DESCRIPTOR.services_by_name["KV"].full_name
LEASE_SERVICE = lease_pb2.DESCRIPTOR.services_by_name["Lease"].full_name
LOCK_SERVICE = lock_pb2.DESCRIPTOR.services_by_name["Lock"].full_name
_NEED_A_LEADER = (KV_SERVICE, LEASE_SERVICE, LOCK_SERVICE)
CLUSTER_SERVICE = cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name

GRACE_S = 1.0
"""Single calls get this long to end once leadership is handed over and the pipelines are drained."""


async def serve(
    settings: ServerSettings,
    stop: asyncio.Event,
    *,
    started: Callable[[], None] = lambda: None,
    progress: Progress = UNHEARD,
    files: FileSystem | None = None,
    clock: Clock | None = None,
) -> None:
    """Run a node until `stop` is set, then hand over leadership and stop cleanly.

    `started` is called once the node takes requests. `progress` is told how the start goes, which keeps the event loop
    waiting, and may end it by raising Interrupted: the data directory is as after the end of a process then. `files`
    does the file operations, by default the system's own; `clock` tells the time, by default the machine's.

    Raises ConfigurationError (a port in use), StorageError (a data directory that cannot be used), and whatever made
    the node stop by itself: StorageError for a failed disk, InvariantViolation for a bug.
    """
    shown_to_clients = client_certificate(settings)
    # First of all: who asks why a node is not ready wants an answer also while it waits for its peers.
    async with _site(settings, shown_to_clients) as site:
        await _serve(
            settings, stop, site, shown_to_clients, started=started, progress=progress, files=files, clock=clock
        )


async def _serve(
    settings: ServerSettings,
    stop: asyncio.Event,
    site: NoSite,
    shown_to_clients: RotatingCertificate | None,
    *,
    started: Callable[[], None],
    progress: Progress,
    files: FileSystem | None,
    clock: Clock | None,
) -> None:
    tallies = Tallies()
    cluster = await find_cluster(settings)
    certificates = Certificates(shown_to_clients, peer_certificate(settings, cluster.node_id))
    if cluster.node_id != settings.id:
        structlog.contextvars.bind_contextvars(node=cluster.node_id)
        log.info("repaired: this node runs under another id", started_as=settings.id, runs_as=cluster.node_id)
    async with (
        _no_collections(),
        _listener(
            settings.peer_listen or cluster.peer_address,
            "peers",
            certificates.peers,
            flags=PEERS_TLS,
            client_auth=True,
            insecure=settings.insecure,
        ) as peer_server,
        _listener(
            settings.listen,
            "clients",
            certificates.clients,
            flags=CLIENTS_TLS,
            client_auth=settings.tls_client_auth,
            insecure=settings.insecure,
        ) as client_server,
        open_disk(settings, cluster, progress=progress, files=files, flushes=tallies.flushes) as disk,
    ):
        book = PeerBook.open(settings.data_dir, files)
        parts = _build(
            settings,
            cluster,
            disk,
            book,
            certificates=certificates,
            files=files or OsFileSystem(),
            clock=clock or MonotonicClock(),
            peer_server=peer_server,
            client_server=client_server,
            tallies=tallies,
        )
        disk.damage.stop_node = parts.node.on_failure
        try:
            parts.node.recover(progress)
            _tune_interpreter()
            # Peers may call as soon as the port answers; clients only when the node runs.
            await peer_server.start()
            await parts.node.start()
            await client_server.start()
            health_task = asyncio.create_task(
                report_health(
                    parts.health,
                    parts.node,
                    parts.requests.reads.confirm,
                    always=(CLUSTER_SERVICE, MAINTENANCE_SERVICE),
                    led=_NEED_A_LEADER,
                )
            )
            removal_task = asyncio.create_task(warn_when_removed(parts.node))
            watch_task = asyncio.create_task(parts.watches.run())
            for name, errand in parts.errands(settings, cluster):
                parts.node.begin_task(name, errand)
            site.begin(parts.node, parts.requests.reads.confirm, parts.service.status)
            log.info(
                "serving",
                clients=settings.listen,
                peers=settings.peer_listen or cluster.peer_address,
                http=settings.http_listen,
            )
            started()
            await _until(stop, parts.node.failure)
            site.stopping()
            health_task.cancel()
            removal_task.cancel()
            watch_task.cancel()
            # A node that fails meanwhile has nothing to hand over; what made it fail is raised below.
            with contextlib.suppress(ShuttingDown):
                await parts.hand_over(settings.shutdown_timeout_s)
            await client_server.stop(min(GRACE_S, settings.shutdown_timeout_s))
        finally:
            # Both servers are silent before the node, and the node before the disk.
            await client_server.stop(None)
            await parts.node.stop()
            site.end()
            await peer_server.stop(None)
        if parts.node.failure.done():
            parts.node.failure.result()  # the disk may have failed after `stop` was asked for: no clean end
        log.info("stopped")


async def warn_when_removed(node: Node) -> None:
    """Say so when this node is no member any more, at its start or later, as far as it knows. Ends with the node."""
    warned = False
    with contextlib.suppress(ShuttingDown):
        while True:
            changed = node.leadership_changed()
            if node.was_removed and not warned:
                log.warning(
                    "this node was removed from the cluster and takes no part in it any more. The way out: stop it; to "
                    "bring the machine back, run `raftkv member add` with a new id, and start that one with an empty "
                    "data directory and --join",
                    members=sorted(node.raft.configuration.members),
                )
            warned = node.was_removed
            await changed


@dataclass(frozen=True, slots=True)
class _Parts:
    node: Node
    requests: Requests
    service: ClusterService
    comparison: Comparison
    kv: KvService
    watches: WatchService
    health: health.aio.HealthServicer
    transport: GrpcTransport
    changes: MembershipChanges
    scrubber: Scrubber
    certificates: Certificates

    def errands(self, settings: ServerSettings, cluster: Cluster) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What the process does for itself, beside serving, by name. Ends with the node."""
        yield from self.comparison.tasks()
        yield "keep-endpoints", keep_endpoints(self.node, self.transport.client_addresses, settings.data_dir)
        yield "scrub", self.scrubber.run()
        if any(self.certificates.in_use()):
            yield "certificates", self.certificates.follow()
        if cluster.promote:
            yield "promote", promote_when_caught_up(self.node, self.changes)

    async def hand_over(self, timeout_s: float) -> None:
        """Go in peace: say so, let another node lead, answer what was asked."""
        await self.health.enter_graceful_shutdown()
        try:
            async with asyncio.timeout(timeout_s):
                await self.watches.drain()
        except TimeoutError:
            log.warning("watches were still open after the shutdown timeout", timeout_s=timeout_s)
        if not await self.node.hand_over(timeout_s) and len(self.node.raft.voters) > 1:
            log.warning("stopping as the leader: no other node took over")
        try:
            async with asyncio.timeout(timeout_s):
                await self.kv.drain()
        except TimeoutError:
            log.warning("requests were still open after the shutdown timeout", timeout_s=timeout_s)


@asynccontextmanager
async def _no_collections() -> AsyncIterator[None]:
    """Collect no cycles until `_tune_interpreter`: a start makes a million objects that stay, and none of them.

    Collections took a third of the time of a replay.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _tune_interpreter() -> None:
    """Two defaults of CPython are made for programs that nobody waits for (figures: docs/performance.md).

    Cycles are collected rarely: a full collection walks every entry of the log, and heartbeats wait meanwhile. Nothing
    on the paths of requests makes cycles; what is left over comes from errors and closed streams.

    A thread that wants the interpreter gets it within 0.1 ms, not 5: the log's thread wants it after every flush.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 50, 100)
    sys.setswitchinterval(0.0001)


def _build(
    settings: ServerSettings,
    cluster: Cluster,
    disk: Disk,
    book: PeerBook,
    *,
    certificates: Certificates,
    files: FileSystem,
    clock: Clock,
    peer_server: grpc.aio.Server,
    client_server: grpc.aio.Server,
    tallies: Tallies,
) -> _Parts:
    node_id = cluster.node_id
    raft = Raft(
        RaftConfig(
            node_id=node_id,
            configuration=cluster.founded_with,
            election_ticks=settings.election_ticks,
            heartbeat_ticks=settings.heartbeat_ticks,
            priority=settings.priority,
            lease_ms=settings.lease_ms,
            quarantine_ticks=quarantine_ticks(disk.promised_ms, settings.tick_ms),
        ),
        hard_state=disk.recovered.hard_state,
        entries=disk.entries,
        applied=Index(disk.machine.applied_index),
        rng=random.Random(),
        snapshot=disk.snapshot,
    )
    agreed = agreed_settings(settings)
    drift = Drift(node_id, agreed)
    transport = GrpcTransport(
        Identity(
            cluster_id=cluster.cluster_id,
            node_id=node_id,
            client_address=settings.own_advertise,
            peer_address=cluster.peer_address,
            incarnation=book.incarnation,
            greeting=Greeting(settings=agreed),
        ),
        dict(raft.configuration.addresses),
        dial={NodeId(node): address for node, address in settings.peer_dial.items()},
        admits=book.admits,
        was_removed=raft.has_removed,
        is_new=lambda: raft.log.last_index == 0,
        checkpoint_bytes_per_s=settings.snapshot_send_bytes_per_s,
        tls=certificates.between_peers(settings.cluster_name),
        greeted=drift.heard,
    )

    def exactly(message: str) -> str:
        return exact(message, settings.data_dir, known_endpoints(settings.data_dir))

    node = Node(
        raft=raft,
        keeper=disk,
        log_store=disk.log_store,
        transport=transport,
        clock=clock,
        limits=NodeLimits(
            tick_s=settings.tick_ms / 1000,
            checkpoint_log_bytes=settings.checkpoint_log_bytes,
            checkpoint_entries=settings.checkpoint_entries,
        ),
        watch_limits=settings.watch_limits,
        auto_compaction=settings.auto_compaction,
        disk_health=disk_health(
            settings.data_dir,
            clock,
            reserve_bytes=settings.disk_reserve,
            slow_s=settings.slow_disk_ms / 1000,
            election_s=settings.election_ms / 1000,
        ),
        quarantine=Quarantine(read_mark(settings.data_dir), partial(write_mark, settings.data_dir), exactly),
        hashing=Worker("raftkv-hash"),
        tallies=tallies,
    )
    limits = RequestLimits(quota_bytes=settings.quota, write_concern=settings.default_write_concern)
    peers = PeerForwarder(transport)
    requests = Requests(node, peers, cluster.cluster_id, limits)
    comparison = Comparison(node, peers, interval_s=settings.compare_states_s, now_s=time.time)
    comparisons = StateComparisons(node, comparison, requests, transport)
    transfers = LeadershipTransfers(node, requests, transport)
    changes = MembershipChanges(node, requests, transport)
    kv = KvService(requests, node_id)
    watches = WatchService(node, requests.header)
    scrubber = Scrubber(
        wal=disk.wal,
        store=disk.checkpoints,
        checkpoints=node.checkpoints,
        alarms=node.alarms,
        applied_index=lambda: node.machine.applied_index,
        files=files,
        bytes_per_s=settings.scrub_bytes_per_s,
    )
    service = ClusterService(
        node=node,
        scrub=scrubber.status,
        log_store=disk.log_store,
        store_bytes=disk.store_bytes,
        requests=requests,
        transport=transport,
        transfers=transfers,
        changes=changes,
        comparison=comparison,
        http_address=settings.http_listen or "",
        certificates=certificates.status,
        drift=drift,
    )
    backups = Backups(node, requests.reads, disk, requests.header, cluster.cluster_id)
    maintenance = MaintenanceService(node, requests, backup=backups.stream, compare=comparisons.run)
    health_service = health.aio.HealthServicer()
    peer_pb2_grpc.add_PeerServicer_to_server(
        PeerService(transport, requests, transfers, changes, comparisons), peer_server
    )
    kv_pb2_grpc.add_KVServicer_to_server(kv, client_server)
    lease_pb2_grpc.add_LeaseServicer_to_server(LeaseService(requests), client_server)
    lock_pb2_grpc.add_LockServicer_to_server(LockService(requests), client_server)
    cluster_pb2_grpc.add_ClusterServicer_to_server(service, client_server)
    maintenance_pb2_grpc.add_MaintenanceServicer_to_server(maintenance, client_server)
    watches.add_to(client_server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, client_server)
    reflection.enable_server_reflection(
        (
            KV_SERVICE,
            LEASE_SERVICE,
            LOCK_SERVICE,
            WATCH_SERVICE,
            CLUSTER_SERVICE,
            MAINTENANCE_SERVICE,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ),
        client_server,
    )
    return _Parts(
        node, requests, service, comparison, kv, watches, health_service, transport, changes, scrubber, certificates
    )


@asynccontextmanager
async def _site(settings: ServerSettings, certificate: RotatingCertificate | None) -> AsyncIterator[NoSite]:
    """The HTTP server, if there is to be one. Raises ConfigurationError."""
    if settings.http_listen is None:
        yield NoSite()
        return
    from raftkv.server.http.site import http_site  # noqa: PLC0415 - see raftkv.server.http.no_site
    from raftkv.server.http.tls import following  # noqa: PLC0415

    await asyncio.to_thread(
        require_tls_or_loopback,
        settings.http_listen,
        purpose="HTTP",
        flags=CLIENTS_TLS,
        tls=certificate is not None,
        insecure=settings.insecure,
    )
    async with http_site(settings.http_listen, following(certificate)) as site:
        yield site


@asynccontextmanager
async def _listener(
    address: str,
    purpose: str,
    certificate: RotatingCertificate | None,
    *,
    flags: str,
    client_auth: bool,
    insecure: bool,
) -> AsyncIterator[grpc.aio.Server]:
    """A server that listens once it is started: with TLS if there is a certificate, else in plain text.

    `flags` are those that give it TLS, `client_auth` says that whoever dials must show a certificate then.
    """
    await asyncio.to_thread(
        require_tls_or_loopback, address, purpose=purpose, flags=flags, tls=certificate is not None, insecure=insecure
    )
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    try:
        if certificate is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, certificate.server_credentials(client_auth=client_auth))
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address} (for {purpose}): the port is in use, or the address is not this machine's"
        ) from error
    try:
        yield server
    finally:
        await server.stop(None)


async def _until(stop: asyncio.Event, failure: asyncio.Future[None]) -> None:
    """Return when `stop` is set; raise what made the node fail."""
    stopping = asyncio.create_task(stop.wait())
    try:
        either: set[asyncio.Future[Any]] = {stopping, failure}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if failure.done():
        failure.result()
