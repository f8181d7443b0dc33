"""What a node has on disk, opened in the order that raftkv.storage prescribes and closed in the reverse one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import google_crc32c
import structlog

from raftkv.errors import StorageError
from raftkv.kv.hashing import StateHasher
from raftkv.kv.machine import StateMachine
from raftkv.kv.records import read_meta
from raftkv.kv.store import Reader
from raftkv.raft import Entry, Index, Snapshot, Term
from raftkv.raft.membership import decode_configuration, encode_configuration
from raftkv.server.cluster import Cluster
from raftkv.server.disk_kind import DiskKind, Kind, KindGuard
from raftkv.server.metrics.timed_files import TimedFiles
from raftkv.server.settings import ServerSettings
from raftkv.server.tallies import Durations
from raftkv.storage.checkpoint import CHUNK_BYTES, CheckpointManifest, CheckpointMeta, CopyableStore, StateInfo
from raftkv.storage.checkpoint_directory import OpenCopy
from raftkv.storage.checkpoint_room import CheckpointRoom
from raftkv.storage.checkpoint_store import CheckpointStore, Receiving, Sending
from raftkv.storage.data_dir import DataDir, open_data_dir
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.lmdb_store import DamagedStore, LmdbEngine, LmdbStore
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import LogStore, RecoveredLog
from raftkv.storage.recovery import Recovered, recover_node
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.wal_segments import describe_os_error

log = structlog.get_logger("raftkv.disk")

STORE_IS_REBUILT: Final = "It is a cache: the node stops, and its next start throws the store away and rebuilds it"
HASH_STEP_ROWS: Final = 200
"""Rows that are hashed in one go: a fifth of a millisecond."""
HASH_REST_S: Final = 0.001
"""And then none for so long: the event loop, which waits for the interpreter after each of its system calls, has it to
itself most of the time."""


class StoreDamage:
    """Sees to it that damage to the state store, wherever it is met, ends the node; the next start rebuilds it."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._loop = asyncio.get_running_loop()
        self._met = False
        self.stop_node: Callable[[StorageError], None] | None = None
        """Called on the loop, once there is a node. Before, whoever met the damage is who starts it."""

    def __call__(self, error: DamagedStore) -> None:
        """Mark the store, have the node stop, and complete what `error` says. In any thread."""
        self._met = True
        way_out = STORE_IS_REBUILT
        try:
            self._data_dir.condemn_store(error.message)
        except StorageError as failure:
            way_out = (
                f"It is a cache: delete {self._data_dir.store_path}, since no mark could be made ({failure.message})"
            )
        error.message = f"the state store is damaged: {error.message}. {way_out}"
        error.args = (error.message,)
        if self.stop_node is not None:
            self._loop.call_soon_threadsafe(self.stop_node, error)

    @contextmanager
    def of_copies(self) -> Iterator[None]:
        """A fresh copy that is damaged is one of a damaged store."""
        try:
            yield
        except DamagedStore as error:
            if not self._met:
                self(error)
            raise


