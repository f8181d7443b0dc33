"""The replicated state machine: committed entries in, results and a new state out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from raftkv.errors import ErrorCode
from raftkv.invariant import invariant
from raftkv.kv import compaction, lease, lock, mvcc, txn
from raftkv.kv.changes import encode_changes
from raftkv.kv.codec import CorruptCommand, decode_batch
from raftkv.kv.commands import (
    Acquire,
    Batch,
    CheckState,
    Command,
    Compact,
    Compacted,
    Delete,
    Expire,
    GrantLease,
    Group,
    KeepAlive,
    Proclaim,
    Put,
    RegisterSession,
    Rejected,
    Release,
    Result,
    RevokeLease,
    SessionRegistered,
    StateChecked,
    Sweep,
    Swept,
    Txn,
    TxnDone,
)
from raftkv.kv.keys import META, changes_key
from raftkv.kv.lease import Counters, LeaseTable
from raftkv.kv.limits import MAX_ENTRY_RESULT_BYTES
from raftkv.kv.records import EMPTY_META, Meta, encode_meta, read_meta
from raftkv.kv.session import EXPIRED, SessionTable
from raftkv.kv.store import OrderedStore, Writer
from raftkv.kv.view import View
from raftkv.kv.writing import Change, Writing


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    """A committed entry of the log."""

    index: int
    term: int
    payload: bytes | None
    """An encoded Batch; None for entries that do not concern the state (no-ops, configurations)."""
    batch: Batch | None = None
    """What `payload` decodes to, where the host has it at hand, because it encoded it. None: it is decoded here."""


GroupResults = tuple[list[Result], ...]
"""The results of one entry: a list per group of its batch, a result per command. Empty where there is no payload."""


class Applied(NamedTuple):
    """What one entry did."""

    results: GroupResults
    changes: list[Change]
    """In the order of their revisions."""


class StateMachine:
    """The state of one node, in one ordered store.

    Deterministic: the same entries give the same results and the same rows, in whatever slices they are applied.

    Applying is exactly-once over restarts: the applied index lies in the transaction that changes the state. The
    machine reads it at start; the host applies what follows. A restored snapshot needs a new machine.

    When a transaction fails, what the machine remembers may be ahead of the store. It then refuses every further
    `apply`: the host stops, or makes a new machine from the store, which is unchanged by the failed transaction.
    """

    __slots__ = ("_failed", "_meta", "_sessions", "_store", "_unswept", "leases")

    def __init__(self, store: OrderedStore) -> None:
        """Take up the state in `store` (empty: the initial state). Raises CorruptRow."""
        self._store = store
        self._failed = False
        with store.read() as reader:
            self._meta = read_meta(reader)
            self._sessions = SessionTable(reader)
            self.leases = LeaseTable(reader)
            self._unswept = compaction.unswept(reader, self._meta.compacted_revision)

    @property
    def applied_index(self) -> int:
        """Index of the entry applied last; 0: none."""
        return self._meta.applied_index

    @property
    def applied_term(self) -> int:
        """Term of the entry applied last."""
        return self._meta.applied_term

    @property
    def revision(self) -> int:
        """The store's revision: 1 when empty, one more for each command that changed something."""
        return self._meta.revision

    @property
    def compacted_revision(self) -> int:
        """Reads below it fail; 0: nothing was ever compacted."""
        return self._meta.compacted_revision

    @property
    def unswept(self) -> bool:
        """Whether compaction has left something for Sweep commands to remove."""
        return self._unswept

    @property
    def time_ms(self) -> int:
        """Cluster time, in milliseconds: the highest stamp applied."""
        return self._meta.time_ms

    @property
    def holds_nothing(self) -> bool:
        """Whether no command has ever been applied: the state is empty, wherever in the log it stands."""
        meta = self._meta._replace(applied_index=0, applied_term=0)
        return meta == EMPTY_META and not self._sessions

    @property
    def session_count(self) -> int:
        """Sessions that are open, or have expired without anybody having looked since."""
        return len(self._sessions)

    def admits(self, group: Group, time_ms: int, ahead: int) -> bool:
        """Return whether the session of `group` is sure to let its commands be applied.

        They are plain puts, and deletes of one key, in an entry of cluster time `time_ms`. Between this state and them
        there are at most `ahead` commands, of entries with no later time.
        """
        if group.session == 0:
            return True
        sequences = [command.sequence for command in group.commands]
        return self._sessions.admits(group.session, sequences, max(time_ms, self.time_ms), ahead)

    def knows(self, session: int, sequence: int) -> bool:
        """Return whether a session has an answer to a sequence, or had one: so it may have been applied before."""
        return session != 0 and self._sessions.knows(session, sequence)

    @contextmanager
    def view(self) -> Iterator[View]:
        """Open a snapshot of the committed state for reading."""
        with self._store.read() as reader:
            yield View(reader)

    def leap(self, index: int, term: int) -> None:
        """Stand at `index` without having applied what lies before: for a witness, which is sent no commands.

        Only before anything was applied.
        """
        invariant(self._meta == EMPTY_META, "only an empty state may leap to entry {}", index)
        meta = self._meta._replace(applied_index=index, applied_term=term)
        with self._store.write() as writer:
            writer.put(META, encode_meta(meta))
        self._meta = meta

    def apply(self, entries: Sequence[AppliedEntry]) -> list[Applied]:
        """Apply entries, in one transaction, and return what each did.

        `entries` are contiguous and begin right after `applied_index`.

        Raises CorruptCommand when a payload cannot be read; nothing is applied then, and the host must stop. Any other
        exception is the store's: the transaction is undone and the machine is done for.
        """
        invariant(not self._failed, "a state machine whose transaction failed must not be used again")
        if not entries:
            return []
        for position, entry in enumerate(entries, self._meta.applied_index + 1):
            invariant(entry.index == position, "entry {} to apply where {} is next", entry.index, position)
        batches = [_decode(entry) for entry in entries]
        self._failed = True
        with self._store.write() as writer:
            run = _Run(writer, self._sessions, self.leases, self._meta)
            applied = [run.apply(entry.index, batch) for entry, batch in zip(entries, batches, strict=True)]
            self._sessions.end_transaction(writer)
            meta = run.meta(entries[-1])
            writer.put(META, encode_meta(meta))
        self._meta = meta
        if run.unswept is not None:
            self._unswept = run.unswept
        self._failed = False
        return applied


