"""Several cores joined by a fake network and instant or delayed disks: no clock, no I/O, every step chosen by the test."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogWrite,
    Message,
    NodeId,
    Position,
    Raft,
    RaftConfig,
    ReadState,
    Role,
)


class Node:
    """A core, its disk, and what its state machine was given."""

    def __init__(self, config: RaftConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.disk_hard_state = HardState()
        self.disk_log: list[Entry] = []
        self.applied: list[Entry] = []
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
        """Lose everything that is not on disk. The state machine keeps what it applied (LMDB survives a process)."""
        self.up = False
        self.writes.clear()
        self.reads.clear()

    def restart(self) -> None:
        self.seed += 1000
        self.up = True
        self.raft = self._boot()

    def store(self, write: LogWrite) -> None:
        self.disk_hard_state = write.hard_state
        if write.entries:
            del self.disk_log[write.entries[0].index - 1 :]
            self.disk_log.extend(write.entries)


class Network:
    """Delivers messages in order, unless a test cuts links, filters messages or reorders them."""

    def __init__(
        self,
        size: int = 3,
        *,
        seed: int = 1,
        election_ticks: int = 10,
        heartbeat_ticks: int = 2,
        max_append_bytes: int = 1 << 20,
        max_inflight_bytes: int = 8 << 20,
    ) -> None:
        ids = [NodeId(i) for i in range(1, size + 1)]
        self.nodes = {
            node_id: Node(
                RaftConfig(
                    node_id=node_id,
                    configuration=Configuration(frozenset(ids)),
                    election_ticks=election_ticks,
                    heartbeat_ticks=heartbeat_ticks,
                    max_append_bytes=max_append_bytes,
                    max_inflight_bytes=max_inflight_bytes,
                ),
                seed * 100 + node_id,
            )
            for node_id in ids
        }
        self.queue: deque[Message] = deque()
        self.cut: set[tuple[int, int]] = set()
        """Ordered pairs (sender, receiver) between which everything is lost."""
        self.drop: Callable[[Message], bool] = lambda message: False
        self.delivered: list[Message] = []

    def __getitem__(self, node_id: int) -> Raft:
        return self.nodes[NodeId(node_id)].raft

    def node(self, node_id: int) -> Node:
        return self.nodes[NodeId(node_id)]

    # --- faults ---

    def isolate(self, node_id: int) -> None:
        for other in self.nodes:
            if other != node_id:
                self.cut |= {(node_id, other), (other, node_id)}

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda message: False

    def crash(self, node_id: int) -> None:
        self.node(node_id).crash()

    def restart(self, node_id: int) -> None:
        self.node(node_id).restart()

    # --- steps ---

    def collect(self, node_id: int) -> None:
        """Do everything that one node's core asks for; its disk only if it is not slow."""
        node = self.node(node_id)
        while node.up and (ready := node.raft.ready()) is not None:
            self.queue.extend(ready.messages)
            node.reads.extend(ready.reads)
            node.reads_dropped.extend(ready.reads_dropped)
            if ready.write is not None:
                node.writes.append(ready.write)
                if not node.disk_is_slow:
                    self.flush(node_id, collect=False)
            if ready.committed:
                node.applied.extend(ready.committed)
                node.raft.applied(ready.committed[-1].index)

    def flush(self, node_id: int, *, writes: int | None = None, collect: bool = True) -> None:
        """The disk finishes its oldest `writes` (None: all)."""
        node = self.node(node_id)
        count = len(node.writes) if writes is None else writes
        for _ in range(count):
            write = node.writes.popleft()
            node.store(write)
            self.queue.extend(write.messages)
            node.raft.persisted(write.number)
        if collect:
            self.collect(node_id)

    def deliver_one(self) -> bool:
        """Deliver (or lose) the oldest message."""
        if not self.queue:
            return False
        message = self.queue.popleft()
        target = self.nodes[message.receiver]
        if (message.sender, message.receiver) in self.cut or self.drop(message) or not target.up:
            return True
        self.delivered.append(message)
        target.raft.step(message)
        self.collect(message.receiver)
        return True

    def settle(self, limit: int = 10_000) -> None:
        """Deliver until nothing is left to say."""
        for node_id in self.nodes:
            self.collect(node_id)
        for _ in range(limit):
            if not self.deliver_one():
                return
        raise AssertionError(f"the nodes were still talking after {limit} messages")

    def tick(self, count: int = 1, only: Iterable[int] | None = None) -> None:
        for _ in range(count):
            for node_id in self.nodes if only is None else only:
                if self.node(node_id).up:
                    self.node(node_id).raft.tick()
            self.settle()

    def elect(self, node_id: int) -> None:
        """Tick one node alone until it leads (the others' timers must not protect another leader)."""
        for _ in range(10 * self.node(node_id).config.election_ticks):
            if self[node_id].role is Role.LEADER:
                return
            self.tick(only=[node_id])
        raise AssertionError(f"node {node_id} was not elected")

    def wait_for_leader(self, ticks: int = 200) -> int:
        for _ in range(ticks):
            self.tick()
            leaders = [node_id for node_id, node in self.nodes.items() if node.up and node.raft.role is Role.LEADER]
            newest = max((self[node_id].term for node_id in leaders), default=0)
            current = [node_id for node_id in leaders if self[node_id].term == newest]
            others = [other for other in self.nodes if current and other != current[0]]
            if current and not (others and all((current[0], other) in self.cut for other in others)):
                return current[0]
        raise AssertionError("no leader was elected")

    def propose(self, node_id: int, data: bytes) -> Position:
        position = self[node_id].propose(data, EntryKind.COMMANDS)
        assert isinstance(position, Position), position
        self.settle()
        return position

    def applied_data(self, node_id: int) -> list[bytes]:
        return [entry.data for entry in self.node(node_id).applied if entry.kind is EntryKind.COMMANDS]
