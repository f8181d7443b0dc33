"""A node as a process on a machine: real driver, request layer, state machine and log; starts, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

from google.protobuf.message import Message

from raftkv.errors import DataDirectoryMismatch, RaftKVError, StorageError
from raftkv.kv.codec import decode_batch
from raftkv.kv.limits import SESSION_TTL_MS
from raftkv.kv.machine import Applied, AppliedEntry, StateMachine
from raftkv.kv.records import read_meta
from raftkv.kv.store import OrderedStore
from raftkv.raft import (
    NO_MEMBERS,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    NodeId,
    Position,
    Raft,
    RaftConfig,
    Ready,
    Refusal,
    Snapshot,
    Term,
)
from raftkv.server import wire
from raftkv.server.disk import Disk, StoreDamage, inspect_state
from raftkv.server.disk_kind import DiskKind
from raftkv.server.lease import quarantine_ticks
from raftkv.server.node import Node, NodeLimits
from raftkv.server.peer_book import PeerBook
from raftkv.server.requests import RequestLimits, Requests
from raftkv.server.upkeep import AutoCompaction
from raftkv.server.watch_hub import WatchLimits
from raftkv.storage import data_dir
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.data_dir import BOOT_NAME, CleanMark, DataDir, Identity
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.storage.protocols import WalPosition
from raftkv.storage.recovery import recover_node
from raftkv.storage.wal import WriteAheadLog
from raftkv.transport import grpc_peer
from raftkv.v1 import common_pb2, kv_pb2, peer_pb2
from tests.sim.l1.claims import CLUSTER_ID
from tests.sim.l1.disk import CrashableEngine, CrashableStore, NodeDisk, SimRunner
from tests.sim.l1.loop import VirtualTimeLoop
from tests.sim.l1.network import CHECKPOINT_PIECE, Network, Server, SimTransport
from tests.sim.l1.oracle import Oracle
from tests.sim.l1.trace import Trace
from tests.sim.l1.watch_streams import WATCH_POLL, WatchStreams
from tests.storage.simdisk import PowerLoss

DATA = Path("/data")
FIRST_CLIENT = 101
"""Numbers below are nodes, from here on clients."""

READ_INDEX = b"R"
LOG_END = b"L"
"""First bytes of calls that nodes, and of the second kind clients, make in order to read; no batch begins so."""
ANSWER = b"A"
REFUSAL = b"E"
"""First bytes of what is answered to them."""

DRAIN_S = 1.0
"""A clean shutdown gives open requests this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a node is configured with."""

    nodes: tuple[int, ...]
    """The founding members."""
    spares: tuple[int, ...]
    """Those that may join later."""
    tick_s: float
    election_ticks: int
    heartbeat_ticks: int
    max_append_bytes: int
    max_inflight_bytes: int
    max_apply_bytes: int
    limits: NodeLimits
    requests: RequestLimits
    segment_bytes: int
    record_limit_bytes: int
    disk_latency_s: float
    slow_disks: tuple[float, ...]
    """Per node: how many times longer its disk takes."""
    hash_every: int
    clock_drift: tuple[float, ...]
    """Per node: by what share its clock is faster than virtual time."""
    lease_ms: int = 0
    """How long a leader's lease lasts; 0: there are none."""
    session_ttl_ms: int = SESSION_TTL_MS
    auto_compaction: AutoCompaction = field(default_factory=AutoCompaction)
    watch_limits: WatchLimits = field(default_factory=WatchLimits)

    @property
    def tick_ms(self) -> int:
        return round(self.tick_s * 1000)


class World(Protocol):
    """What a machine stands in."""

    @property
    def loop(self) -> VirtualTimeLoop: ...

    @property
    def network(self) -> Network: ...

    @property
    def oracle(self) -> Oracle: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def settings(self) -> Settings: ...

    def violation(self, text: str) -> None: ...

    def installing(self) -> None:
        """A piece of a checkpoint has come."""
        ...

    def replacing(self, number: int) -> None:
        """A node begins to replace its state or its log by that of a checkpoint, or has done so."""
        ...


