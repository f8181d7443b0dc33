"""One simulated node: a core, its disk, and a state machine that remembers what it was given."""

from __future__ import annotations

import random
from collections import deque

from raftkv.raft import (
    Entry,
    EntryKind,
    Fitness,
    HardState,
    Index,
    LogWrite,
    NodeId,
    Raft,
    RaftConfig,
    ReadState,
    Snapshot,
)


class Node:
    """What a driver would hold. Only what is called disk, the checkpoints and `applied` survive a crash."""

    def __init__(self, config: RaftConfig, seed: int) -> None:
        self.config = config
        self.id: NodeId = config.node_id
        self.seed = seed
        self.disk_hard_state = HardState()
        self.disk_base: Snapshot | None = None
        """The newest checkpoint; the log on disk goes on behind it."""
        self.disk_log: list[Entry] = []
        self.checkpoints: dict[Snapshot, list[Entry]] = {}
        """Received ones, whole, that wait to be installed."""
        self.applied: list[Entry] = []
        """The state machine: all that it was given, or had from a checkpoint. Like LMDB, it survives the death of the
        process."""
        self.reads: list[ReadState] = []
        self.reads_dropped: list[int] = []
        self.writes: deque[LogWrite] = deque()
        """Writes that the disk has not finished."""
        self.disk_is_slow = False
        self.fitness = Fitness.FIT
        """What the driver has said last, and says again after a restart."""
        self.up = True
        self.raft = self._boot()

    def _boot(self) -> Raft:
        return Raft(
            self.config,
            hard_state=self.disk_hard_state,
            entries=tuple(self.disk_log),
            applied=Index(len(self.applied)),
            rng=random.Random(self.seed),
            snapshot=self.disk_base,
        )

    def crash(self) -> None:
        """Lose everything that is not on disk."""
        self.up = False
        self.writes.clear()
        self.reads.clear()
        self.reads_dropped.clear()

    def restart(self) -> None:
        self.seed += 1000
        self.up = True
        self.raft = self._boot()
        self.raft.set_fitness(self.fitness)

    def set_fitness(self, fitness: Fitness) -> None:
        """Let the driver say whether this node should lead."""
        self.fitness = fitness
        if self.up:
            self.raft.set_fitness(fitness)

    def store(self, write: LogWrite) -> None:
        """Make one write durable."""
        if not write.needs_disk:
            return
        self.disk_hard_state = write.hard_state
        if write.restore is not None:
            self._install(write.restore)
        if write.entries:
            del self.disk_log[write.entries[0].index - self.first_on_disk :]
            self.disk_log.extend(write.entries)

    def _install(self, snapshot: Snapshot) -> None:
        """Replace state and log by a checkpoint. A witness has none, and no state either: placeholders stand for it."""
        state = self.checkpoints.pop(snapshot, None)
        if state is None:
            state = [Entry(snapshot.term, Index(i), EntryKind.NOOP) for i in range(1, snapshot.index + 1)]
        self.applied[:] = state
        self.disk_base = snapshot
        self.disk_log.clear()

    def checkpointed(self, snapshot: Snapshot) -> None:
        """A checkpoint of the own state is durable: a restart needs no entries before it."""
        if self.disk_base is None or snapshot.index > self.disk_base.index:
            del self.disk_log[: snapshot.index + 1 - self.first_on_disk]
            self.disk_base = snapshot

    @property
    def first_on_disk(self) -> int:
        """Index of the first entry that the log on disk holds, or would hold."""
        return 1 if self.disk_base is None else self.disk_base.index + 1

    @property
    def last_on_disk(self) -> int:
        return self.first_on_disk - 1 + len(self.disk_log)

    def holds_on_disk(self, entry: Entry) -> bool:
        """Whether the log on disk has this very entry, or a checkpoint in its place."""
        position = entry.index - self.first_on_disk
        if position < 0:
            return True
        if position >= len(self.disk_log):
            return False
        held = self.disk_log[position]
        return held is entry or held == entry  # most are the same object, and comparing two takes long

    def covers_on_disk(self, index: int, term: int) -> bool:
        """The same for an entry known by its position: a witness holds that, and no payload."""
        position = index - self.first_on_disk
        return position < 0 or (position < len(self.disk_log) and self.disk_log[position].term == term)
