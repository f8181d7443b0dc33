"""The replicated state machine: committed entries in, results and a new state out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from raftkv.invariant import invariant
from raftkv.kv import mvcc
from raftkv.kv.codec import CorruptCommand, decode_batch
from raftkv.kv.commands import (
    Batch,
    Command,
    Delete,
    Deleted,
    Group,
    Put,
    RegisterSession,
    Rejected,
    Result,
    SessionRegistered,
    Written,
)
from raftkv.kv.keys import META
from raftkv.kv.records import EMPTY_META, Meta, encode_meta, read_meta
from raftkv.kv.session import EXPIRED, SessionTable
from raftkv.kv.store import OrderedStore, Writer
from raftkv.kv.view import View


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    """A committed entry of the log."""

    index: int
    term: int
    payload: bytes | None
    """An encoded Batch; None for entries that do not concern the state (no-ops, configurations)."""


GroupResults = tuple[list[Result], ...]
"""The results of one entry: a list per group of its batch, a result per command. Empty where there is no payload."""


class StateMachine:
    """The state of one node, in one ordered store.

    Deterministic: the same entries give the same results and the same rows, in whatever slices they are applied.

    Applying is exactly-once over restarts: the applied index lies in the transaction that changes the state. The
    machine reads it at start; the host applies what follows. A restored snapshot needs a new machine.

    When a transaction fails, what the machine remembers may be ahead of the store. It then refuses every further
    `apply`: the host stops, or makes a new machine from the store, which is unchanged by the failed transaction.
    """

    __slots__ = ("_failed", "_meta", "_sessions", "_store")

    def __init__(self, store: OrderedStore) -> None:
        """Take up the state in `store` (empty: the initial state). Raises CorruptState."""
        self._store = store
        self._failed = False
        with store.read() as reader:
            self._meta = read_meta(reader)
            self._sessions = SessionTable(reader)

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

    def apply(self, entries: Sequence[AppliedEntry]) -> list[GroupResults]:
        """Apply entries, in one transaction, and return the results of each.

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
            run = _Run(writer, self._sessions, self._meta)
            results = [run.apply(entry.index, batch) for entry, batch in zip(entries, batches, strict=True)]
            self._sessions.end_transaction(writer)
            meta = run.meta(entries[-1])
            writer.put(META, encode_meta(meta))
        self._meta = meta
        self._failed = False
        return results


class _Run:
    """One transaction under way."""

    __slots__ = ("_before", "_last_session", "_revision", "_sessions", "_time_ms", "_writer")

    def __init__(self, writer: Writer, sessions: SessionTable, before: Meta) -> None:
        self._writer = writer
        self._sessions = sessions
        self._before = before
        self._revision = before.revision
        self._time_ms = before.time_ms
        self._last_session = before.last_session

    def apply(self, index: int, batch: Batch | None) -> GroupResults:
        if batch is None:
            return ()
        # A new leader's clock may lag behind the old one's: cluster time stands still then, it never goes back.
        self._time_ms = max(self._time_ms, batch.time_ms)
        results = tuple([self._group(group) for group in batch.groups])
        self._sessions.end_entry(self._writer, index)
        return results

    def meta(self, last: AppliedEntry) -> Meta:
        return self._before._replace(
            applied_index=last.index,
            applied_term=last.term,
            revision=self._revision,
            time_ms=self._time_ms,
            last_session=self._last_session,
        )

    def _group(self, group: Group) -> list[Result]:
        if group.session == 0:
            return [self._execute(command) for command in group.commands]
        session = self._sessions.touch(self._writer, group.session, self._time_ms, group.acknowledged_below)
        if session is None:
            return [EXPIRED] * len(group.commands)
        results: list[Result] = []
        for command in group.commands:
            result = session.judge(command.sequence)
            if result is None:
                result = self._execute(command)
                session.remember(command.sequence, result)
            results.append(result)
        return results

    def _execute(self, command: Command) -> Result:
        result: Written | Deleted | Rejected
        match command:
            case Put():
                result = mvcc.put(self._writer, command, self._revision + 1)
            case Delete():
                result = mvcc.delete(self._writer, command, self._revision + 1)
            case RegisterSession():
                self._last_session += 1
                self._sessions.register(self._writer, self._last_session, self._time_ms)
                return SessionRegistered(self._last_session)
            case _:
                assert_never(command)
        if not isinstance(result, Rejected):
            self._revision = result.revision
        return result


def _decode(entry: AppliedEntry) -> Batch | None:
    if entry.payload is None:
        return None
    try:
        return decode_batch(entry.payload)
    except CorruptCommand as error:
        raise CorruptCommand(f"entry {entry.index} of term {entry.term}: {error.message}") from error
