"""A host for a state machine: keeps the log, applies, reopens."""

from __future__ import annotations

from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import (
    Batch,
    Command,
    Delete,
    GrantLease,
    Group,
    KeyValue,
    LeaseGranted,
    Put,
    RegisterSession,
    Result,
    SessionRegistered,
)
from raftkv.kv.keys import VERSIONS, VERSIONS_END, revision_of, user_key
from raftkv.kv.machine import AppliedEntry, GroupResults, StateMachine
from raftkv.kv.ranges import RangeQuery, RangeResult
from raftkv.kv.records import TOMBSTONE, VERSION_BYTES
from raftkv.kv.store import OrderedStore
from raftkv.kv.versions import LongRow, pair_of
from raftkv.kv.writing import Change

from .dict_store import DictStore


def put(key: bytes, value: bytes = b"v", sequence: int = 0) -> Put:
    return Put(sequence, key, value)


def delete(key: bytes, range_end: bytes = b"", sequence: int = 0) -> Delete:
    return Delete(sequence, key, range_end)


def entry(index: int, *groups: Group, time_ms: int = 0) -> AppliedEntry:
    return AppliedEntry(index, 1, encode_batch(Batch(time_ms, groups)))


def state_hash(machine: StateMachine, max_rows: int = 7) -> bytes:
    with machine.view() as view:
        hasher = view.hasher()
        while not hasher.step(max_rows):
            pass
        assert (hasher.applied_index, hasher.applied_term) == (machine.applied_index, machine.applied_term)
        return hasher.digest()


class Host:
    def __init__(self, store: OrderedStore | None = None) -> None:
        self.store = DictStore() if store is None else store
        self.machine = StateMachine(self.store)
        self.now = 0
        self.log: list[AppliedEntry] = []
        self.changes: list[Change] = []
        """Those of the entry applied last."""

    def reopen(self) -> None:
        self.machine = StateMachine(self.store)

    def apply(self, *groups: Group) -> GroupResults:
        new = entry(self.machine.applied_index + 1, *groups, time_ms=self.now)
        self.log.append(new)
        (applied,) = self.machine.apply([new])
        self.changes = applied.changes
        return applied.results

    def do(self, *commands: Command) -> list[Result]:
        """Apply without a session."""
        (results,) = self.apply(Group(0, 0, commands))
        return results

    def write(self, session: int, *commands: Command, low: int = 1) -> list[Result]:
        (results,) = self.apply(Group(session, low, commands))
        return results

    def register(self) -> int:
        (registered,) = self.do(RegisterSession(0))
        assert isinstance(registered, SessionRegistered)
        return registered.session

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        with self.machine.view() as view:
            return view.get(key, revision)

    def range(self, query: RangeQuery) -> RangeResult:
        with self.machine.view() as view:
            return view.range(query)

    def hash(self) -> bytes:
        return state_hash(self.machine)

    def pairs_of_changes(self) -> dict[bytes, tuple[KeyValue | None, KeyValue | None]]:
        """What the entry applied last is said to have changed: by key, the pair before and after."""
        found = {}
        for change in self.changes:
            key = user_key(change.prefix)
            before = self._previous(change)
            after = None if change.row == TOMBSTONE else pair_of(key, change.revision, change.row)
            found[key] = (before, after)
        return found

    def _previous(self, change: Change) -> KeyValue | None:
        """The version before a change, as whoever is told of it reads it."""
        if change.previous is None:
            return None
        row = change.previous
        if isinstance(row, LongRow):
            with self.machine.view() as view:
                whole = view.version(change.prefix, change.previous_revision)
            assert whole is not None
            assert row == (whole[:VERSION_BYTES], len(whole))
            row = whole
        return pair_of(user_key(change.prefix), change.previous_revision, row)

    def grant(self, ttl_ms: int = 10_000) -> int:
        """Open a lease; return its id."""
        (granted,) = self.do(GrantLease(0, 0, ttl_ms))
        assert isinstance(granted, LeaseGranted)
        return granted.lease

    def live(self) -> list[tuple[bytes, KeyValue]]:
        """All keys that exist, with their pairs."""
        return [(pair.key, pair) for pair in self.range(RangeQuery(b"\0", b"\0")).pairs]

    def versions(self) -> set[tuple[bytes, int]]:
        """All versions in the store: (key, mod_revision)."""
        with self.store.read() as reader:
            return {
                (user_key(stored_key[:-8]), revision_of(stored_key))
                for stored_key, row in reader.scan(VERSIONS, VERSIONS_END)
                if row != TOMBSTONE or revision_of(stored_key) < self.machine.compacted_revision
            }