class _Clock:
    """A monotonic clock with an origin and a pace of its own."""

    def __init__(self, loop: VirtualTimeLoop, origin_ms: int, rate: float) -> None:
        self._loop = loop
        self._origin_ms = origin_ms
        self._rate = rate

    def now_ms(self) -> float:
        return self._origin_ms + self._loop.time() * 1000 * self._rate


class _WatchedRaft(Raft):
    """A core whose every Ready and proposal the oracle sees."""

    watch: tuple[Oracle, int] | None = None

    def propose(self, data: bytes, kind: EntryKind = EntryKind.COMMANDS) -> Position | Refusal:
        position = super().propose(data, kind)
        if isinstance(position, Position) and self.watch is not None and kind is EntryKind.COMMANDS:
            oracle, number = self.watch
            oracle.times.stamped(number, position.term, position.index, decode_batch(data).time_ms)
        return position

    def ready(self) -> Ready | None:
        ready = super().ready()
        if ready is not None and self.watch is not None:
            oracle, number = self.watch
            oracle.ready(number, ready)
        return ready


class _WatchedLog(WriteAheadLog):
    """A log whose every append the oracle sees."""

    process: NodeProcess

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        process = self.process
        oracle, number = process.world.oracle, process.number
        oracle.appending(number, entries)
        process.machine.disk.truncating = bool(entries) and entries[0].index <= self._shape.last_index
        process.world.network.counts["suffixes replaced"] += process.machine.disk.truncating
        await super().append(hard_state, entries)
        if process.runner.faults:
            process.world.violation(f"disk: the log of node {number} goes on after a failed disk operation")
        oracle.appended(number, hard_state, entries)

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        oracle, number = self.process.world.oracle, self.process.number
        self.process.world.replacing(number)
        oracle.restarting(number, index)
        await super().restart(hard_state, index, term)
        oracle.restarted(number, hard_state, index)
        self.process.world.replacing(number)

    async def compact(self, first_kept: Index) -> None:
        await super().compact(first_kept)
        self.process.world.network.counts["compactions"] += 1


class _WatchedMachine(StateMachine):
    """A state machine whose results and hashes the oracle sees."""

    def __init__(self, store: OrderedStore, process: NodeProcess) -> None:
        super().__init__(store)
        self._process = process

    def apply(self, entries: Sequence[AppliedEntry]) -> list[Applied]:
        applied = super().apply(entries)
        world, number = self._process.world, self._process.number
        for entry, (results, changes) in zip(entries, applied, strict=True):
            world.oracle.applied(number, entry, results, changes)
            world.trace.note(f"n{number}", f"applied {entry.index} of term {entry.term}")
        if entries and entries[-1].index % world.settings.hash_every == 0:
            world.oracle.hashed(number, entries[-1].index, self.state_hash())
        return applied

    def state_hash(self) -> bytes:
        with self.view() as view:
            hasher = view.hasher()
            while not hasher.step(1 << 20):
                pass
            return hasher.digest()


class _Keeper(Disk):
    """What a node has on disk, with a state machine that the oracle sees."""

    process: NodeProcess

    async def restore(self, snapshot: Snapshot) -> None:
        self.process.world.replacing(self.process.number)
        self.store = await self.checkpoints.restore(self.store, snapshot.index)
        self.machine = _WatchedMachine(self.store, self.process)
        self.process.world.network.counts["snapshots installed"] += 1
        self.process.world.replacing(self.process.number)


