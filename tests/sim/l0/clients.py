"""What clients may rely on, judged from what they were told: acknowledged writes, reads, and equal states.

It knows nothing of logs or terms of the core beyond the position that a proposal was given.
"""

from __future__ import annotations

import zlib
from collections import Counter

from raftkv.raft import Entry, EntryKind, NodeId, Position, ReadState
from tests.raft.oracle import SafetyViolation
from tests.sim.l0.machine import Machine


class Clients:
    """Every client of the cluster."""

    def __init__(self, counts: Counter[str], witnesses: frozenset[NodeId]) -> None:
        self.witnesses = witnesses
        """Nodes without a state."""
        self.counts = counts
        self.written: dict[bytes, int] = {}
        """Every write -> its index in the log. Each is proposed once, so it must be there once."""
        self.acknowledged: dict[bytes, int] = {}
        self.newest_acknowledged = 0
        self.state_hashes: list[int] = [0]
        """At each applied index, as the first node that got there had it."""
        self._waiting: dict[NodeId, dict[int, tuple[int, bytes]]] = {}
        """Node -> index -> (term, write): who waits there for that proposal."""
        self._read_floor: dict[int, int] = {}
        self.lost_waiters = 0

    def proposed(self, node: NodeId, position: Position, write: bytes) -> None:
        self._waiting.setdefault(node, {})[position.index] = (position.term, write)

    def committed(self, entry: Entry) -> None:
        """`entry` is decided (told once for each index, in order)."""
        if entry.kind is EntryKind.COMMANDS and self.written.setdefault(entry.data, entry.index) != entry.index:
            raise SafetyViolation(f"K1: a write is in the log twice, at {self.written[entry.data]} and {entry.index}")

    def applied(self, machine: Machine, entry: Entry) -> None:
        """`machine` has applied `entry`: compare states, and tell whoever waits for it."""
        index = entry.index
        machine.applied_index = index
        if machine.id in self.witnesses:
            return
        state = machine.state_hash = zlib.crc32(entry.data, machine.state_hash ^ index)
        hashes = self.state_hashes
        if index == len(hashes):
            hashes.append(state)
        elif hashes[index] != state:
            raise SafetyViolation(f"K2: node {machine.id} has another state at index {index} than others had")
        waiting = self._waiting.get(machine.id)
        if waiting and (waiter := waiting.pop(index, None)) is not None:
            term, write = waiter
            if term != entry.term:
                self.counts["writes refuted"] += 1
            elif entry.data != write:
                raise SafetyViolation(f"K3: a write is acknowledged at index {index}, where another one stands")
            else:
                self.counts["writes acknowledged"] += 1
                self.acknowledged[write] = index
                self.newest_acknowledged = max(index, self.newest_acknowledged)

    def restored(self, machine: Machine, index: int) -> None:
        """The state of `machine` is that of a checkpoint. Whoever waited for an entry before it learns nothing."""
        machine.applied_index = index
        machine.state_hash = self.state_hashes[index]
        waiting = self._waiting.get(machine.id, {})
        for passed in [waited for waited in waiting if waited <= index]:
            del waiting[passed]
            self.counts["writes unknown"] += 1

    def crashed(self, machine: Machine) -> None:
        """Whoever waited at `machine` does not learn what came of it."""
        self.counts["writes unknown"] += len(self._waiting.pop(machine.id, ()))

    def read_begins(self, request: int) -> None:
        self._read_floor[request] = self.newest_acknowledged

    def read_served(self, machine: Machine, read: ReadState) -> None:
        self.counts["reads served"] += 1
        if machine.applied_index < (floor := self._read_floor.pop(read.request)):
            raise SafetyViolation(
                f"K4: read {read.request} sees the state at {machine.applied_index} on node {machine.id}; "
                f"the write at {floor} was acknowledged before it began"
            )

    def read_by_lease(self, machine: Machine) -> None:
        """`machine` would answer without asking anybody, from a state that has applied its commit index."""
        self.counts["reads by lease"] += 1
        if machine.raft.log.commit < self.newest_acknowledged:
            raise SafetyViolation(
                f"K6: node {machine.id} answers by its lease at {machine.raft.log.commit}; the write at "
                f"{self.newest_acknowledged} is acknowledged"
            )

    def require_kept(self, machine: Machine) -> None:
        """Raise unless `machine` has applied every acknowledged write, once, where it was acknowledged."""
        if machine.id in self.witnesses:
            return
        commands = [(entry.data, entry.index) for entry in machine.applied if entry.kind is EntryKind.COMMANDS]
        found = dict(commands)
        if len(found) != len(commands):
            raise SafetyViolation(f"K1: node {machine.id} has applied a write twice")
        for write, index in self.acknowledged.items():
            if found.get(write) != index:
                raise SafetyViolation(
                    f"K5: the write acknowledged at {index} is at {found.get(write)} on node {machine.id}"
                )
