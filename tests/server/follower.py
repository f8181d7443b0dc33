"""One follower, with everything that it keeps on a simulated disk, and leaders that only exist as messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Group, Put
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.kv.records import read_meta
from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    Message,
    NodeId,
    Raft,
    RaftConfig,
    Snapshot,
    Term,
)
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import AppendRequest, InstallSnapshot
from raftkv.server.clock import MonotonicClock
from raftkv.server.disk import Disk, StoreDamage, inspect_state
from raftkv.server.disk_kind import DiskKind
from raftkv.server.node import Node, NodeLimits
from raftkv.storage.checkpoint import CheckpointManifest, Chunk
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.files import FileSystem
from raftkv.storage.memory import MemoryDisk, MemoryEngine, MemoryLogStore, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.recovery import Recovered, recover_node
from raftkv.storage.worker import Inline, Runner
from raftkv.transport.memory import MemoryHub
from tests.server.memory_cluster import TICK_S, until
from tests.storage.simdisk import SimDisk

T = TypeVar("T")

ME, LEADER, NEXT_LEADER = NodeId(1), NodeId(2), NodeId(3)
MEMBERS = Configuration(frozenset((ME, LEADER, NEXT_LEADER)))
CHECKPOINTS = Path("/data/checkpoints")
ENTRY_BYTES = 1000
"""Roughly what an entry takes in the log."""


def entry(index: int, term: int = 1) -> Entry:
    put = Put(1, b"key %d" % index, bytes(ENTRY_BYTES))
    return Entry(
        Term(term), Index(index), EntryKind.COMMANDS, encode_batch(Batch(1000 + index, (Group(0, 0, (put,)),)))
    )


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def append(
    after: int, new: Sequence[Entry], commit: int, *, term: int = 1, after_term: int = 1, sender: NodeId = LEADER
) -> AppendRequest:
    return AppendRequest(
        sender=sender,
        receiver=ME,
        term=Term(term),
        previous_index=Index(after),
        previous_term=Term(after_term if after else 0),
        commit=Index(commit),
        entries=tuple(new),
    )


def install(index: int, *, term: int = 1, sender: NodeId = LEADER) -> InstallSnapshot:
    return InstallSnapshot(
        sender=sender, receiver=ME, term=Term(term), snapshot=Snapshot(Index(index), Term(1), MEMBERS)
    )


class Checkpoint:
    """One that a leader has made of the first entries, and its bytes."""

    def __init__(self, manifest: CheckpointManifest, chunks: list[Chunk]) -> None:
        self.manifest = manifest
        self.chunks = chunks


async def checkpoint_of(index: int) -> Checkpoint:
    files, store = MemoryFileSystem(), MemoryOrderedStore()
    StateMachine(store).apply([AppliedEntry(e.index, e.term, e.data) for e in entries(1, index)])
    made = open_checkpoints(files)
    manifest = await made.create(store, lambda _index, _term: encode_configuration(MEMBERS))
    sending = made.send()
    chunks = [await sending.read_chunk(offset, 1 << 20) for offset in range(0, manifest.size, 1 << 20)]
    return Checkpoint(manifest, chunks)


def open_checkpoints(
    files: FileSystem, make_runner: Callable[[str], Runner] = lambda _: Inline()
) -> CheckpointStore[Any]:
    return CheckpointStore.open(
        CHECKPOINTS, engine=MemoryEngine(files), inspect=inspect_state, files=files, make_runner=make_runner
    )


class HeldUp(Inline):
    """A `Runner` that begins no job while `go_on` is clear."""

    def __init__(self, go_on: asyncio.Event) -> None:
        super().__init__()
        self._go_on = go_on

    async def _run(self, job: Callable[[], T]) -> T:
        await self._go_on.wait()
        return await super()._run(job)


class MemoryKeeper(Disk):
    """A `Disk` whose store is in memory."""

    @classmethod
    def of(
        cls, log_store: Any, recovered: Recovered[Any], checkpoints: CheckpointStore[Any], kind: DiskKind
    ) -> MemoryKeeper:
        store = recovered.store
        damage = StoreDamage(cast(Any, None))  # a store in memory meets none
        return cls(
            log_store, recovered.log, store, StateMachine(store), checkpoints, recovered.checkpoint, kind, damage=damage
        )

    def store_bytes(self) -> int:
        return 0


class _Log(MemoryLogStore):
    """A log whose disk can be held up."""

    flushing: asyncio.Event

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        await self.flushing.wait()
        await super().append(hard_state, entries)


class Follower:
    """Node 1 of 3. Its disks outlive its restarts; its election timeout is longer than any test."""

    def __init__(self, *, due_bytes: int = 1 << 30) -> None:
        self.due_bytes = due_bytes
        self.flushing = asyncio.Event()
        """Clear it to hold up what is written to the log."""
        self.flushing.set()
        self.log_disk = MemoryDisk()
        self.disk = SimDisk()
        """Of the checkpoints."""
        self.store = MemoryOrderedStore()
        self.copying = asyncio.Event()
        """Clear it to hold up the checkpoint that is being made here."""
        self.copying.set()
        self.node: Node
        self.keeper: Disk
        self.log_store: _Log

    async def start(self) -> None:
        self.log_store, found = _Log.open(self.log_disk)
        self.log_store.flushing = self.flushing
        runners = {"raftkv-checkpoint": HeldUp(self.copying)}
        checkpoints = open_checkpoints(self.disk, lambda name: runners.get(name, Inline()))
        recovered = await recover_node(
            self.log_store, found, checkpoints, open_store=lambda: self.store, applied_index=applied_index
        )
        kind = DiskKind.open(CHECKPOINTS.parent, ME, self.disk)
        self.keeper = MemoryKeeper.of(self.log_store, recovered, checkpoints, kind)
        raft = Raft(
            RaftConfig(node_id=ME, configuration=MEMBERS, election_ticks=1_000_000),
            hard_state=recovered.log.hard_state,
            entries=self.keeper.entries,
            snapshot=self.keeper.snapshot,
            applied=Index(self.keeper.machine.applied_index),
            rng=random.Random(1),
        )
        self.node = Node(
            raft=raft,
            keeper=self.keeper,
            log_store=self.log_store,
            transport=MemoryHub().transport(ME),
            clock=MonotonicClock(),
            limits=NodeLimits(tick_s=TICK_S, checkpoint_log_bytes=self.due_bytes),
        )
        self.node.recover()
        await self.node.start()

    async def stop(self) -> None:
        """End the process; what is on its disks stays."""
        await self.node.stop()
        await self.keeper.checkpoints.close()
        self.store = cast(Any, self.keeper.store)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def newest(self) -> int:
        """The entry of the newest checkpoint, or 0."""
        return self.keeper.newest.index if self.keeper.newest else 0

    @property
    def held(self) -> list[int]:
        """The entries of all checkpoints, newest first."""
        return [manifest.index for manifest in self.keeper.checkpoints.valid]

    async def holds(self, *indexes: int) -> None:
        """Wait until these checkpoints and no others are here, on disk too: what is not needed goes beside all else."""
        await until(lambda: self.held == [*indexes] and len(self.disk.names(CHECKPOINTS)) == 2 * len(indexes))

    def hear(self, *messages: Message) -> None:
        self.node.on_messages(messages)

    async def applied(self, index: int) -> None:
        await until(lambda: self.node.machine.applied_index >= index or self.node.failure.done())
        if self.node.failure.done():
            self.node.failure.result()

    async def receive(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint as a transport hands it in."""
        incoming = await self.node.begin_checkpoint(checkpoint.manifest.encode())
        for chunk in checkpoint.chunks:
            if incoming.offset < chunk.offset + len(chunk.data):
                await incoming.write_chunk(chunk.offset, chunk.data, chunk.crc)
        await incoming.finish()


def applied_index(store: MemoryOrderedStore) -> Index:
    with store.read() as reader:
        return Index(read_meta(reader).applied_index)
