"""The safety properties of a whole cluster, checked after every step by somebody who sees every node at once.

The oracle shares no code with the core: it counts majorities itself and knows nodes only by what they say, hand to
their disk and apply. The numbers C1 to C13 are those of docs/invariants.md.

Every check costs a constant time for each event and for each entry (amortised), so that the simulator can afford it:
what happened long ago is never looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    Fitness,
    HardState,
    Index,
    LogWrite,
    Message,
    NodeId,
    ReadState,
    Role,
    Snapshot,
    Term,
)
from raftkv.raft.membership import decode_configuration
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
    if configuration.outgoing:
        return (configuration.voters, configuration.outgoing)
    return (configuration.voters,)


def configurations_in(entries: Iterable[Entry]) -> list[tuple[int, Configuration]]:
    """Return the configurations among `entries`, each with its index."""
    return [(e.index, decode_configuration(e.data)) for e in entries if e.kind is EntryKind.CONFIGURATION]


class _Watched:
    """What the oracle remembers of one node."""

    __slots__ = (
        "applied",
        "base",
        "base_term",
        "configurations",
        "expected",
        "known_commit",
        "leading",
        "log_terms",
        "on_disk",
        "seen",
        "wrote_as_leader_of",
    )

    def __init__(self, founded: Configuration) -> None:
        self.applied = 0
        self.base = 0
        """The log that it has handed to its disk goes on behind this index, of `base_term`."""
        self.base_term = 0
        self.configurations: list[tuple[int, Configuration]] = [(0, founded)]
        """Those in that log, with their indexes; the first is that of the base."""
        self.expected: Configuration | None = None
        """The configuration that should be in force, once it was found to be equal to the one `seen`."""
        self.seen: Configuration | None = None
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
        self.witnesses: set[NodeId] = set()
        """Nodes that may hold entries without their payload."""
        self.configurations: list[tuple[int, Configuration]] = [
            (0, node.config.configuration) for node in nodes.values() if node.config.configuration.voters
        ][:1]
        """The committed ones, with their indexes."""
        self._watched = {node_id: _Watched(node.config.configuration) for node_id, node in nodes.items()}
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
        if write.restore is not None:
            self._restores(node, watched, write.restore)
        leads = node.raft.role is Role.LEADER
        if write.entries:
            terms = watched.log_terms
            first, end = write.entries[0].index, watched.base + len(watched.log_terms)
            if first <= end:
                if leads and watched.wrote_as_leader_of == node.raft.term:
                    _fail(f"C2: node {node.id}, leader of term {node.raft.term}, replaces its entry {first}")
                self.overwritten += end - first + 1
                del terms[max(first - watched.base - 1, 0) :]
                while watched.configurations[-1][0] >= first and len(watched.configurations) > 1:
                    watched.configurations.pop()
            elif first > end + 1:
                _fail(f"node {node.id} writes entry {first} after entry {end}")
            previous = terms[-1] if terms else watched.base_term
            for entry in write.entries:
                known = self._created.get((entry.index, entry.term))
                if known is None:
                    self._created[entry.index, entry.term] = (entry, previous)
                elif known[1] != previous or (known[0] is not entry and not self._same(node, known[0], entry)):
                    _fail(
                        f"C3: entry {entry.index} of term {entry.term} is {known} (with the term before it) somewhere "
                        f"and {(entry, previous)} on node {node.id}"
                    )
                previous = entry.term
                terms.append(previous)
                if entry.kind is EntryKind.CONFIGURATION:
                    if known is None and watched.configurations[-1][0] > self.newest_committed:
                        _fail(
                            f"C12: node {node.id} appends a configuration at {entry.index} before the one at "
                            f"{watched.configurations[-1][0]} is committed (paper 6; thesis 4.3)"
                        )
                    watched.configurations.append((entry.index, decode_configuration(entry.data)))
        if node.raft.configuration is not watched.seen:
            watched.seen = node.raft.configuration
            watched.expected = None
        if watched.expected is not watched.configurations[-1][1]:
            watched.expected = watched.configurations[-1][1]
            if watched.expected != watched.seen:
                _fail(
                    f"C11: on node {node.id} {watched.seen} is in force, but the newest in its log, at "
                    f"{watched.configurations[-1][0]}, is {watched.expected} (paper 6)"
                )
        if leads:
            watched.wrote_as_leader_of = node.raft.term

    def _restores(self, node: Node, watched: _Watched, snapshot: Snapshot) -> None:
        """The log of `node` is about to be replaced by a snapshot."""
        known = self.committed.get(snapshot.index)
        if known is None or known.entry.term != snapshot.term:
            _fail(f"C5: node {node.id} installs a snapshot of {snapshot.index}@{snapshot.term}; committed is {known}")
        configuration = next(c for index, c in reversed(self.configurations) if index <= snapshot.index)
        if configuration != snapshot.configuration:
            _fail(f"C5: node {node.id} installs a snapshot with {snapshot.configuration}, committed is {configuration}")
        if snapshot.index <= watched.applied:
            _fail(f"C5: node {node.id}, which has applied {watched.applied}, goes back to {snapshot.index}")
        watched.log_terms.clear()
        watched.base, watched.base_term = snapshot.index, snapshot.term
        watched.configurations = [(snapshot.index, snapshot.configuration)]

    def restored(self, node: Node, snapshot: Snapshot) -> None:
        """State and log of `node` are those of a snapshot, durably."""
        self._watched[node.id].applied = snapshot.index

    def _same(self, node: Node, known: Entry, entry: Entry) -> bool:
        """Whether `entry` is the known one, as far as `node` may tell: a witness gets no payload."""
        if node.id in self.witnesses and not entry.data and entry.kind is EntryKind.COMMANDS:
            return (known.index, known.term, known.kind) == (entry.index, entry.term, entry.kind)
        return known == entry

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
            if commitment.entry is not entry and not self._same(node, commitment.entry, entry):
                _fail(f"C5: node {node.id} applies {entry} at index {index}, others {commitment.entry}")

    def restarted(self, node: Node) -> None:
        """`node` has come back from its disk."""
        watched = self._watched[node.id]
        raft, disk = node.raft, watched.on_disk
        if raft.term != disk.term:
            _fail(f"C9: node {node.id} restarts in term {raft.term}, not {disk.term}")
        if raft.log.applied != watched.applied:
            _fail(f"C9: node {node.id} had applied {watched.applied} and restarts at {raft.log.applied}")
        if raft.log.commit < max(watched.applied, min(disk.commit, node.last_on_disk)):
            _fail(f"C9: node {node.id} restarts with commit index {raft.log.commit}")
        base = node.disk_base or Snapshot(Index(0), Term(0), node.config.configuration)
        watched.base, watched.base_term = base.index, base.term
        watched.configurations = [(base.index, base.configuration), *configurations_in(node.disk_log)]
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

    def configurations_of(self, node: Node) -> list[Configuration]:
        """Return what may have been in force on `node` when it committed the entry behind the newest committed one.

        That is the newest in the log that its disk was handed; and what it has appended since, until the next Ready,
        if the one before is committed: the step that commits a joint configuration appends the next one, too.
        """
        watched = self._watched[node.id]
        log = node.raft.log
        start = max(watched.base + len(watched.log_terms) + 1, log.first_index)
        newer = log.slice(Index(start), Index(log.last_index + 1), 1 << 40) if start <= log.last_index else ()
        previous, newest = watched.configurations[-1]
        found = [newest]
        for index, configuration in configurations_in(newer):
            if previous > self.newest_committed:
                break
            found.append(configuration)
            previous = index
        return found

    def _takes_office(self, node: Node, watched: _Watched) -> None:
        if node.fitness is Fitness.BARRED:
            _fail(f"C26: node {node.id} leads term {node.raft.term}, and is barred")
        term = node.raft.term
        first = self.leader_of.setdefault(term, node.id)
        if first != node.id:
            _fail(f"C1: nodes {first} and {node.id} both lead term {term}")
        if node.id in self.witnesses:
            _fail(f"C13: node {node.id}, a witness, leads term {term}")
        watched.leading = term
        # The newest entry committed in an earlier term vouches for all before it: that is log matching (C3).
        for index in range(self.newest_committed, 0, -1):
            if self.committed[index].term < term:
                self._require_complete(node, self.committed[index])
                break

    def _commits(self, node: Node, index: int) -> Commitment:
        """`node` takes `index` for committed, in its current term."""
        known, log = self.committed.get(index), node.raft.log
        if known is not None and (log.term(Index(index)) == known.entry.term or index < log.first_index - 1):
            return known  # the same entry: that is log matching (C3); or one that a snapshot covers
        if index < log.first_index:
            _fail(f"C5: node {node.id} has a snapshot that covers {index}, where others have committed {known}")
        (entry,) = node.raft.log.slice(Index(index), Index(index + 1), 0)
        if known is not None:
            _fail(f"C5: node {node.id} commits {entry} at index {index}, others {known.entry}")
        holders = {other.id for other in self.nodes.values() if other.covers_on_disk(index, entry.term)}
        configurations = self.configurations_of(node)
        if not any(
            all(2 * len(holders & voters) > len(voters) for voters in deciders(configuration))
            for configuration in configurations
        ):
            _fail(
                f"C6: node {node.id} commits entry {index} of term {entry.term}; on disk it is only on "
                f"{sorted(holders)} of {' and '.join(str(sorted(voters)) for voters in deciders(configurations[0]))}"
            )
        self.configurations.extend(configurations_in([entry]))
        known = self.committed[index] = Commitment(entry, node.raft.term)
        self.newest_committed = max(index, self.newest_committed)
        for other, watched in self._watched.items():
            if watched.leading > known.term:
                self._require_complete(self.nodes[other], known)
        self.on_commit(entry)
        return known

    def _require_complete(self, leader: Node, commitment: Commitment) -> None:
        entry, log = commitment.entry, leader.raft.log
        if (
            commitment.term < leader.raft.term
            and log.term(entry.index) != entry.term
            and entry.index >= log.first_index - 1  # else a snapshot covers it
        ):
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
        if disk.term != term or node.last_on_disk < index:
            _fail(
                f"C7: node {node.id} acknowledges entry {index} in term {term}; its disk ends at {node.last_on_disk} "
                f"with {disk}"
            )
        leader = self.leader_of.get(term)
        if (
            index >= node.first_on_disk
            and leader is not None
            and self._watched[leader].leading == term
            and self.nodes[leader].raft.log.term(index) not in (None, node.disk_log[index - node.first_on_disk].term)
        ):
            _fail(f"C7: node {node.id} acknowledges entry {index} to leader {leader}, but its disk holds another one")


def _fail(message: str) -> NoReturn:
    raise SafetyViolation(message)