@dataclass(slots=True)
class Disk:
    """Open, and locked for this process."""

    wal: WriteAheadLog
    recovered: RecoveredLog
    store: LmdbStore
    machine: StateMachine
    checkpoints: CheckpointStore[LmdbStore]
    checkpoint: CheckpointManifest | None
    """What the log follows. Entries at or before its index may be in `recovered` too."""
    kind: DiskKind
    damage: StoreDamage
    promised_ms: int = 0
    """See `DataDir.promised_ms`."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries after the checkpoint."""
        return self.recovered.after(self.checkpoint.index if self.checkpoint else Index(0))

    @property
    def snapshot(self) -> Snapshot | None:
        """What the checkpoint stands for."""
        if self.checkpoint is None:
            return None
        meta = self.checkpoint.meta
        return Snapshot(meta.index, meta.term, decode_configuration(meta.configuration))

    @property
    def newest(self) -> CheckpointManifest | None:
        return self.checkpoints.newest

    @property
    def kept(self) -> int:
        return len(self.checkpoints.valid)

    @property
    def fallback(self) -> CheckpointManifest | None:
        return self.checkpoints.fallback

    @property
    def log_store(self) -> LogStore:
        """The log, as the node may write it."""
        return KindGuard(self.wal, self.kind)

    def renew(self) -> None:
        self.machine = StateMachine(self.store)

    def store_bytes(self) -> int:
        return self.store.size_bytes()

    def used_bytes(self) -> int:
        return self.store.used_bytes()

    async def create(self, configuration_at: Callable[[Index, Term], bytes]) -> CheckpointManifest:
        with self.damage.of_copies():
            return await self.checkpoints.create(self.store, configuration_at)

    async def copy_aside(self) -> tuple[OpenCopy, int]:
        """Copy the state for a reader who takes his time; return that and how many rows it has, about."""
        rows = self.store.row_count()
        with self.damage.of_copies():
            return await self.checkpoints.copy_aside(self.store), rows

    def send(self) -> Sending:
        return self.checkpoints.send()

    async def begin(self, manifest: CheckpointManifest) -> Receiving:
        return await self.checkpoints.begin(manifest)

    async def forget_below(self, index: Index) -> None:
        await self.checkpoints.forget_below(index)

    async def fabricate(self, snapshot: Snapshot) -> None:
        """See `Keeper.fabricate`. It goes the way of one that was received, so that a crash leaves what that leaves."""
        self.kind.require(Kind.WITNESS)
        manifest, content = await self.checkpoints.with_scratch(partial(_empty_checkpoint, snapshot))
        receiving = await self.checkpoints.begin(manifest)
        while receiving.offset < manifest.size:
            data = content[receiving.offset : receiving.offset + CHUNK_BYTES]
            await receiving.write_chunk(receiving.offset, data, google_crc32c.value(data))
        await receiving.finish()

    def hold(self, snapshot: Snapshot) -> bool:
        return self.checkpoints.hold(snapshot.index, snapshot.term)

    def release(self, snapshot: Snapshot) -> None:
        self.checkpoints.release(snapshot.index)

    async def restore(self, snapshot: Snapshot) -> None:
        """Replace `store` and `machine` by the state of a checkpoint. See `CheckpointStore.restore`."""
        self.kind.require_fits(snapshot.configuration)
        self.store = await self.checkpoints.restore(self.store, snapshot.index)
        self.machine = StateMachine(self.store)
        if not self.machine.holds_nothing:
            self.kind.require(Kind.DATA)

    async def close_state(self) -> None:
        """Close the checkpoints, and then whichever store is in place now. Idempotent."""
        await self.checkpoints.close()
        self.store.close()


def inspect_state(reader: Reader) -> StateInfo:
    """Say which state a store holds. Reads all of it."""
    hasher = StateHasher(reader)
    while not hasher.step(HASH_STEP_ROWS):
        time.sleep(HASH_REST_S)
    return StateInfo(Index(hasher.applied_index), Term(hasher.applied_term), hasher.digest())


def _empty_checkpoint(snapshot: Snapshot, scratch: CopyableStore) -> tuple[CheckpointManifest, bytes]:
    """Return the checkpoint of a state that is at `snapshot` and holds nothing. Blocks."""
    StateMachine(scratch).leap(snapshot.index, snapshot.term)
    with scratch.copy() as blocks:
        content = b"".join(blocks)
    with scratch.read() as reader:
        state = inspect_state(reader)
    crcs = tuple(google_crc32c.value(content[at : at + CHUNK_BYTES]) for at in range(0, len(content), CHUNK_BYTES))
    meta = CheckpointMeta(snapshot.index, snapshot.term, encode_configuration(snapshot.configuration))
    return CheckpointManifest(meta, len(content), crcs, state.state_hash, received=True), content


def _applied_index(store: LmdbStore) -> Index:
    with store.read() as reader:
        return Index(read_meta(reader).applied_index)


def _report(node: Recovered[LmdbStore]) -> None:
    for problem in node.damaged:
        log.warning("a damaged checkpoint was passed over", problem=problem)
    if node.checkpoint is not None and node.store_restored:
        log.info("the state store was restored from a checkpoint", index=node.checkpoint.index)
    if node.checkpoint is not None and node.log_restarted:
        log.warning("the log begins anew after an installed checkpoint", index=node.checkpoint.index)


