"""One simulated machine: the node, its links to the others, its disk's pace, and what of that a fault has changed."""

from __future__ import annotations

from collections import deque

from raftkv.raft import Entry, Message, NodeId, RaftConfig, ReadState
from raftkv.server.lease import Lease
from tests.raft.node import Node


class Fault:
    """One that has begun. It counts as fired once it has really hit something."""

    __slots__ = ("hits", "kind", "over")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.hits = 0
        self.over = False


class Link:
    """From one machine to one other."""

    __slots__ = ("blockers", "generation", "held", "holders", "last_arrival", "newest", "slowness", "target")

    def __init__(self, target: Machine) -> None:
        self.target = target
        self.blockers: list[Fault] = []
        """While there are any, everything is lost."""
        self.holders: list[Fault] = []
        """While there are any, nothing arrives and nothing is lost: a black hole with the connection left open."""
        self.held: list[Message] = []
        self.slowness: list[tuple[Fault, int]] = []
        self.generation = 0
        """Counts the connections: what is on its way when one breaks is lost."""
        self.last_arrival = 0
        self.newest = 0
        """Sequence number of the newest message that has arrived: an older one comes late (reordering)."""


class Machine(Node):
    """A node, and what surrounds it."""

    def __init__(self, config: RaftConfig, seed: int, *, tick_length: int, disk_time: int, apply_delay: int) -> None:
        super().__init__(config, seed)
        self.links: dict[NodeId, Link] = {}
        self.usual_tick_length = tick_length
        self.tick_length = tick_length
        self.next_tick = 0
        self.lease = Lease(config.lease_ms)
        self.paces: list[tuple[Fault, float]] = []
        """What makes its clock go wrong: by these factors."""
        self.disk_time = disk_time
        self.apply_delay = apply_delay
        self.life = 0
        """Counts its restarts: what was scheduled in an earlier life no longer happens."""
        self.pausers: list[Fault] = []
        """While there are any (SIGSTOP), it does nothing, and messages queue up."""
        self.inbox: deque[Message] = deque()
        self.slow_disk: list[tuple[Fault, int]] = []
        self.disk_is_busy = False
        self.disk_turn = 0
        """Counts what ends before its time: crashes, and the end of slowness."""
        self.collects_later = False
        """Inputs are taken and the Ready is not: the next ones will share it."""
        self.to_apply: deque[tuple[Entry, ...]] = deque()
        self.apply_turn = 0
        """Counts what is dropped from it."""
        self.applied_index = 0
        self.state_hash = 0
        """Rolling, over everything applied."""
        self.waiting_reads: list[ReadState] = []
        self.told: tuple[object, ...] = ()
        """What the trace last said of it."""

    def clock_ms(self, now: int) -> float:
        """What its own clock shows: a second for each of its own usual ticks."""
        return now * 1000 / self.usual_tick_length

    def holds_lease(self, now: int) -> bool:
        """Whether it would answer a read by its lease now."""
        return self.up and not self.pausers and self.lease.holds(self.clock_ms(now), self.raft.rounds)

    def set_tick_length(self) -> None:
        length = float(self.usual_tick_length)
        for _, factor in self.paces:
            length *= factor
        self.tick_length = max(int(length), 1)

    def drop_applies(self) -> None:
        self.to_apply.clear()
        self.apply_turn += 1

    def crash(self) -> None:
        super().crash()
        self.life += 1
        self.next_tick = 0
        self.lease = Lease(self.config.lease_ms)
        self.pausers.clear()
        self.inbox.clear()
        self.disk_is_busy = False
        self.disk_turn += 1
        self.collects_later = False
        self.drop_applies()
        self.waiting_reads.clear()
