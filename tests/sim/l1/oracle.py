"""The one who sees everything: what every node stores, says, commits and applies, and what every client was told.

It shares no code with the driver, the request layer or the storage. Its truth is the sequence of entries that anybody
has applied, with their results; everything else is compared with that. It reports the first thing that must not be.

The properties, by the names used in the reports:
    election safety     one leader a term
    log matching        (index, term) names one entry, on every disk
    commit              one entry an index, on the disks of a majority of the voters (of both sets of voters while they
                        change) when the first node takes it for committed
    members             a witness never leads
    promise             no vote, vote request or acknowledgement leaves before the disk has what it speaks of
    durability          a restarted node has everything that its log store had confirmed
    determinism         an entry has the same results and leads to the same state hash on every node
    exactly once        no write takes effect twice
    no effect           a write that was answered as without effect never takes effect
    acknowledged        what a client was told of a write is what the log says
    real time           a write or a linearizable read reflects everything that was committed before it began
    read                what was read is what the log says stood there at the revision of the answer
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from raftkv.kv.codec import decode_batch
from raftkv.kv.commands import Delete, Deleted, Put, RegisterSession, Rejected, SessionRegistered, Written
from raftkv.kv.machine import AppliedEntry, GroupResults
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Message, NodeId, Ready, Role
from raftkv.raft.membership import decode_configuration
from raftkv.raft.messages import AppendResponse, VoteRequest, VoteResponse
from raftkv.storage.protocols import RecoveredLog

Report = Callable[[str], None]


class Fate(Enum):
    """What a client knows of a write."""

    UNDER_WAY = "under way"
    NO_EFFECT = "no effect so far"
    """Every attempt was answered as one without effect; another attempt may follow."""
    OPEN = "open"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Write:
    """One write of one client: a put of a unique value, or a delete of one key in a session."""

    key: bytes
    value: bytes | None
    """None: a delete."""
    session: int = 0
    sequence: int = 0
    floor: int = 0
    """The truth's revision when it was first sent."""
    fate: Fate = Fate.UNDER_WAY
    doubtful: bool = False
    """An attempt ended with an open outcome."""

    def __str__(self) -> str:
        what = f"put {self.key!r}={self.value!r}" if self.value is not None else f"delete {self.key!r}"
        return f"{what} ({self.session}/{self.sequence})"


@dataclass(frozen=True, slots=True)
class _Applied:
    term: int
    payload: bytes | None
    results: GroupResults