class NodeProcess(Server):
    """One incarnation of a node."""

    def __init__(self, world: World, machine: Machine) -> None:
        super().__init__(f"n{machine.number}", machine.number)
        self.world = world
        self.machine = machine
        self.faults_before = machine.disk.faults_fired
        self.runner = SimRunner(machine.disk, machine.disk_latency_s)
        """Does the log's work."""
        self.runners = [self.runner]
        self.serving = 0
        """Calls under way."""
        self.stopping = False
        self.node: Node | None = None
        """None until it has opened its disk."""
        self.streams: WatchStreams
        self._parts: tuple[Node, Requests, WriteAheadLog, DataDir, _Keeper]

    @property
    def state(self) -> _WatchedMachine:
        machine = self._parts[4].machine
        if not isinstance(machine, _WatchedMachine):
            raise TypeError("a state machine that nobody watches")
        return machine

    def make_runner(self, name: str) -> SimRunner:
        """Return what stands in for another thread of the storage."""
        runner = SimRunner(self.machine.disk, self.machine.disk_latency_s)
        self.runners.append(runner)
        return runner

    async def boot(self) -> None:
        """Open the disk and join the cluster. Raises what keeps the node from it."""
        node = await self._open()
        self.machine.disk.crash_at = None  # it was for the recovery
        node.failure.add_done_callback(self._failed)
        self.node = node
        node.recover()
        await node.start()
        self.world.loop.create_task(self.streams.service.run())
        self.world.trace.note(self.name, f"up: term {node.raft.term}, applied {self.state.applied_index}")

    async def _open(self) -> Node:
        """Do what `raftkv.server.disk` and `app` do, in the order that `raftkv.storage` prescribes."""
        world, machine, settings = self.world, self.machine, self.world.settings
        directory = machine.open_data_dir()
        log, recovered = _WatchedLog.open(
            directory.wal_path,
            segment_bytes=settings.segment_bytes,
            record_limit_bytes=settings.record_limit_bytes,
            clean_tail=directory.clean_tail,
            must_exist=directory.ran_before,
            same_boot=directory.same_boot,
            files=machine.disk,
            make_nonce=lambda: machine.random.getrandbits(64),
            runner=self.runner,
        )
        log.process = self
        directory.mark_running()
        checkpoints = CheckpointStore.open(
            directory.checkpoints_path,
            engine=CrashableEngine(machine.disk, machine.replace_store),
            inspect=inspect_state,
            files=machine.disk,
            make_runner=self.make_runner,
        )
        found = await recover_node(
            log, recovered, checkpoints, open_store=lambda: machine.store, applied_index=_applied_index
        )
        if found.damaged:
            world.violation(f"durability: node {self.number} has damaged checkpoints: {found.damaged}")
        if found.store_restored:
            world.network.counts["stores restored"] += 1
        world.oracle.opened(self.number, found.log, restarted=found.log_restarted)
        store: Any = found.store  # in production it is an LmdbStore
        kind = DiskKind.open(directory.path, NodeId(self.number), machine.disk)
        state = _WatchedMachine(machine.store, self)
        damage = StoreDamage(directory)
        keeper = _Keeper(log, found.log, store, state, cast(Any, checkpoints), found.checkpoint, kind, damage)
        keeper.process = self
        if recovered.torn_bytes:
            world.network.counts["torn"] += 1
            world.trace.note(self.name, f"cut {recovered.torn_bytes} torn bytes off the log")
        book = PeerBook.open(DATA, machine.disk, draw=machine.random.getrandbits)
        raft = _WatchedRaft(
            RaftConfig(
                node_id=NodeId(self.number),
                configuration=founding(settings) if self.number in settings.nodes else NO_MEMBERS,
                election_ticks=settings.election_ticks,
                heartbeat_ticks=settings.heartbeat_ticks,
                max_append_bytes=settings.max_append_bytes,
                max_inflight_bytes=settings.max_inflight_bytes,
                max_apply_bytes=settings.max_apply_bytes,
                lease_ms=settings.lease_ms,
                quarantine_ticks=quarantine_ticks(directory.promised_ms, settings.tick_ms),
            ),
            hard_state=keeper.recovered.hard_state,
            entries=keeper.entries,
            snapshot=keeper.snapshot,
            applied=Index(keeper.machine.applied_index),
            rng=Random(machine.random.getrandbits(64)),
        )
        raft.watch = world.oracle, self.number
        identity = grpc_peer.Identity(
            cluster_id=CLUSTER_ID,
            node_id=NodeId(self.number),
            client_address=address_of(self.number),
            peer_address=address_of(self.number),
            incarnation=book.incarnation,
        )
        self.endpoint = SimTransport(
            world.network,
            self,
            identity,
            dict(raft.configuration.addresses),
            admits=book.admits,
            was_removed=raft.has_removed,
            watch=lambda sent: world.oracle.sending(self.number, sent),
        )
        rate = 1 + settings.clock_drift[self.number - 1]
        node = Node(
            raft=raft,
            keeper=keeper,
            log_store=log,
            transport=self.endpoint,
            clock=_Clock(world.loop, machine.random.randrange(1 << 40), rate),
            limits=settings.limits,
            auto_compaction=settings.auto_compaction,
            watch_limits=settings.watch_limits,
        )
        requests = Requests(node, _Forwarder(world.network, self.number), CLUSTER_ID, settings.requests)
        self._parts = node, requests, log, directory, keeper
        self.streams = WatchStreams(node, requests)
        return node

    async def serve(self, request: bytes, caller: int) -> bytes:
        self.serving += 1
        try:
            if request[:1] == CHECKPOINT_PIECE and caller < FIRST_CLIENT:
                self.world.installing()
                return await self.endpoint.take_piece(caller, request[1:])
            if request[:1] == WATCH_POLL and caller >= FIRST_CLIENT:
                return await self.streams.poll(request[1:])
            if request[:1] in (READ_INDEX, LOG_END):
                return await self._about_reads(request)
            if caller >= FIRST_CLIENT:
                answer = await self._parts[1].run(kv_pb2.BatchRequest.FromString(request), forwarded=False)
            else:
                forwarded = peer_pb2.ForwardRequest.FromString(request)
                answer = await self._parts[1].run(forwarded.batch, forwarded=True)
            self.world.oracle.claims.answered(self.number, answer)
            return answer.SerializeToString()
        except Exception as error:
            self.world.violation(f"requests: node {self.number} answers a batch with {error!r}")
            raise
        finally:
            self.serving -= 1

    async def _about_reads(self, request: bytes) -> bytes:
        """Answer what nodes, and clients, ask in order to read."""
        requests = self._parts[1]
        try:
            if request[:1] == LOG_END:
                answer = requests.log_end(kv_pb2.LogEndRequest.FromString(request[1:]))
                return ANSWER + answer.SerializeToString()
            return ANSWER + (await requests.reads.read_index()).SerializeToString()
        except RaftKVError as error:
            return REFUSAL + wire.to_error(error).SerializeToString()

    async def shut_down(self) -> None:
        """Hand over leadership, answer what was asked, and leave a clean disk. Raises StorageError for a failed one."""
        node, _, log, directory, keeper = self._parts
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self.streams.service.drain()
        await node.hand_over(DRAIN_S)
        until = self.world.loop.time() + DRAIN_S
        while self.serving and self.world.loop.time() < until:  # noqa: ASYNC110 - a count is all there is to wait for
            await asyncio.sleep(0.01)
        await node.stop()
        if node.failure.done():
            node.failure.result()
        await keeper.close_state()
        self.machine.store.flush()
        await log.close()
        directory.mark_clean(log.tail)

    def _failed(self, failure: asyncio.Future[None]) -> None:
        self.machine.process_failed(self, failure.exception())