_READ_ENOUGH: Final = Rejected(
    ErrorCode.OVERLOADED,
    f"the transactions applied together with this one have read more than {MAX_ENTRY_RESULT_BYTES} bytes: no effect, "
    "try again",
)


class _Run:
    """One transaction under way."""

    __slots__ = (
        "_compacted_revision",
        "_counters",
        "_last_session",
        "_leases",
        "_read_bytes",
        "_sessions",
        "_time_ms",
        "_writer",
        "_writing",
        "unswept",
    )

    def __init__(self, writer: Writer, sessions: SessionTable, leases: LeaseTable, before: Meta) -> None:
        self._writer = writer
        self._writing = Writing(writer, leases, before.revision)
        self._sessions = sessions
        self._leases = leases
        self._counters = Counters(before.last_lease, before.last_token)
        self._compacted_revision = before.compacted_revision
        self._time_ms = before.time_ms
        self._last_session = before.last_session
        self._read_bytes = 0
        """What the transactions of the entry under way have read."""
        self.unswept: bool | None = None
        """What a sweep or a compaction found last; None: there was none."""

    def apply(self, index: int, batch: Batch | None) -> Applied:
        if batch is None:
            return Applied((), [])
        # A new leader's clock may lag behind the old one's: cluster time stands still then, it never goes back.
        self._time_ms = max(self._time_ms, batch.time_ms)
        self._counters.begin_entry()
        self._read_bytes = 0
        results = tuple([self._group(group) for group in batch.groups])
        self._sessions.end_entry(self._writer, index, self._time_ms)
        changes = self._writing.take()
        if changes:
            self._writer.put(changes_key(changes[-1].revision), encode_changes(changes))
        return Applied(results, changes)

    def meta(self, last: AppliedEntry) -> Meta:
        return Meta(
            applied_index=last.index,
            applied_term=last.term,
            revision=self._writing.revision,
            compacted_revision=self._compacted_revision,
            time_ms=self._time_ms,
            last_session=self._last_session,
            last_lease=self._counters.last_lease,
            last_token=self._counters.last_token,
        )

    def _group(self, group: Group) -> list[Result]:
        if group.session == 0:
            return [self._too_much(command) or self._execute(command) for command in group.commands]
        session = self._sessions.touch(self._writer, group.session, self._time_ms, group.acknowledged_below)
        if session is None:
            return [EXPIRED] * len(group.commands)
        results: list[Result] = []
        for command in group.commands:
            # What comes again later must not be remembered as refused.
            result = self._sessions.judge(session, command) or self._too_much(command)
            if result is None:
                result = self._execute(command)
                session.remember(command.sequence, result)
            results.append(result)
        return results

    def _too_much(self, command: Command) -> Rejected | None:
        if self._read_bytes >= MAX_ENTRY_RESULT_BYTES and isinstance(command, Txn):
            return _READ_ENOUGH
        return None

    def _execute(self, command: Command) -> Result:
        writing, leases, now_ms = self._writing, self._leases, self._time_ms
        match command:
            case Put():
                return mvcc.put(writing, command)
            case Txn():
                done = txn.apply(writing, leases, self._compacted_revision, command, now_ms)
                if isinstance(done, TxnDone):
                    self._read_bytes += txn.read_bytes(done.branch)
                return done
            case Delete():
                return mvcc.delete(writing, command)
            case RegisterSession():
                self._last_session += 1
                self._sessions.register(self._writer, self._last_session, now_ms)
                return SessionRegistered(self._last_session)
            case GrantLease():
                return lease.grant(writing, leases, self._counters, command, now_ms)
            case KeepAlive():
                return lease.keep_alive(writing, leases, command, now_ms)
            case RevokeLease():
                return lease.revoke(writing, leases, self._counters, command, now_ms)
            case Expire():
                return lease.expire(writing, leases, self._counters, now_ms)
            case Acquire():
                return lock.acquire(writing, leases, self._counters, command, now_ms)
            case Release():
                return lock.release(writing, leases, self._counters, command, now_ms)
            case Proclaim():
                return lock.proclaim(writing, leases, command, now_ms)
            case Compact():
                return self._compact(command)
            case Sweep():
                return self._sweep()
            case CheckState():
                return StateChecked(writing.revision)
            case _:
                assert_never(command)

    def _compact(self, command: Compact) -> Result:
        result = compaction.compact(command, self._writing.revision, self._compacted_revision)
        if isinstance(result, Compacted):
            self._compacted_revision = result.revision
            # The rows of this very entry are written at its end: there may be one more by then.
            self.unswept = True
        return result

    def _sweep(self) -> Swept:
        result = compaction.sweep(self._writer, self._compacted_revision)
        self.unswept = result.more
        return result


def _decode(entry: AppliedEntry) -> Batch | None:
    if entry.payload is None:
        return None
    if entry.batch is not None:
        return entry.batch
    try:
        return decode_batch(entry.payload)
    except CorruptCommand as error:
        raise CorruptCommand(f"entry {entry.index} of term {entry.term}: {error.message}") from error