class Oracle:
    """See the module's docstring."""

    def __init__(self, nodes: Iterable[int], report: Report, *, spares: Iterable[int] = ()) -> None:
        """`nodes` are the founding members, `spares` those that may join later."""
        self._report = report
        founders = frozenset(map(NodeId, nodes))
        ids = sorted(founders | set(map(NodeId, spares)))
        # Of the members.
        self.configuration_index = 0
        """Of the newest configuration that is committed."""
        self.configuration = Configuration(founders)
        self._proposed: dict[tuple[int, int], Configuration] = {}
        """By index and term: configurations that somebody has appended."""
        self.witnesses: set[int] = set()
        """Who holds no payloads: for ever, since ids are not used again."""
        self._lost_disks: dict[int, dict[int, int]] = {}
        """What was on disks that are lost: it was on them when it was committed."""
        # Of the logs.
        self._leaders: dict[int, int] = {}
        self._created: dict[tuple[int, int], tuple[EntryKind, bytes]] = {}
        self._committed: dict[int, int] = {}
        """Term of the entry committed at each index."""
        self._disks: dict[int, dict[int, int]] = {node: {} for node in ids}
        """Per node: the term of the entry at each index that its log store has confirmed."""
        self._last: dict[int, int] = dict.fromkeys(ids, 0)
        self._appending: dict[int, tuple[Entry, ...]] = {}
        """Per node: what its log store was asked to append and has not confirmed."""
        self._restarting: dict[int, int] = {}
        """Per node: the index behind which its log was asked to begin anew, without having confirmed it."""
        self._hard: dict[int, HardState] = dict.fromkeys(ids, HardState())
        # Of the state.
        self._entries: dict[int, _Applied] = {}
        self.revision = 1
        """The store's revision after everything that anybody has applied."""
        self.last_applied = 0
        self._versions: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._by_revision: dict[int, tuple[bytes, bytes | None]] = {}
        self._revision_of: dict[bytes, int] = {}
        """By value: each is written once."""
        self._deleted_by: dict[tuple[int, int], int] = {}
        """Revision of the effect of the delete (session, sequence)."""
        self._sessions: set[int] = set()
        self._hashes: dict[int, bytes] = {}
        # Of the clients.
        self._puts: dict[bytes, Write] = {}
        self._deletes: dict[tuple[int, int], Write] = {}

    # --- logs and elections -------------------------------------------------------------------------------------------

    def opened(self, node: int, recovered: RecoveredLog, *, restarted: bool = False) -> None:
        """A node has recovered its log; `restarted`: recovery has replaced it by one that follows a checkpoint."""
        before, after = self._hard[node], recovered.hard_state
        if after.term < before.term or (after.term == before.term and before.vote not in (None, after.vote)):
            self._report(f"durability: node {node} restarts with {after}, after {before} was confirmed")
        found: dict[int, int] = {entry.index: entry.term for entry in recovered.entries}
        if restarted or (node in self._restarting and recovered.first_index == self._restarting[node] + 1):
            # A snapshot was installed: all that was in the log before has gone.
            self._disks[node], self._last[node] = {}, recovered.first_index - 1
        self._restarting.pop(node, None)
        replacing = self._appending.pop(node, ())
        if replacing and found.get(replacing[0].index) == replacing[0].term:
            # The append under way has reached the disk, and replaces what it was meant to replace.
            self._cut(node, replacing[0].index)
        lost = [index for index in self._disks[node] if index >= recovered.first_index and index not in found]
        if lost:
            self._report(f"durability: node {node} restarts without entries {min(lost)}..{max(lost)}, once confirmed")
        for index, term in self._disks[node].items():
            if found.get(index, term) != term:
                self._report(f"durability: node {node} restarts with entry {index} of {found[index]}, not of {term}")
                break
        self._disks[node] = found
        self._last[node] = max(found, default=recovered.first_index - 1)
        self._hard[node] = after

    def wiped(self, node: int) -> None:
        """A node has lost its disk, with everything on it."""
        self._lost_disks[node] = self._disks[node]
        self._disks[node], self._last[node], self._hard[node] = {}, 0, HardState()
        self._appending.pop(node, None)
        self._restarting.pop(node, None)

    def restarting(self, node: int, index: int) -> None:
        """A node's log store has been asked to begin anew behind a snapshot of entry `index`."""
        self._restarting[node] = index

    def restarted(self, node: int, hard_state: HardState, index: int) -> None:
        """It has done so."""
        self._restarting.pop(node, None)
        self._disks[node], self._last[node], self._hard[node] = {}, index, hard_state

    def appending(self, node: int, entries: Sequence[Entry]) -> None:
        """A node's log store has been asked to append."""
        self._appending[node] = tuple(entries)

    def appended(self, node: int, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """A node's log store has confirmed an append."""
        self._appending.pop(node, None)
        self._hard[node] = hard_state
        if not entries:
            return
        disk = self._disks[node]
        self._cut(node, entries[0].index)
        for entry in entries:
            if self._is_bare(node, entry.kind, entry.data):
                disk[entry.index] = entry.term
                continue
            content = self._created.setdefault((entry.index, entry.term), (entry.kind, entry.data))
            if content != (entry.kind, entry.data):
                self._report(f"log matching: node {node} holds another entry {entry.index} of term {entry.term}")
            disk[entry.index] = entry.term
        self._last[node] = entries[-1].index

    def _cut(self, node: int, first: int) -> None:
        for index in range(first, self._last[node] + 1):
            self._disks[node].pop(index, None)

    def _is_bare(self, node: int, kind: EntryKind, data: bytes | None) -> bool:
        """Whether this is what a witness holds in the place of an entry."""
        return node in self.witnesses and kind is EntryKind.COMMANDS and not data

    def ready(self, node: int, ready: Ready) -> None:
        """A node's core says what it is, what it appends and what is committed."""
        for entry in ready.write.entries if ready.write is not None else ():
            if entry.kind is EntryKind.CONFIGURATION:
                self._proposed[entry.index, entry.term] = configuration = decode_configuration(entry.data)
                self.witnesses |= configuration.witnesses
        if ready.role is Role.LEADER:
            leader = self._leaders.setdefault(ready.term, node)
            if leader != node:
                self._report(f"election safety: nodes {leader} and {node} both lead term {ready.term}")
            if node in self.witnesses:
                self._report(f"members: node {node}, a witness, leads term {ready.term}")
        for entry in ready.committed:
            known = self._committed.get(entry.index)
            if known is None:
                self._committed[entry.index] = entry.term
                self._require_quorum(node, entry)
            elif known != entry.term:
                self._report(f"commit: entries of terms {known} and {entry.term} are committed at {entry.index}")

    def _require_quorum(self, node: int, entry: Entry) -> None:
        """`node` is the first to take `entry` for committed: a quorum must hold it.

        Which configuration the leader went by cannot be seen from here: the newest one up to the entry, or, unless the
        entry is a configuration itself (which must be committed before the next one is appended), the next.
        """
        disks = (*self._disks.items(), *self._lost_disks.items())
        holders = {other for other, disk in disks if disk.get(entry.index) == entry.term}
        if entry.kind is EntryKind.CONFIGURATION:
            self.configuration_index, self.configuration = entry.index, decode_configuration(entry.data)
            possible = [self.configuration]
        else:
            possible = [self.configuration]
            possible += [after for (index, _), after in self._proposed.items() if index > entry.index]
        if not any(
            all(2 * len(holders & voters) > len(voters) for voters in (one.voters, one.outgoing) if voters)
            for one in possible
        ):
            self._report(
                f"commit: node {node} takes entry {entry.index} of term {entry.term} for committed, and only nodes "
                f"{sorted(holders)} have it on disk, of {sorted(possible[0].voters)} {sorted(possible[0].outgoing)}"
            )

    def sending(self, node: int, messages: Sequence[Message]) -> None:
        """A node sends messages."""
        for message in messages:
            hard = self._hard[node]
            match message:
                case AppendResponse(rejected=False) if message.index > self._last[node]:
                    self._report(
                        f"promise: node {node} acknowledges entry {message.index}, its disk ends at {self._last[node]}"
                    )
                case VoteResponse(granted=True) if not _voted(hard, message.term, message.receiver):
                    self._report(f"promise: node {node} votes for {message.receiver} in term {message.term}: {hard}")
                case VoteRequest() if not _voted(hard, message.term, node):
                    self._report(f"promise: node {node} asks for votes in term {message.term}: {hard}")
                case _:
                    pass

    # --- state --------------------------------------------------------------------------------------------------------

    def applied(self, node: int, entry: AppliedEntry, results: GroupResults) -> None:
        """A node has applied an entry."""
        if node in self.witnesses:
            return  # it has no state; what it takes for committed is compared in `ready`
        now = _Applied(entry.term, entry.payload, results)
        known = self._entries.get(entry.index)
        if known is None:
            if entry.index != self.last_applied + 1:
                self._report(f"commit: node {node} applies entry {entry.index} after {self.last_applied}")
            self._entries[entry.index] = now
            self.last_applied = entry.index
            if entry.payload is not None:
                self._take(entry.payload, results)
        elif (known.term, known.payload) != (now.term, now.payload):
            self._report(f"commit: node {node} applies another entry {entry.index}: of term {now.term}, {known.term}")
        elif known.results != results:
            self._report(f"determinism: entry {entry.index} gives {results} on node {node}, gave {known.results}")

    def hashed(self, node: int, index: int, digest: bytes) -> None:
        """A node's state, with everything up to `index` applied, has this hash."""
        if node in self.witnesses:
            return
        if self._hashes.setdefault(index, digest) != digest:
            self._report(f"determinism: the state of node {node} at entry {index} has another hash than its peers'")

    def _take(self, payload: bytes, results: GroupResults) -> None:
        for group, answers in zip(decode_batch(payload).groups, results, strict=True):
            for command, result in zip(group.commands, answers, strict=True):
                match result:
                    case Rejected():
                        pass
                    case SessionRegistered(session):
                        if not isinstance(command, RegisterSession) or session in self._sessions:
                            self._report(f"exactly once: session {session} was given twice")
                        self._sessions.add(session)
                    case Written(revision) if isinstance(command, Put):
                        self._take_put(command, revision)
                    case Deleted(revision, deleted) if isinstance(command, Delete):
                        self._take_delete(command.key, (group.session, command.sequence), revision, deleted)
                    case _:
                        self._report(f"determinism: {command} was answered {result}")

    def _take_put(self, put: Put, revision: int) -> None:
        if revision <= self.revision:
            if self._by_revision.get(revision) != (put.key, put.value):
                self._report(f"exactly once: {put} was answered with revision {revision} of another write")
            return
        before = self._revision_of.get(put.value)
        if before is not None:
            self._report(f"exactly once: {put} took effect at revisions {before} and {revision}")
        self._revision_of[put.value] = revision
        self._add_version(put.key, put.value, revision)
        self._effect_of(self._puts.get(put.value), revision)

    def _take_delete(self, key: bytes, stamp: tuple[int, int], revision: int, deleted: int) -> None:
        if revision <= self.revision:
            return  # it found nothing, or it was answered before
        if deleted != 1 or self.value_at(key, self.revision) is None:
            self._report(f"determinism: the delete of {key!r} at revision {revision} removed {deleted} keys")
        before = self._deleted_by.get(stamp)
        if before is not None:
            self._report(f"exactly once: delete {stamp} took effect at revisions {before} and {revision}")
        self._deleted_by[stamp] = revision
        self._add_version(key, None, revision)
        write = self._deletes.get(stamp)
        self._effect_of(write, revision)
        if write is not None and (write.session, write.sequence) != stamp:
            self._report(f"no effect: delete {stamp} was answered so, and took effect at revision {revision}")

    def _add_version(self, key: bytes, value: bytes | None, revision: int) -> None:
        if revision != self.revision + 1:
            self._report(f"determinism: revision {revision} follows {self.revision}")
        self.revision = revision
        self._by_revision[revision] = key, value
        self._versions.setdefault(key, []).append((revision, value))

    def _effect_of(self, write: Write | None, revision: int) -> None:
        if write is None:
            self._report(f"exactly once: nobody asked for the write of revision {revision}")
        elif write.fate is Fate.NO_EFFECT:
            self._report(f"no effect: {write} was answered so, and took effect at revision {revision}")

    def value_at(self, key: bytes, revision: int) -> tuple[int, bytes] | None:
        """Return (mod_revision, value) of `key` at a revision; None: it does not exist then."""
        versions = self._versions.get(key, [])
        position = bisect_right(versions, revision, key=lambda version: version[0])
        if position == 0:
            return None
        mod_revision, value = versions[position - 1]
        return (mod_revision, value) if value is not None else None

    def state_at(self, revision: int) -> dict[bytes, tuple[int, bytes]]:
        """Return every key that exists at a revision."""
        found = {key: self.value_at(key, revision) for key in sorted(self._versions)}
        return {key: pair for key, pair in found.items() if pair is not None}

    # --- clients ------------------------------------------------------------------------------------------------------

    def sends(self, write: Write) -> None:
        """A client is about to send a write, for the first time or again."""
        if write.floor == 0:
            write.floor = self.revision
        write.fate = Fate.UNDER_WAY
        if write.value is not None:
            self._puts[write.value] = write
        else:
            self._deletes[write.session, write.sequence] = write

    def acknowledged(self, write: Write, revision: int, deleted: int = 0) -> None:
        """A client was told that a write has taken effect."""
        write.fate = Fate.DONE
        effect = write.value is not None or deleted > 0
        if effect and self._by_revision.get(revision) != (write.key, write.value):
            self._report(f"acknowledged: {write} at revision {revision}, where the log has {self._at(revision)}")
        if revision < write.floor + effect:
            self._report(f"real time: {write} has revision {revision}, {write.floor} was committed before it began")

    def had_no_effect(self, write: Write) -> None:
        """A client was told, of every attempt at a write so far, that it had no effect."""
        write.fate = Fate.NO_EFFECT
        revision = self._effect(write)
        if revision is not None:
            self._report(f"no effect: {write} was answered so, and had taken effect at revision {revision}")

    def left_open(self, write: Write) -> None:
        """A client gives up on a write without knowing what became of it."""
        write.fate = Fate.OPEN

    def read(self, key: bytes, pair: tuple[int, bytes] | None, revision: int, floor: int) -> None:
        """A client has read one key. `floor`: the least revision that the answer may show."""
        self._reflects(f"the read of {key!r}", revision, floor)
        expected = self.value_at(key, revision)
        if pair != expected:
            self._report(f"read: {key!r} at revision {revision} is {expected}, a client got {pair}")

    def scanned(self, pairs: dict[bytes, tuple[int, bytes]], revision: int, floor: int) -> None:
        """A client has read every key."""
        self._reflects("a scan", revision, floor)
        expected = self.state_at(revision)
        if pairs != expected:
            wrong = sorted(key for key in pairs.keys() | expected.keys() if pairs.get(key) != expected.get(key))
            key = wrong[0]
            self._report(f"read: {key!r} at revision {revision} is {expected.get(key)}, a scan has {pairs.get(key)}")

    def _reflects(self, what: str, revision: int, floor: int) -> None:
        if revision < floor:
            self._report(f"real time: {what} shows revision {revision}, {floor} was committed before it began")
        if revision > self.revision:
            self._report(f"read: {what} shows revision {revision}, the log has {self.revision}")

    def _effect(self, write: Write) -> int | None:
        if write.value is not None:
            return self._revision_of.get(write.value)
        return self._deleted_by.get((write.session, write.sequence))

    def _at(self, revision: int) -> str:
        return str(self._by_revision.get(revision, "nothing"))


def _voted(hard: HardState, term: int, candidate: int) -> bool:
    return hard.term > term or (hard.term == term and hard.vote == candidate)
