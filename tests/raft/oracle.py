"""The safety properties of a whole cluster, checked after every step by somebody who sees every node at once.

The oracle shares no code with the core: it counts majorities itself and knows nodes only by what they say, hand to
their disk and apply. The numbers C1 to C10 are those of docs/invariants.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raftkv.raft import Entry, EntryKind, HardState, Index, LogWrite, Message, NodeId, ReadState, Role
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from tests.raft.node import Node


class SafetyViolation(AssertionError):
    """A property of the cluster does not hold."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """What was committed at one index, and the lowest term known to have committed it."""

    entry: Entry
    term: int


class Oracle:
    """Told of every event of a cluster; raises SafetyViolation at the first one that must not happen."""

    def __init__(self, nodes: Mapping[NodeId, Node], *, watch_promises: bool = True) -> None:
        self.nodes = nodes
        self.watch_promises = watch_promises
        """Off: only the damage of a broken promise counts, not the broken promise itself (C7)."""
        self.leader_of: dict[int, NodeId] = {}
        self.committed: dict[int, Commitment] = {}
        self.overwritten = 0
        """Entries that some log held and another leader replaced."""
        self._created: dict[tuple[int, int], tuple[EntryKind, bytes, int]] = {}
        self._log_terms: dict[NodeId, list[int]] = {node_id: [] for node_id in nodes}
        self._leading: dict[NodeId, int] = {}
        self._wrote_as_leader_of: dict[NodeId, int] = {}
        self._known_commit: dict[NodeId, int] = dict.fromkeys(nodes, 0)
        self._applied: dict[NodeId, int] = dict.fromkeys(nodes, 0)
        self._on_disk: dict[NodeId, HardState] = dict.fromkeys(nodes, HardState())
        self._voted_for: dict[tuple[NodeId, int], NodeId] = {}
        self._read_floor: dict[tuple[NodeId, int], int] = {}

    def starts_with(self, node: Node) -> None:
        """A test has `node` boot from the disk that it has now."""
        previous = 0
        for entry in node.disk_log:
            self._created[entry.index, entry.term] = (entry.kind, entry.data, previous)
            previous = entry.term
        self._on_disk[node.id] = node.disk_hard_state
        self.restarted(node)

    def state_lost(self, node: Node) -> None:
        """A test has emptied the state machine of `node`: it will apply its log anew."""
        self._applied[node.id] = 0

    # --- events, in the order in which they happen to a node ---

    def handed(self, node: Node, write: LogWrite) -> None:
        """A core has handed a write to its driver."""
        terms = self._log_terms[node.id]
        if write.entries:
            first = write.entries[0].index
            still_leads = node.raft.role is Role.LEADER and self._wrote_as_leader_of.get(node.id) == node.raft.term
            self._require(
                not (still_leads and first <= len(terms)),
                f"C2: node {node.id}, leader of term {node.raft.term}, replaces its entry {first}",
            )
            self._require(first <= len(terms) + 1, f"node {node.id} writes entry {first} after entry {len(terms)}")
            self.overwritten += len(terms) - first + 1
            del terms[first - 1 :]
        for entry in write.entries:
            previous = terms[-1] if terms else 0
            made = (entry.kind, entry.data, previous)
            first_made = self._created.setdefault((entry.index, entry.term), made)
            self._require(
                first_made == made,
                f"C3: entry {entry.index} of term {entry.term} is {first_made} somewhere and {made} on node {node.id}",
            )
            terms.append(entry.term)
        if node.raft.role is Role.LEADER:
            self._wrote_as_leader_of[node.id] = node.raft.term

    def stored(self, node: Node, before: HardState) -> None:
        """A write of `node` is durable; `before` was the hard state until then."""
        after = self._on_disk[node.id] = node.disk_hard_state
        self._require(after.term >= before.term, f"C8: node {node.id}'s term on disk went back: {before} -> {after}")
        self._require(
            after.commit >= before.commit, f"C8: node {node.id}'s commit on disk went back: {before} -> {after}"
        )
        self._require(
            after.term > before.term or before.vote in (None, after.vote),
            f"C8: node {node.id} changed its vote of term {before.term} on disk from {before.vote} to {after.vote}",
        )

    def sent(self, node: Node, message: Message) -> None:
        """A message has left `node`: from now on others rely on it."""
        match message:
            case VoteRequest():
                self._promises_vote(node, message.term, node.id)
            case VoteResponse(granted=True):
                self._promises_vote(node, message.term, message.receiver)
            case AppendResponse(rejected=False):
                self._promises_entries(node, message.term, message.index)
            case AppendRequest() | HeartbeatRequest() | TimeoutNow():
                self._require(
                    not self.watch_promises or node.disk_hard_state.term >= message.term,
                    f"C7: node {node.id} leads term {message.term} before that term is on its disk",
                )
            case _:
                pass  # promises nothing

    def stepped(self, node: Node) -> None:
        """`node` has taken an input and its Ready has been dealt with."""
        raft = node.raft
        if raft.role is Role.LEADER:
            first = self.leader_of.setdefault(raft.term, node.id)
            self._require(first == node.id, f"C1: nodes {first} and {node.id} both lead term {raft.term}")
            if self._leading.get(node.id) != raft.term:
                self._leading[node.id] = raft.term
                for commitment in self.committed.values():
                    self._require_complete(node, commitment)
        else:
            self._leading.pop(node.id, None)
        commit = raft.log.commit
        for index in range(self._known_commit[node.id] + 1, commit + 1):
            self._commits(node, index)
        self._known_commit[node.id] = max(commit, self._known_commit[node.id])

    def applies(self, node: Node, entries: Iterable[Entry]) -> None:
        """`node` gives entries to its state machine."""
        for entry in entries:
            self._require(
                entry.index == self._applied[node.id] + 1,
                f"C5: node {node.id} applies entry {entry.index} after entry {self._applied[node.id]}",
            )
            self._applied[node.id] = entry.index
            self._require(
                node.holds_on_disk(entry), f"C5: node {node.id} applies entry {entry.index}, which its disk lacks"
            )
            # Its commit index may be news, too: `stepped` has not seen this input yet.
            commitment = self.committed.get(entry.index) or self._commits(node, entry.index)
            self._require(
                commitment.entry == entry,
                f"C5: node {node.id} applies {entry} at index {entry.index}, others {commitment.entry}",
            )

    def restarted(self, node: Node) -> None:
        """`node` has come back from its disk."""
        raft, disk = node.raft, self._on_disk[node.id]
        self._require(raft.term == disk.term, f"C9: node {node.id} restarts in term {raft.term}, not {disk.term}")
        self._require(
            raft.log.applied == self._applied[node.id],
            f"C9: node {node.id} had applied {self._applied[node.id]} and restarts at {raft.log.applied}",
        )
        self._require(
            raft.log.commit >= max(self._applied[node.id], min(disk.commit, len(node.disk_log))),
            f"C9: node {node.id} restarts with commit index {raft.log.commit}",
        )
        self._log_terms[node.id] = [entry.term for entry in node.disk_log]
        self._leading.pop(node.id, None)
        self._wrote_as_leader_of.pop(node.id, None)
        self._known_commit[node.id] = 0  # what it believes committed now is checked anew

    def read_begins(self, node: Node, request: int) -> None:
        self._read_floor[node.id, request] = max(self.committed, default=0)

    def read_confirmed(self, node: Node, read: ReadState) -> None:
        floor = self._read_floor[node.id, read.request]
        self._require(
            read.index >= floor,
            f"C10: read {read.request} on node {node.id} may see index {read.index}, "
            f"but {floor} was committed before it began",
        )

    # --- judgements ---

    def _commits(self, node: Node, index: int) -> Commitment:
        """`node` takes `index` for committed, in its current term."""
        (entry,) = node.raft.log.slice(Index(index), Index(index + 1), 0)
        known = self.committed.get(index)
        if known is None:
            holders = [other.id for other in self.nodes.values() if other.holds_on_disk(entry)]
            self._require(
                2 * len(holders) > len(self.nodes),
                f"C6: node {node.id} commits entry {index} of term {entry.term}; on disk it is only on {holders}",
            )
            known = self.committed[index] = Commitment(entry, node.raft.term)
            for other, term in self._leading.items():
                if term > known.term:
                    self._require_complete(self.nodes[other], known)
        self._require(
            known.entry == entry, f"C5: node {node.id} commits {entry} at index {index}, others {known.entry}"
        )
        return known

    def _require_complete(self, leader: Node, commitment: Commitment) -> None:
        entry = commitment.entry
        self._require(
            commitment.term >= leader.raft.term or leader.raft.log.term(entry.index) == entry.term,
            f"C4: node {leader.id} leads term {leader.raft.term} without entry {entry.index} of term {entry.term}, "
            f"committed in term {commitment.term}",
        )

    def _promises_vote(self, node: Node, term: int, candidate: NodeId) -> None:
        first = self._voted_for.setdefault((node.id, term), candidate)
        self._require(first == candidate, f"C8: node {node.id} votes for {first} and for {candidate} in term {term}")
        disk = node.disk_hard_state
        self._require(
            not self.watch_promises or disk.term > term or (disk.term == term and disk.vote == candidate),
            f"C7: node {node.id} promises its vote of term {term} to {candidate}; its disk says {disk}",
        )

    def _promises_entries(self, node: Node, term: int, index: int) -> None:
        disk = node.disk_hard_state
        if not self.watch_promises or disk.term > term:
            return  # in a later term the entries may have been replaced since; they were never committed then
        self._require(
            disk.term == term and len(node.disk_log) >= index,
            f"C7: node {node.id} acknowledges entry {index} in term {term}; its disk holds {len(node.disk_log)} "
            f"entries and {disk}",
        )
        leader = self.leader_of.get(term)
        if index and leader is not None and self._leading.get(leader) == term:
            self._require(
                self.nodes[leader].raft.log.term(Index(index)) == node.disk_log[index - 1].term,
                f"C7: node {node.id} acknowledges entry {index} to leader {leader}, but its disk holds another one",
            )

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            raise SafetyViolation(message)