def _open_store(engine: LmdbEngine, data_dir: DataDir, damage: StoreDamage) -> LmdbStore:
    """Open the working store; one that is found damaged makes room for an empty one, to be rebuilt."""
    try:
        store = engine.open()
        try:
            _applied_index(store)
        except BaseException:
            store.discard()
            raise
        engine.on_damage = damage
        return store
    except DamagedStore as error:
        log.error("the state store is damaged: rebuilt from checkpoint and log", problem=error.message)
        try:
            data_dir.discard_store()
        except OSError as failure:
            raise StorageError(describe_os_error(data_dir.store_path, failure)) from failure
        engine.on_damage = damage
        return engine.open()


@asynccontextmanager
async def open_disk(
    settings: ServerSettings,
    cluster: Cluster,
    *,
    progress: Progress = UNHEARD,
    files: FileSystem | None = None,
    flushes: Durations | None = None,
) -> AsyncIterator[Disk]:
    """Open the data directory for the length of the block. A block that is left without an error ends it cleanly.

    `files` does all that is done to its files, but for what LMDB does to its own. `flushes` is told of the log's.

    Raises StorageError: another node's directory, one that is in use, a damaged log, a full or failing disk.
    """
    async with AsyncExitStack() as stack:
        data_dir = open_data_dir(
            settings.data_dir,
            cluster_id=cluster.cluster_id,
            node_id=cluster.node_id,
            members=cluster.members,
            founded=cluster.founded,
            promise_ms=settings.promise_ms,
            files=files,
        )
        stack.callback(data_dir.close)
        wal, recovered = WriteAheadLog.open(
            data_dir.wal_path,
            segment_bytes=settings.wal_segment_bytes,
            clean_tail=data_dir.clean_tail,
            must_exist=data_dir.ran_before,
            same_boot=data_dir.same_boot,
            progress=progress,
            files=TimedFiles(files or OsFileSystem(), flushes or Durations()),
        )
        stack.push_async_callback(wal.close)
        kind = DiskKind.open(settings.data_dir, cluster.node_id, files)
        data_dir.mark_running()
        if recovered.torn_bytes:
            log.warning("cut a torn write off the log", bytes=recovered.torn_bytes, where=recovered.torn_at)
        if data_dir.store_problem:
            log.error("the state store is damaged: rebuilt from checkpoint and log", problem=data_dir.store_problem)
        elif data_dir.store_discarded:
            log.warning("the machine stopped uncleanly: the state store is rebuilt from checkpoint and log")
        engine = LmdbEngine(data_dir.store_path, map_size=settings.store_map_size, files=files)
        checkpoints = CheckpointStore.open(
            data_dir.checkpoints_path,
            engine=engine,
            inspect=inspect_state,
            files=files,
            room=CheckpointRoom(data_dir.checkpoints_path, settings.disk_reserve),
        )
        stack.push_async_callback(checkpoints.close)
        damage = StoreDamage(data_dir)
        open_store = partial(_open_store, engine, data_dir, damage)
        node = await recover_node(
            wal,
            recovered,
            checkpoints,
            open_store=open_store,
            applied_index=_applied_index,
            restored=data_dir.identity.restored,
            progress=progress,
        )
        _report(node)
        recovered = node.log
        machine = StateMachine(node.store)
        disk = Disk(
            wal, recovered, node.store, machine, checkpoints, node.checkpoint, kind, damage, data_dir.promised_ms
        )
        stack.push_async_callback(disk.close_state)
        log.info(
            "data directory open",
            path=str(settings.data_dir),
            first=recovered.first_index,
            entries=len(recovered.entries),
            checkpoint=node.checkpoint.index if node.checkpoint else None,
            applied=disk.machine.applied_index,
            clean_shutdown=data_dir.clean_shutdown is not None,
        )
        yield disk
        await disk.close_state()
        await wal.close()
        data_dir.mark_clean(wal.tail)
