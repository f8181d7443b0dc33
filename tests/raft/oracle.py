"""The safety properties of a whole cluster, checked after every step by somebody who sees every node at once.

The oracle shares no code with the core: it counts majorities itself and knows nodes only by what they say, hand to
their disk and apply. The numbers C1 to C10 are those of docs/invariants.md.

Every check costs a constant time for each event and for each entry (amortised), so that the simulator can afford it:
what happened long ago is never looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from raftkv.raft import Configuration, Entry, HardState, Index, LogWrite, Message, NodeId, ReadState, Role
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


Deciders = tuple[frozenset[NodeId], ...]
"""The sets of voters of which a majority each must agree: one, or two during a joint change."""


def deciders(configuration: Configuration) -> Deciders:
    return (configuration.voters,)


class _Watched:
    """What the oracle remembers of one node."""

    __slots__ = ("applied", "known_commit", "leading", "log_terms", "on_disk", "wrote_as_leader_of")

    def __init__(self) -> None:
        self.applied = 0
        self.known_commit = 0
        self.leading = 0
        """The term it leads; 0: none."""
        self.log_terms: list[int] = []
        """Of the entries that it has handed to its disk."""
        self.on_disk = HardState()
        self.wrote_as_leader_of = 0


class Oracle:
    """Told of every event of a cluster; raises SafetyViolation at the first one that must not happen."""

    def __init__(self, nodes: Mapping[NodeId, Node], *, watch_promises: bool = True) -> None:
        self.nodes = nodes
        self.watch_promises = watch_promises
        """Off: only the damage of a broken promise counts, not the broken promise itself (C7)."""
        self.leader_of: dict[int, NodeId] = {}
        self.committed: dict[int, Commitment] = {}
        self.newest_committed = 0
        self.overwritten = 0
        """Entries that some log held and another leader replaced."""
        self.on_commit: Callable[[Entry], None] = lambda entry: None
        """Called once for every index, in order, when it is first known to be committed."""
        self._created: dict[tuple[int, int], tuple[Entry, int]] = {}
        """(index, term) -> the entry and its predecessor's term."""
        self._watched = {node_id: _Watched() for node_id in nodes}
        self._voted_for: dict[tuple[NodeId, int], NodeId] = {}
        self._read_floor: dict[tuple[NodeId, int], int] = {}
        self._promises: dict[type[Message], Callable[[Node, Message], None]] = {
            VoteRequest: self._asks_for_vote,
            VoteResponse: self._answers_vote_request,
            AppendRequest: self._speaks_as_leader,
            AppendResponse: self._answers_append_request,
            HeartbeatRequest: self._speaks_as_leader,
            TimeoutNow: self._speaks_as_leader,
        }
        """The other messages promise nothing."""

    def starts_with(self, node: Node) -> None:
        """A test has `node` boot from the disk that it has now."""
        previous = 0
        for entry in node.disk_log:
            self._created[entry.index, entry.term] = (entry, previous)
            previous = entry.term
        self._watched[node.id].on_disk = node.disk_hard_state
        self.restarted(node)

    def state_lost(self, node: Node, applied: int = 0) -> None:
        """The state machine of `node` is back at entry `applied`: what follows it will be applied anew."""
        self._watched[node.id].applied = applied

    # --- events, in the order in which they happen to a node ---

    def handed(self, node: Node, write: LogWrite) -> None:
        """A core has handed a write to its driver."""
        watched = self._watched[node.id]
        terms = watched.log_terms
        leads = node.raft.role is Role.LEADER
        if write.entries:
            first = write.entries[0].index
            if first <= len(terms):
                if leads and watched.wrote_as_leader_of == node.raft.term:
                    _fail(f"C2: node {node.id}, leader of term {node.raft.term}, replaces its entry {first}")
                self.overwritten += len(terms) - first + 1
                del terms[first - 1 :]
            elif first > len(terms) + 1:
                _fail(f"node {node.id} writes entry {first} after entry {len(terms)}")
            previous = terms[-1] if terms else 0
            for entry in write.entries:
                known = self._created.get((entry.index, entry.term))
                if known is None:
                    self._created[entry.index, entry.term] = (entry, previous)
                elif known[1] != previous or (known[0] is not entry and known[0] != entry):
                    _fail(
                        f"C3: entry {entry.index} of term {entry.term} is {known} (with the term before it) somewhere "
                        f"and {(entry, previous)} on node {node.id}"
                    )
                previous = entry.term
                terms.append(previous)
        if leads:
            watched.wrote_as_leader_of = node.raft.term

    def stored(self, node: Node, before: HardState) -> None:
        """A write of `node` is durable; `before` was the hard state until then."""
        after = self._watched[node.id].on_disk = node.disk_hard_state
        if after is before:
            return
        if after.term < before.term:
            _fail(f"C8: node {node.id}'s term on disk went back: {before} -> {after}")
        if after.commit < before.commit:
            _fail(f"C8: node {node.id}'s commit on disk went back: {before} -> {after}")
        if after.term == before.term and before.vote not in (None, after.vote):
            _fail(
                f"C8: node {node.id} changed its vote of term {before.term} on disk from {before.vote} to {after.vote}"
            )

    def sent(self, node: Node, message: Message) -> None:
        """A message has left `node`: from now on others rely on it."""
        promise = self._promises.get(type(message))
        if promise is not None:
            promise(node, message)

    def stepped(self, node: Node) -> None:
        """`node` has taken an input, or its Ready has been dealt with."""
        watched = self._watched[node.id]
        raft = node.raft
        if raft.role is Role.LEADER:
            if watched.leading != raft.term:
                self._takes_office(node, watched)
        else:
            watched.leading = 0
        commit = raft.log.commit
        if commit > watched.known_commit:
            for index in range(watched.known_commit + 1, commit + 1):
                self._commits(node, index)
            watched.known_commit = commit

    def applies(self, node: Node, entries: Iterable[Entry]) -> None:
        """`node` gives entries to its state machine."""
        watched = self._watched[node.id]
        for entry in entries:
            index = entry.index
            if index != watched.applied + 1:
                _fail(f"C5: node {node.id} applies entry {index} after entry {watched.applied}")
            watched.applied = index
            if not node.holds_on_disk(entry):
                _fail(f"C5: node {node.id} applies entry {index}, which its disk lacks")
            # Its commit index may be news, too: `stepped` has not seen this input yet.
            commitment = self.committed.get(index) or self._commits(node, index)
            if commitment.entry is not entry and commitment.entry != entry:
                _fail(f"C5: node {node.id} applies {entry} at index {index}, others {commitment.entry}")

    def restarted(self, node: Node) -> None:
        """`node` has come back from its disk."""
        watched = self._watched[node.id]
        raft, disk = node.raft, watched.on_disk
        if raft.term != disk.term:
            _fail(f"C9: node {node.id} restarts in term {raft.term}, not {disk.term}")
        if raft.log.applied != watched.applied:
            _fail(f"C9: node {node.id} had applied {watched.applied} and restarts at {raft.log.applied}")
        if raft.log.commit < max(watched.applied, min(disk.commit, len(node.disk_log))):
            _fail(f"C9: node {node.id} restarts with commit index {raft.log.commit}")
        watched.log_terms = [entry.term for entry in node.disk_log]
        watched.leading = 0
        watched.wrote_as_leader_of = 0
        watched.known_commit = 0  # what it believes committed now is checked anew

    def read_begins(self, node: Node, request: int) -> None:
        self._read_floor[node.id, request] = self.newest_committed

    def read_confirmed(self, node: Node, read: ReadState) -> None:
        floor = self._read_floor[node.id, read.request]
        if read.index < floor:
            _fail(
                f"C10: read {read.request} on node {node.id} may see index {read.index}, "
                f"but {floor} was committed before it began"
            )

    # --- judgements ---

    def deciders_of(self, node: Node) -> Deciders:
        """Return the configuration in force on `node`."""
        return deciders(node.config.configuration)

    def _takes_office(self, node: Node, watched: _Watched) -> None:
        term = node.raft.term
        first = self.leader_of.setdefault(term, node.id)
        if first != node.id:
            _fail(f"C1: nodes {first} and {node.id} both lead term {term}")
        watched.leading = term
        # The newest entry committed in an earlier term vouches for all before it: that is log matching (C3).
        for index in range(self.newest_committed, 0, -1):
            if self.committed[index].term < term:
                self._require_complete(node, self.committed[index])
                break

    def _commits(self, node: Node, index: int) -> Commitment:
        """`node` takes `index` for committed, in its current term."""
        known = self.committed.get(index)
        if known is not None and node.raft.log.term(Index(index)) == known.entry.term:
            return known  # the same entry: that is log matching (C3)
        (entry,) = node.raft.log.slice(Index(index), Index(index + 1), 0)
        if known is not None:
            _fail(f"C5: node {node.id} commits {entry} at index {index}, others {known.entry}")
        holders = {other.id for other in self.nodes.values() if other.holds_on_disk(entry)}
        for voters in self.deciders_of(node):
            if 2 * len(holders & voters) <= len(voters):
                _fail(
                    f"C6: node {node.id} commits entry {index} of term {entry.term}; on disk it is only on "
                    f"{sorted(holders)} of {sorted(voters)}"
                )
        known = self.committed[index] = Commitment(entry, node.raft.term)
        self.newest_committed = max(index, self.newest_committed)
        for other, watched in self._watched.items():
            if watched.leading > known.term:
                self._require_complete(self.nodes[other], known)
        self.on_commit(entry)
        return known

    def _require_complete(self, leader: Node, commitment: Commitment) -> None:
        entry = commitment.entry
        if commitment.term < leader.raft.term and leader.raft.log.term(entry.index) != entry.term:
            _fail(
                f"C4: node {leader.id} leads term {leader.raft.term} without entry {entry.index} of term {entry.term}, "
                f"committed in term {commitment.term}"
            )

    def _speaks_as_leader(self, node: Node, message: Message) -> None:
        if self.watch_promises and node.disk_hard_state.term < message.term:
            _fail(f"C7: node {node.id} leads term {message.term} before that term is on its disk")

    def _asks_for_vote(self, node: Node, message: Message) -> None:
        self._promises_vote(node, message.term, node.id)

    def _answers_vote_request(self, node: Node, message: Message) -> None:
        if isinstance(message, VoteResponse) and message.granted:
            self._promises_vote(node, message.term, message.receiver)

    def _promises_vote(self, node: Node, term: int, candidate: NodeId) -> None:
        first = self._voted_for.setdefault((node.id, term), candidate)
        if first != candidate:
            _fail(f"C8: node {node.id} votes for {first} and for {candidate} in term {term}")
        disk = node.disk_hard_state
        if self.watch_promises and not (disk.term > term or (disk.term == term and disk.vote == candidate)):
            _fail(f"C7: node {node.id} promises its vote of term {term} to {candidate}; its disk says {disk}")

    def _answers_append_request(self, node: Node, message: Message) -> None:
        if not isinstance(message, AppendResponse) or message.rejected or not self.watch_promises:
            return
        disk, term, index = node.disk_hard_state, message.term, message.index
        if disk.term > term:
            return  # in a later term the entries may have been replaced since; they were never committed then
        if disk.term != term or len(node.disk_log) < index:
            _fail(
                f"C7: node {node.id} acknowledges entry {index} in term {term}; its disk holds {len(node.disk_log)} "
                f"entries and {disk}"
            )
        leader = self.leader_of.get(term)
        if (
            index
            and leader is not None
            and self._watched[leader].leading == term
            and self.nodes[leader].raft.log.term(index) != node.disk_log[index - 1].term
        ):
            _fail(f"C7: node {node.id} acknowledges entry {index} to leader {leader}, but its disk holds another one")


def _fail(message: str) -> NoReturn:
    raise SafetyViolation(message)
