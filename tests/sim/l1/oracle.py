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

And of receipts, what answers claim of themselves: see `claims`.

And of what came with transactions, leases, locks and watches (numbers: docs/invariants.md):
    C14 mutual exclusion    a lock has no more holders than its kind admits, at any point of the log
    C15 tokens              a grant's token is greater than all before it, over all locks, restarts and snapshots
    C16 line                places are granted in the order of their tickets, as soon as there is room; a lease has one
                            place in a line, and keeps it until it gives it back or ends
    C17 fence               a write passes with a good token only, and is refused with a stale one only
    C18 lease               lives by the entries' stamps: dead from its deadline on, alive before; all that is attached
                            to it goes with it, at its end, and nothing else does
    C19 lease in time       does not end before its owner, counting from when it asked, was told that it may; ends soon
                            once nobody renews it
    C20 cluster time        never advances faster than clocks do, and not while the leader stands still
    C21 exactly once        an operation of a session has one result, however often it is sent
    C22 transaction         takes the way that its compares say, and does exactly what stands there, at one revision
    C23 totals              counters and accounts: no update is lost, none is done twice
    C24 compaction          what a read at the mark or later can see stays; history is refused only where it has gone
    C25 watch               every change of the log that is asked for, in order, without gap or repeat, and no other
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from raftkv.kv.codec import decode_batch, encode_batch
from raftkv.kv.commands import Delete, Put, Rejected
from raftkv.kv.machine import AppliedEntry, GroupResults
from raftkv.kv.writing import Change
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Message, NodeId, Ready, Role
from raftkv.raft.membership import decode_configuration
from raftkv.raft.messages import AppendResponse, VoteRequest, VoteResponse
from raftkv.storage.protocols import RecoveredLog
from raftkv.v1 import kv_pb2, lock_pb2
from tests.sim.l1.answers import said_by_the_log, said_to_the_client
from tests.sim.l1.claims import Claims, Token
from tests.sim.l1.cluster_time import ClusterTimes
from tests.sim.l1.state import Stamp, State
from tests.sim.l1.watching import Watched, Wish

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
    concern: int = 0
    """As on the wire."""
    token: Token | None = None
    """Where it stands in the log, as its client was told."""
    floor: int = 0
    """The truth's revision when it was first sent."""
    fate: Fate = Fate.UNDER_WAY
    doubtful: bool = False
    """An attempt ended with an open outcome."""

    def __str__(self) -> str:
        what = f"put {self.key!r}={self.value!r}" if self.value is not None else f"delete {self.key!r}"
        return f"{what} ({self.session}/{self.sequence})"


@dataclass(slots=True, eq=False)
class Call:
    """Any other operation of a session that is a command."""

    operation: kv_pb2.Operation
    session: int = 0
    sequence: int = 0
    floor: int = 0
    fate: Fate = Fate.UNDER_WAY
    doubtful: bool = False

    @property
    def stamp(self) -> Stamp:
        return self.session, self.sequence

    def __str__(self) -> str:
        return f"{' '.join(str(self.operation).split())} {self.stamp}"


@dataclass(frozen=True, slots=True)
class _Applied:
    term: int
    payload: bytes | None
    results: GroupResults
    changes: Sequence[Change]