class _Forwarder:
    """See `raftkv.server.forwarding.PeerForwarder`."""

    def __init__(self, network: Network, number: int) -> None:
        self._network = network
        self._number = number

    async def forward(self, leader: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        request = peer_pb2.ForwardRequest(cluster_id=CLUSTER_ID, batch=batch)
        setattr(request, "from", self._number)
        answer = await self._network.call(self._number, leader, request.SerializeToString(), timeout_s)
        return kv_pb2.BatchResponse.FromString(answer)

    async def read_index(self, leader: NodeId, timeout_s: float) -> peer_pb2.ReadIndexResponse:
        request = peer_pb2.ReadIndexRequest(cluster_id=CLUSTER_ID)
        setattr(request, "from", self._number)
        return peer_pb2.ReadIndexResponse.FromString(await self._ask(leader, READ_INDEX, request, timeout_s))

    async def log_end(self, voter: NodeId, timeout_s: float) -> kv_pb2.LogEndResponse:
        request = kv_pb2.LogEndRequest(cluster_id=CLUSTER_ID)
        return kv_pb2.LogEndResponse.FromString(await self._ask(voter, LOG_END, request, timeout_s))

    async def _ask(self, node: NodeId, kind: bytes, request: Message, timeout_s: float) -> bytes:
        answer = await self._network.call(self._number, node, kind + request.SerializeToString(), timeout_s)
        return answer_about_reads(answer)

    def client_address(self, node: NodeId) -> str:
        return address_of(node)


def answer_about_reads(answer: bytes) -> bytes:
    """Return what a node answered to READ_INDEX or LOG_END. Raises RaftKVError, if that is what it answered."""
    if answer[:1] == REFUSAL:
        raise wire.from_error(common_pb2.Error.FromString(answer[1:]))
    return answer[1:]


def address_of(node: int) -> str:
    """Return where a node is, as configurations have it."""
    return f"n{node}:1"


def founding(settings: Settings) -> Configuration:
    """Return what the founding members are started with."""
    members = [NodeId(node) for node in settings.nodes]
    return Configuration(frozenset(members), addresses=tuple([(node, address_of(node)) for node in members]))


class Machine:
    """A computer with a disk; at most one process of the node runs on it."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.number = number
        self.random = random
        self.disk = NodeDisk()
        self.store = CrashableStore()
        self.slow_disk = world.settings.slow_disks[number - 1]
        self.powered = True
        self.in_service = number in world.settings.nodes
        """Somebody sees to it that the node runs: from when it founds the cluster or joins it until it is given up."""
        self.lost_its_disk = False
        self.refused = False
        """It has lost its disk, and its peers have told it so."""
        self.process: NodeProcess | None = None
        self.ends: list[str] = []
        """How processes ended that nobody killed: failed disks, refused starts."""
        self._world = world
        self._boots = 1

    # --- what a process asks of it ------------------------------------------------------------------------------------

    def disk_latency_s(self) -> float:
        """Draw how long the next job of the disk takes."""
        return self._world.settings.disk_latency_s * self.slow_disk * self.random.uniform(0.2, 1.8)

    def open_data_dir(self) -> DataDir:
        """Do what `open_data_dir` does, on the simulated disk: the identity and the lock are left out."""
        boot, clean, ran_before, promised_ms = None, None, False, 0
        if BOOT_NAME in self.disk.names(DATA):
            ran_before = True
            stored = json.loads(self.disk.content(DATA / BOOT_NAME))
            boot, tail, promised_ms = stored["boot_id"], stored["clean_tail"], stored["promise_ms"]
            clean = CleanMark(WalPosition(tail["segment"], tail["offset"], tail["crc"])) if tail else None
        settings = self._world.settings
        boot_id = f"boot-{self._boots}"
        keep = data_dir.store_is_trustworthy(boot, boot_id, clean)
        discarded = False if keep else self.store.discard()
        if discarded:
            self._note("the state store is discarded")
        return DataDir(
            DATA,
            files=self.disk,
            lock_fd=-1,
            identity=Identity(cluster_id=CLUSTER_ID, node_id=NodeId(self.number), members={}, created_at=0.0),
            boot_id=boot_id,
            clean=clean,
            ran_before=ran_before,
            same_boot=boot == boot_id,
            store_discarded=discarded,
            promised_ms=promised_ms,
            promise_ms=settings.election_ticks * settings.tick_ms if settings.lease_ms else 0,
        )

    def replace_store(self, store: CrashableStore) -> None:
        """A checkpoint's state has been put in the store's place."""
        self.store = store

    # --- starts and ends ----------------------------------------------------------------------------------------------

    def start(self, *, crash_after: int | None = None) -> None:
        """Power on and start the node, unless it runs. `crash_after`: lose power after so many disk operations.

        Not one that is not in service.
        """
        if not self.in_service:
            return
        self.powered = True
        if self.process is not None:
            return
        self.process = process = NodeProcess(self._world, self)
        if crash_after is not None:
            self.disk.crash_at = len(self.disk.trace) + crash_after
        task = self._world.loop.create_task(process.boot(), context=process.context.copy())
        task.add_done_callback(lambda done: self._booted(process, done))

    def join(self) -> None:
        """The node was added to the cluster: start it, with an empty data directory and --join."""
        if not self.in_service:
            self.in_service = True
            self._note("joins")
            self.start()

    def give_up(self) -> None:
        """Nobody starts it again; it may still run."""
        self.in_service = False

    def wipe(self) -> None:
        """Lose the whole data directory. The node is still in service: it is started again under its id."""
        self._end(power=False, note="loses its disk")
        self.lost_its_disk = True
        self.disk, self.store = NodeDisk(), CrashableStore()

    def kill(self) -> bool:
        """SIGKILL: what was written stays, in the middle of whatever was under way. Return whether a write was."""
        return self._end(power=False, note="killed")

    def lose_power(self) -> bool:
        """Power loss: of what was not synced, nothing, all or some is left. Return whether a write was under way."""
        writing = self._end(power=True, note="lost power")
        self.powered = False
        self.disk.lose_power(self.random)
        self._world.network.counts.update(self.disk.lost)
        self.disk.lost.clear()
        self.store.lose_power(self.random)
        self._boots += 1
        return writing

    def shut_down(self) -> None:
        """Stop the node in order; takes a while."""
        process = self.process
        if process is not None and process.node is not None and not process.stopping:
            process.stopping = True
            task = self._world.loop.create_task(process.shut_down(), context=process.context.copy())
            task.add_done_callback(lambda done: self._stopped(process, done))

    def process_failed(self, process: NodeProcess, error: BaseException | None) -> None:
        """A process ended by itself, or never came up."""
        if self.process is not process:
            return
        self._note(f"the node stops by itself: {error}")
        if isinstance(error, DataDirectoryMismatch) and self.lost_its_disk:
            self.refused = True
            self.give_up()
        elif isinstance(error, StorageError) and self.disk.faults_fired > process.faults_before:
            self.ends.append("disk failure")
        else:
            self._world.violation(f"node {self.number} stopped by itself: {error!r}")
        self._end(power=False, note="exited")

    def _end(self, *, power: bool, note: str) -> bool:
        process, self.process = self.process, None
        if process is None:
            return False
        self._note(note)
        process.dead = True
        writing = sum(runner.crash(self.random) for runner in process.runners) > 0  # every one, not only the first
        if not power:
            self.disk.interrupted.clear()
        if process.transport is not None:
            process.transport.cut_off()
        self._world.loop.kill(process)
        self._world.network.died(process, power=power)
        return writing

    def _booted(self, process: NodeProcess, done: asyncio.Task[None]) -> None:
        if done.cancelled() or (error := done.exception()) is None:
            return
        if isinstance(error, PowerLoss):
            self.ends.append("crash in recovery")
            self.lose_power()
        else:
            self.process_failed(process, error)

    def _stopped(self, process: NodeProcess, done: asyncio.Task[None]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self.process_failed(process, error)
        elif self.process is process:
            self._end(power=False, note="stopped cleanly")

    def _note(self, what: str) -> None:
        self._world.trace.note(f"n{self.number}", what)


def _applied_index(store: MemoryOrderedStore) -> Index:
    with store.read() as reader:
        return Index(read_meta(reader).applied_index)
