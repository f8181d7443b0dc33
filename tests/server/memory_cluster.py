"""Whole nodes in one process: the real driver and state machine on in-memory disks, stores and links."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import grpc

from raftkv.errors import StorageError
from raftkv.kv.machine import StateMachine
from raftkv.quorum import MAJORITY
from raftkv.raft import Configuration, Index, NodeId, Raft, RaftConfig, Role, Snapshot, Term
from raftkv.server.clock import Clock, MonotonicClock
from raftkv.server.comparison import Comparison
from raftkv.server.disk_health import DiskHealth
from raftkv.server.node import Node, NodeLimits
from raftkv.server.quarantine import Quarantine
from raftkv.server.read_receipts import receipt_of
from raftkv.server.requests import RequestLimits, Requests
from raftkv.server.upkeep import AutoCompaction
from raftkv.storage.checkpoint import CheckpointManifest, CheckpointRefused
from raftkv.storage.checkpoint_store import Receiving, Sending
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.memory import MemoryDisk, MemoryLogStore, MemoryOrderedStore
from raftkv.storage.protocols import LogStore, RecoveredLog
from raftkv.transport.calls import unavailable
from raftkv.transport.memory import MemoryHub
from raftkv.v1 import kv_pb2, peer_pb2

T = TypeVar("T")

CLUSTER_ID = 7
TICK_S = 0.002


class Gate:
    """A disk's pace: as fast as the loop, or closed until a test opens it."""

    def __init__(self) -> None:
        self.open = True

    def flush_seconds(self) -> float:
        return 0.0 if self.open else 3600.0