class Oracle:
    """See the module's docstring."""

    def __init__(
        self,
        nodes: Iterable[int],
        report: Report,
        *,
        spares: Iterable[int] = (),
        now: Callable[[], float] = lambda: 0.0,
        drift: float = 0.0,
    ) -> None:
        """`nodes` are the founding members, `spares` those that may join later; `now` tells virtual time.

        `drift`: by what share a node's clock may differ from that.
        """
        self._report = report
        self._drift = drift
        self.state = State(report, now)
        self.times = ClusterTimes(report, now, drift)
        self.claims = Claims(self, report, now, drift)
        founders = frozenset(map(NodeId, nodes))
        ids = sorted(founders | set(map(NodeId, spares)))
        # Of the members.
        self.configuration_index = 0
        """Of the newest configuration that is committed."""
        self.configuration = Configuration(founders)
        self._configured: dict[int, Configuration] = {0: self.configuration}
        """By index: all that were ever committed."""
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
        self._held: dict[tuple[int, int], set[int]] = {}
        """By (index, term): on whose disks an entry has been."""
        self._installed: dict[int, int] = dict.fromkeys(ids, 0)
        """Per node: the newest entry that a snapshot on its disk covers."""
        self._appending: dict[int, tuple[Entry, ...]] = {}
        """Per node: what its log store was asked to append and has not confirmed."""
        self._restarting: dict[int, int] = {}
        """Per node: the index behind which its log was asked to begin anew, without having confirmed it."""
        self._hard: dict[int, HardState] = dict.fromkeys(ids, HardState())
        # Of the state.
        self._entries: dict[int, _Applied] = {}
        self.last_applied = 0
        self._revision_of: dict[bytes, int] = {}
        """By value: each is written once."""
        self._deleted_by: dict[Stamp, int] = {}
        """Revision of the effect of the delete (session, sequence)."""
        self._hashes: dict[int, bytes] = {}
        # Of the clients.
        self._puts: dict[bytes, Write] = {}
        self._deletes: dict[Stamp, Write] = {}
        self._calls: dict[Stamp, Call] = {}

    @property
    def changed(self) -> bool:
        """Whether anybody has tried to change the members."""
        return bool(self._proposed)

    @property
    def revision(self) -> int:
        """The store's revision after everything that anybody has applied."""
        return self.state.revision

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
            self._installed[node] = max(self._installed[node], recovered.first_index - 1)
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
        for place in found.items():
            self._held.setdefault(place, set()).add(node)
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
        self._installed[node] = index

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
            self._held.setdefault((entry.index, entry.term), set()).add(node)
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
            self._configured[entry.index] = self.configuration
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

    def applied(self, node: int, entry: AppliedEntry, results: GroupResults, changes: Sequence[Change] = ()) -> None:
        """A node has applied an entry."""
        if node in self.witnesses:
            return  # it has no state; what it takes for committed is compared in `ready`
        if entry.batch is not None and encode_batch(entry.batch) != entry.payload:
            self._report(f"batch: node {node} takes {entry.batch} for what is in entry {entry.index}")
        now = _Applied(entry.term, entry.payload, results, changes)
        known = self._entries.get(entry.index)
        if known is None:
            if entry.index != self.last_applied + 1:
                self._report(f"commit: node {node} applies entry {entry.index} after {self.last_applied}")
            self._entries[entry.index] = now
            self.last_applied = entry.index
            if entry.payload is not None:
                self._take(entry.payload, results, changes)
                self.times.applied(entry.term, entry.index, self.state.time_ms)
            self.claims.applied(entry.index, entry.term, self.revision)
        elif (known.term, known.payload) != (now.term, now.payload):
            self._report(f"commit: node {node} applies another entry {entry.index}: of term {now.term}, {known.term}")
        elif (known.results, known.changes) != (results, changes):
            self._report(f"determinism: entry {entry.index} gives {results} on node {node}, gave {known.results}")

    def hashed(self, node: int, index: int, digest: bytes) -> None:
        """A node's state, with everything up to `index` applied, has this hash."""
        if node in self.witnesses:
            return
        if self._hashes.setdefault(index, digest) != digest:
            self._report(f"determinism: the state of node {node} at entry {index} has another hash than its peers'")

    def _take(self, payload: bytes, results: GroupResults, changes: Sequence[Change]) -> None:
        for stamp, command, changed in self.state.take(payload, results, changes):
            if isinstance(command, Put):
                self._take_put(command)
            elif isinstance(command, Delete):
                if changed:
                    self._deleted_by[stamp] = self.revision
                    self._effect_of(self._deletes.get(stamp), self.revision)
            elif stamp[0]:
                self._take_call(stamp)

    def _take_put(self, put: Put) -> None:
        revision = self.revision
        before = self._revision_of.setdefault(put.value, revision)
        if before != revision:
            self._report(f"exactly once: {put} took effect at revisions {before} and {revision}")
        self._effect_of(self._puts.get(put.value), revision)

    def _take_call(self, stamp: Stamp) -> None:
        call = self._calls.get(stamp)
        if call is not None and call.fate is Fate.NO_EFFECT and not isinstance(self.state.answers[stamp], Rejected):
            self._report(f"no effect: {call} was answered so, and took effect at revision {self.revision}")

    def _effect_of(self, write: Write | None, revision: int) -> None:
        if write is None:
            self._report(f"exactly once: nobody asked for the write of revision {revision}")
        elif write.fate is Fate.NO_EFFECT:
            self._report(f"no effect: {write} was answered so, and took effect at revision {revision}")

    # --- what claims are compared with --------------------------------------------------------------------------------

    def term_at(self, index: int) -> int | None:
        entry = self._entries.get(index)
        return entry.term if entry is not None else None

    def holds(self, index: int, term: int, content: bytes) -> bool:
        _, data = self._created.get((index, term), (EntryKind.NOOP, b""))
        return content in data

    def took_effect(self, index: int, content: bytes) -> bool:
        known = self._entries[index]
        assert known.payload is not None
        for group, results in zip(decode_batch(known.payload).groups, known.results, strict=True):
            for command, result in zip(group.commands, results, strict=True):
                done = isinstance(command, Put) and command.value == content
                done = done or (isinstance(command, Delete) and command.key == content)
                if done and not isinstance(result, Rejected):
                    return True
        return False

    def holders(self, index: int, term: int) -> set[int]:
        found = set(self._held.get((index, term), ()))
        if self.term_at(index) == term:
            found |= {node for node, installed in self._installed.items() if installed >= index}
        return found

    def configurations(self, index: int) -> list[Configuration]:
        in_force = max(at for at in self._configured if at <= index)
        found = [self._configured[in_force]]
        return found + [configuration for (at, _), configuration in self._proposed.items() if at == index]

    def configuration_before(self, index: int) -> int:
        return max(at for at in self._configured if at <= index)

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

    def asks(self, call: Call) -> None:
        """A client is about to send a call, for the first time or again."""
        if call.floor == 0:
            call.floor = self.revision
        call.fate = Fate.UNDER_WAY
        self._calls[call.stamp] = call

    def told(self, call: Call, answer: kv_pb2.OperationResult) -> None:
        """A client was told what came of a call: done, or refused by the state machine."""
        call.fate = Fate.DONE
        result = self.state.answers.get(call.stamp)
        expected = said_by_the_log(result, answer)
        said = said_to_the_client(answer)
        if said != expected:
            self._report(f"acknowledged: {call} was answered {said}, the log says {expected}")
        kind = answer.WhichOneof("result")
        revision = getattr(getattr(answer, str(kind)), "revision", call.floor)
        if kind != "compact" and revision < call.floor:
            self._report(f"real time: {call} has revision {revision}, {call.floor} was committed before it began")

    def lease_promised(self, lease: int, asked_at: float, ttl_ms: int) -> None:
        """A client that asked at a moment of virtual time was told how long its lease lasts."""
        self.state.promised(lease, asked_at + ttl_ms / 1000 / (1 + self._drift))

    def acknowledged(self, write: Write, revision: int, deleted: int = 0) -> None:
        """A client was told that a write has taken effect."""
        write.fate = Fate.DONE
        effect = write.value is not None or deleted > 0
        if effect and (write.key, write.value) not in self._written_at(revision):
            self._report(f"acknowledged: {write} at revision {revision}, where the log has {self._at(revision)}")
        if revision < write.floor + effect:
            self._report(f"real time: {write} has revision {revision}, {write.floor} was committed before it began")

    def had_no_effect(self, write: Write | Call) -> None:
        """A client was told, of every attempt at a write so far, that it had no effect."""
        write.fate = Fate.NO_EFFECT
        if isinstance(write, Call):
            if not isinstance(self.state.answers.get(write.stamp), Rejected | None):
                self._report(f"no effect: {write} was answered so, and had taken effect")
            return
        revision = self._effect(write)
        if revision is not None:
            self._report(f"no effect: {write} was answered so, and had taken effect at revision {revision}")

    def left_open(self, write: Write | Call) -> None:
        """A client gives up on a write without knowing what became of it."""
        write.fate = Fate.OPEN

    def read(self, key: bytes, pair: tuple[int, bytes] | None, revision: int, floor: int) -> None:
        """A client has read one key. `floor`: the least revision that the answer may show."""
        self._reflects(f"the read of {key!r}", revision, floor)
        expected = self.state.value_at(key, revision)
        if pair != expected:
            self._report(f"read: {key!r} at revision {revision} is {expected}, a client got {pair}")

    def scanned(self, pairs: dict[bytes, tuple[int, bytes]], revision: int, floor: int) -> None:
        """A client has read every key."""
        self._reflects("a scan", revision, floor)
        expected = self.state.state_at(revision)
        if pairs != expected:
            wrong = sorted(key for key in pairs.keys() | expected.keys() if pairs.get(key) != expected.get(key))
            key = wrong[0]
            self._report(f"read: {key!r} at revision {revision} is {expected.get(key)}, a scan has {pairs.get(key)}")

    def read_range(
        self, start: bytes, end: bytes, pairs: dict[bytes, tuple[int, bytes]], revision: int, floor: int
    ) -> None:
        """A client has read every key from `start` to `end`."""
        self._reflects(f"the read from {start!r} on", revision, floor)
        expected = {key: pair for key, pair in self.state.state_at(revision).items() if start <= key < end}
        if pairs != expected:
            self._report(f"read: from {start!r} on there is {expected} at revision {revision}, a client got {pairs}")

    def queried(self, lock: bytes, answer: lock_pb2.LockQueryResponse, floor: int) -> None:
        """A client has asked who stands in line."""
        self._reflects(f"the query of {lock!r}", answer.revision, floor)
        expected = {
            ticket: (place.token, place.lease, place.kind, place.exclusive, place.limit, place.value)
            for ticket, place in self.state.line_at(lock, answer.revision).items()
        }
        found = {
            one.ticket: (one.token, one.lease, one.kind, one.exclusive, one.limit, one.value)
            for one in answer.contenders
        }
        if found != expected or answer.more or list(found) != sorted(found):
            self._report(f"read: in line for {lock!r} are {expected} at {answer.revision}, a client got {found}")

    def refused_as_compacted(self, revision: int) -> None:
        """A client was told that history before a revision has gone, when it asked for an earlier one."""
        if revision >= self.state.compacted:
            self._report(f"compaction: revision {revision} is refused, history begins at {self.state.compacted}")

    def watch(self, wish: Wish) -> Watched:
        """Return what compares a new watch with the log."""
        return Watched(self.state, self._report, wish)

    def _reflects(self, what: str, revision: int, floor: int) -> None:
        if revision < floor:
            self._report(f"real time: {what} shows revision {revision}, {floor} was committed before it began")
        if revision > self.revision:
            self._report(f"read: {what} shows revision {revision}, the log has {self.revision}")

    def _effect(self, write: Write) -> int | None:
        if write.value is not None:
            return self._revision_of.get(write.value)
        return self._deleted_by.get((write.session, write.sequence))

    def _written_at(self, revision: int) -> list[tuple[bytes, bytes | None]]:
        return [
            (event.key, event.pair.value if event.pair is not None else None)
            for event in self.state.events.get(revision, [])
        ]

    def _at(self, revision: int) -> str:
        return str(self._written_at(revision) or "nothing")


def _voted(hard: HardState, term: int, candidate: int) -> bool:
    return hard.term > term or (hard.term == term and hard.vote == candidate)
