"""One simulated node: a core, its disk, and a state machine that remembers what it was given."""

from __future__ import annotations

import random
from collections import deque

from raftkv.raft import Entry, HardState, Index, LogWrite, NodeId, Raft, RaftConfig, ReadState


class Node:
    """What a driver would hold. Only `disk_hard_state`, `disk_log` and `applied` survive a crash."""

    def __init__(self, config: RaftConfig, seed: int) -> None:
        self.config = config
        self.id: NodeId = config.node_id
        self.seed = seed
        self.disk_hard_state = HardState()
        self.disk_log: list[Entry] = []
        self.applied: list[Entry] = []
        """The state machine; like LMDB, it survives the death of the process."""
        self.reads: list[ReadState] = []
        self.reads_dropped: list[int] = []
        self.writes: deque[LogWrite] = deque()
        """Writes that the disk has not finished."""
        self.disk_is_slow = False
        self.up = True
        self.raft = self._boot()

    def _boot(self) -> Raft:
        return Raft(
            self.config,
            hard_state=self.disk_hard_state,
            entries=tuple(self.disk_log),
            applied=Index(len(self.applied)),
            rng=random.Random(self.seed),
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

    def store(self, write: LogWrite) -> None:
        """Make one write durable."""
        if not write.needs_disk:
            return
        self.disk_hard_state = write.hard_state
        if write.entries:
            del self.disk_log[write.entries[0].index - 1 :]
            self.disk_log.extend(write.entries)

    def holds_on_disk(self, entry: Entry) -> bool:
        if entry.index > len(self.disk_log):
            return False
        held = self.disk_log[entry.index - 1]
        return held is entry or held == entry  # most are the same object, and comparing two takes long