class NoCheckpoints:
    """The Keeper of a node whose log grows for ever."""

    newest = None
    fallback = None
    kept = 0

    def __init__(self, machine: StateMachine, store: LmdbStore | MemoryOrderedStore) -> None:
        self.machine = machine
        self._store = store

    def renew(self) -> None:
        self.machine = StateMachine(self._store)

    def store_bytes(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return self._store.used_bytes()

    def send(self) -> Sending:
        raise CheckpointRefused("this node keeps no checkpoints")

    async def create(self, configuration_at: Callable[[Index, Term], bytes]) -> CheckpointManifest:
        raise CheckpointRefused("this node keeps no checkpoints")

    async def begin(self, manifest: CheckpointManifest) -> Receiving:
        raise CheckpointRefused("this node keeps no checkpoints")

    async def forget_below(self, index: Index) -> None: ...

    async def fabricate(self, snapshot: Snapshot) -> None:
        raise CheckpointRefused("this node keeps no checkpoints")

    def hold(self, snapshot: Snapshot) -> bool:
        return False

    def release(self, snapshot: Snapshot) -> None: ...

    async def restore(self, snapshot: Snapshot) -> None:
        raise CheckpointRefused("this node keeps no checkpoints")


class MemoryNode:
    """One node, and what it keeps over a restart."""

    def __init__(self, cluster: MemoryCluster, node_id: NodeId) -> None:
        self.id = node_id
        self.cluster = cluster
        self.gate = Gate()
        self.disk = MemoryDisk(flush_seconds=self.gate.flush_seconds)
        self.store: LmdbStore | MemoryOrderedStore = MemoryOrderedStore()
        self.mark: CorruptMark | None = None
        self.mark_failure: StorageError | None = None
        """What keeping it fails with."""
        self.open_log: Callable[[], tuple[LogStore, RecoveredLog]] = lambda: MemoryLogStore.open(self.disk)
        self.disk_health: Callable[[], DiskHealth | None] = lambda: None
        self.node: Node
        self.comparison: Comparison
        self.requests: Requests

    async def start(self) -> None:
        log_store, recovered = self.open_log()
        machine = StateMachine(self.store)
        raft = Raft(
            RaftConfig(
                node_id=self.id,
                configuration=Configuration(frozenset(self.cluster.ids), witnesses=self.cluster.witnesses),
                lease_ms=self.cluster.lease_ms,
            ),
            hard_state=recovered.hard_state,
            entries=recovered.entries,
            applied=Index(machine.applied_index),
            rng=random.Random(self.id),
        )
        self.node = Node(
            raft=raft,
            keeper=NoCheckpoints(machine, self.store),
            log_store=log_store,
            transport=self.cluster.hub.transport(self.id),
            clock=self.cluster.clocks.get(self.id, MonotonicClock()),
            limits=self.cluster.limits,
            auto_compaction=self.cluster.compaction,
            quarantine=Quarantine(self.mark, self._keep),
            disk_health=self.disk_health(),
        )
        self.comparison = Comparison(
            self.node,
            self.cluster.forwarder(self.id),
            interval_s=self.cluster.compare_s,
            now_s=time.time,
            hashing_s=5.0,
        )
        self.requests = Requests(
            self.node,
            self.cluster.forwarder(self.id),
            CLUSTER_ID,
            RequestLimits(
                default_timeout_s=2.0,
                leader_wait_s=0.5,
                deposed_wait_s=0.5,
                quota_bytes=self.cluster.quota_bytes,
                write_concern=self.cluster.write_concern,
            ),
        )
        self.node.recover()
        await self.node.start()
        for name, coroutine in self.comparison.tasks():
            self.node.begin_task(name, coroutine)

    async def restart(self) -> None:
        await self.node.stop()
        await self.start()

    def _keep(self, mark: CorruptMark) -> None:
        if self.mark_failure is not None:
            raise self.mark_failure
        self.mark = mark

    async def put(self, key: bytes, value: bytes, *, session: int = 0, sequence: int = 1) -> kv_pb2.OperationResult:
        return await self.run(kv_pb2.Operation(id=sequence, put=kv_pb2.PutRequest(key=key, value=value)), session)

    async def get(self, key: bytes, level: kv_pb2.ReadLevel.ValueType = kv_pb2.LINEARIZABLE) -> kv_pb2.OperationResult:
        return await self.run(kv_pb2.Operation(id=1, range=kv_pb2.RangeRequest(key=key, level=level)))

    async def run(self, operation: kv_pb2.Operation, session: int = 0, timeout_ms: int = 0) -> kv_pb2.OperationResult:
        batch = kv_pb2.BatchRequest(session=session, timeout_ms=timeout_ms, operations=[operation])
        response = await self.requests.run(batch, forwarded=False)
        (result,) = response.results
        if response.HasField("read") and result.HasField("range"):
            result.read.CopyFrom(receipt_of(response, result))
        return result

    async def register(self) -> int:
        result = await self.run(
            kv_pb2.Operation(id=1, register_session=kv_pb2.RegisterSessionRequest()), timeout_ms=20_000
        )
        assert result.HasField("register_session"), result
        return result.register_session.session


class MemoryForwarder:
    """One node's way to the others (the `Forwarder`): through the cluster, where a test may stand in."""

    def __init__(self, cluster: MemoryCluster, sender: NodeId) -> None:
        self._cluster = cluster
        self._sender = sender

    async def forward(self, node: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        return await self._cluster.forward(node, batch, timeout_s)

    async def read_index(self, leader: NodeId, timeout_s: float) -> peer_pb2.ReadIndexResponse:
        async with self._cluster.call(self._sender, leader, timeout_s) as requests:
            return await requests.reads.read_index()

    async def log_end(self, voter: NodeId, timeout_s: float) -> kv_pb2.LogEndResponse:
        async with self._cluster.call(self._sender, voter, timeout_s) as requests:
            return requests.reads.log_end()

    async def state_hash_at(self, node: NodeId, index: int, timeout_s: float) -> peer_pb2.StateHashAtResponse:
        async with self._cluster.called(self._sender, node, timeout_s) as member:
            return await member.comparison.hash_at(index, timeout_s)

    async def condemn(self, node: NodeId, verdict: peer_pb2.CondemnRequest, timeout_s: float) -> bool:
        async with self._cluster.called(self._sender, node, timeout_s) as member:
            return await member.comparison.told(verdict)

    def client_address(self, node: NodeId) -> str:
        return self._cluster.client_address(node)


class MemoryCluster:
    """Some nodes, their links, and the way from one to another for forwarded requests and other calls."""

    def __init__(
        self,
        size: int = 3,
        limits: NodeLimits | None = None,
        *,
        lease_ms: int = 0,
        clocks: Mapping[NodeId, Clock] | None = None,
        quota_bytes: int = 0,
        compaction: AutoCompaction = AutoCompaction(),  # noqa: B008 - it is frozen
        write_concern: int = MAJORITY,
        witnesses: Collection[int] = (),
        compare_s: float = 0.0,
    ) -> None:
        self.compare_s = compare_s
        self.witnesses = frozenset(NodeId(witness) for witness in witnesses)
        self.ids = [NodeId(number) for number in range(1, size + 1)]
        self.limits = limits or NodeLimits(tick_s=TICK_S)
        self.lease_ms = lease_ms
        self.clocks = clocks or {}
        self.quota_bytes = quota_bytes
        self.compaction = compaction
        self.write_concern = write_concern
        self.hub = MemoryHub()
        self.nodes = {node_id: MemoryNode(self, node_id) for node_id in self.ids}
        self.forwarded = 0
        self.cut_off: set[int] = set()
        self.calls: Counter[tuple[int, int]] = Counter()
        """Calls about reads, by who asks and who is asked."""
        self.before_call: Callable[[int, int], Awaitable[None]] = _at_once
        """What a call about reads waits for on its way, given who asks and who is asked."""
        self.before_answer: Callable[[int, int], Awaitable[None]] = _at_once
        """The same of its answer, on the way back."""

    def __getitem__(self, node_id: int) -> MemoryNode:
        return self.nodes[NodeId(node_id)]

    async def __aenter__(self) -> Self:
        for member in self.nodes.values():
            await member.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.nodes.values():
            await member.node.stop()

    async def forward(self, leader: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        self.forwarded += 1
        if leader in self.cut_off:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="cut off"
            )
        return await self[leader].requests.run(batch, forwarded=True)

    @asynccontextmanager
    async def call(self, sender: NodeId, receiver: NodeId, timeout_s: float) -> AsyncIterator[Requests]:
        async with self.called(sender, receiver, timeout_s) as member:
            yield member.requests

    @asynccontextmanager
    async def called(self, sender: NodeId, receiver: NodeId, timeout_s: float) -> AsyncIterator[MemoryNode]:
        self.calls[sender, receiver] += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self.before_call(sender, receiver)
                self._require_link(sender, receiver)
                yield self[receiver]
                await self.before_answer(sender, receiver)
                self._require_link(receiver, sender)
        except TimeoutError:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="too late"
            ) from None

    def _require_link(self, sender: NodeId, receiver: NodeId) -> None:
        if {sender, receiver} & self.cut_off:
            raise unavailable("cut off")

    def client_address(self, node: NodeId) -> str:
        return f"node-{node}:1"

    def forwarder(self, sender: NodeId) -> MemoryForwarder:
        return MemoryForwarder(self, sender)

    def isolate(self, node_id: int) -> None:
        self.cut_off.add(node_id)
        for other in self.ids:
            if other != node_id:
                self.hub.cut(NodeId(node_id), other)
                self.hub.cut(other, NodeId(node_id))

    def silence(self) -> None:
        """Lose every message of consensus, between all: nobody leads for long. Calls still get through."""
        for sender in self.ids:
            for receiver in self.ids:
                if sender != receiver:
                    self.hub.cut(sender, receiver)

    def heal(self) -> None:
        self.cut_off.clear()
        self.hub.heal()

    async def leader(self, *, other_than: int = 0) -> MemoryNode:
        """Wait for a leader that is ready to serve: an entry of its term is applied."""

        def found() -> MemoryNode | None:
            for member in self.nodes.values():
                raft = member.node.raft
                if (
                    member.id != other_than
                    and raft.role is Role.LEADER
                    and member.node.machine.applied_term == raft.term
                ):
                    return member
            return None

        return await until(found)

    def follower(self, leader: MemoryNode) -> MemoryNode:
        return next(member for member in self.nodes.values() if member is not leader)


async def _at_once(sender: int, receiver: int) -> None:
    pass


async def until(probe: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """Return what `probe` returns, once that is neither None nor False."""
    async with asyncio.timeout(timeout_s):
        while not (found := probe()):  # noqa: ASYNC110 - probes look at plain state
            await asyncio.sleep(TICK_S)
    return found
