"""In-memory twins of the stores, for the simulator and for tests of the layers above.

They use no thread and no clock but the running event loop's, so they run under virtual time.
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Self

from raftkv.errors import StorageError
from raftkv.invariant import InvariantViolation, invariant
from raftkv.kv.store import MAX_KEY_BYTES, Reader
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.files import FileSystem, read_file
from raftkv.storage.log_shape import LogShape
from raftkv.storage.protocols import RecoveredLog

_COPY_MAGIC = b"RAFTKVMS"
_ROW = struct.Struct("<II")
"""What a copy has before each row: the lengths of key and value."""
_CLOSED = "it is closed"
_RECORD_BYTES = 64
"""What an append costs besides its data, roughly as in the WAL."""


class MemoryDisk:
    """What a node's log store has made durable. It outlives the store: a crash, and opening it again.

    Faults: `flush_seconds` is asked for the duration of every flush; `fail_next` holds the error of the next one.
    Compaction drops multiples of `segment_entries`, since the real log drops whole segments.
    """

    def __init__(self, *, flush_seconds: Callable[[], float] | None = None, segment_entries: int = 1) -> None:
        self.hard_state = HardState()
        self.entries: list[Entry] = []
        self.base: tuple[Index, Term] = (Index(0), Term(0))
        """Index and term of the entry before the first one."""
        self.segment_entries = segment_entries
        self.flush_seconds = flush_seconds
        self.fail_next: OSError | None = None
        self.generation = 0
        """Counts crashes and openings: a store of an earlier one cannot reach the disk any more."""
        self._in_flight: tuple[HardState, Sequence[Entry]] | None = None
        self._new_base: tuple[Index, Term] | None = None
        """Where the write in flight makes the log begin, if it does."""

    def begin(
        self, hard_state: HardState, entries: Sequence[Entry], new_base: tuple[Index, Term] | None = None
    ) -> None:
        self._in_flight = (hard_state, entries)
        self._new_base = new_base

    def settle(self) -> None:
        """Make the write in flight durable."""
        if self._in_flight is not None:
            (self.hard_state, entries), self._in_flight = self._in_flight, None
            if self._new_base is not None:
                self.entries.clear()
                self.base = self._new_base
            if entries:
                del self.entries[entries[0].index - self.base[0] - 1 :]
                self.entries.extend(entries)

    def compact(self, first_kept: Index) -> None:
        """Drop entries below `first_kept`, in multiples of a segment."""
        kept = (first_kept - 1) // self.segment_entries * self.segment_entries
        dropped = kept - self.base[0]
        if dropped > 0:
            self.base = (Index(kept), self.entries[dropped - 1].term)
            del self.entries[:dropped]

    def discard(self) -> None:
        """Lose the write in flight."""
        self._in_flight = None

    def crash(self, random: Random) -> None:
        """Lose power: of a write in flight, nothing, all, or the hard state and a prefix of the entries remain."""
        self.generation += 1
        if self._in_flight is None:
            return
        hard_state, entries = self._in_flight
        fate = random.choice(("lost", "prefix", "whole"))
        if fate == "prefix" and entries:
            entries = entries[: random.randint(1, len(entries))]
            commit = min(hard_state.commit, entries[-1].index)
            self._in_flight = (HardState(term=hard_state.term, vote=hard_state.vote, commit=commit), entries)
        if fate == "lost":
            self.discard()
        else:
            self.settle()


class MemoryLogStore:
    """The `LogStore` on a `MemoryDisk`."""

    def __init__(self, disk: MemoryDisk) -> None:
        disk.generation += 1
        self._disk = disk
        self._generation = disk.generation
        self._shape = LogShape(*disk.base, disk.hard_state)
        self._shape.advance(disk.hard_state, disk.entries)
        self._size_bytes = sum(_RECORD_BYTES + len(entry.data) for entry in disk.entries)
        self._failure = ""
        self._closed = False
        self._error: OSError | None = None
        """What the write in flight will fail with."""

    @classmethod
    def open(cls, disk: MemoryDisk) -> tuple[Self, RecoveredLog]:
        """Open what `disk` holds; a store opened on it before is cut off."""
        state = disk.hard_state
        disk.hard_state = replace(state, commit=max(state.commit, disk.base[0]))
        return cls(disk), RecoveredLog(
            hard_state=disk.hard_state,
            entries=tuple(disk.entries),
            first_index=Index(disk.base[0] + 1),
            base_term=disk.base[1],
        )

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """See `LogStore.append`."""
        self._require_alive()
        batch = tuple(entries)
        problem = self._shape.violation(hard_state, batch)
        invariant(problem is None, "the log store refuses an append: {}", problem)
        self._shape.advance(hard_state, batch)
        await self._flush(hard_state, batch)
        self._size_bytes += _RECORD_BYTES + sum(len(entry.data) for entry in batch)

    async def compact(self, first_kept: Index) -> None:
        """See `LogStore.compact`."""
        self._require_alive()
        last = self._shape.last_index
        invariant(first_kept <= last + 1, "the log is to begin at entry {}, but ends at {}", first_kept, last)
        disk = self._disk
        await asyncio.sleep(disk.flush_seconds() if disk.flush_seconds else 0)
        self._require_alive()
        disk.compact(first_kept)
        self._size_bytes = sum(_RECORD_BYTES + len(entry.data) for entry in disk.entries)

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        """See `LogStore.restart`."""
        self._require_alive()
        problem = self._shape.restart_violation(hard_state, index, term)
        invariant(problem is None, "the log store refuses to begin anew: {}", problem)
        state = replace(hard_state, commit=index)
        self._shape = LogShape(index, term, state)
        await self._flush(state, (), (index, term))
        self._size_bytes = 0

    async def _flush(
        self, hard_state: HardState, batch: tuple[Entry, ...], new_base: tuple[Index, Term] | None = None
    ) -> None:
        disk = self._disk
        self._error, disk.fail_next = disk.fail_next, None
        disk.begin(hard_state, batch, new_base)
        try:
            await asyncio.sleep(disk.flush_seconds() if disk.flush_seconds else 0)
        finally:
            # Also when cancelled: the real write goes on in its thread.
            self._finish()
        if self._error is not None:
            raise StorageError(self._failure) from self._error
        self._require_connected()

    def size_bytes(self) -> int:
        """Bytes held by the disk when it was opened or compacted, and appended since."""
        return self._size_bytes

    def reserved_bytes(self) -> int:
        return 1 << 62

    async def close(self) -> None:
        """See `LogStore.close`."""
        self._finish()
        failure, self._failure = self._failure, self._failure or _CLOSED
        if failure and not self._closed:
            self._closed = True
            raise StorageError(f"the log store did not end cleanly: {failure}")
        self._closed = True

    def _finish(self) -> None:
        """End the write in flight, if there is one and the machine still runs."""
        if self._disk.generation == self._generation:
            if self._error is not None:
                self._failure = str(self._error)
                self._disk.discard()
            self._disk.settle()

    def _require_alive(self) -> None:
        if self._failure:
            raise StorageError(f"the log store is dead: {self._failure}")
        self._require_connected()

    def _require_connected(self) -> None:
        if self._disk.generation != self._generation:
            raise StorageError("the log store is dead: its node crashed")


class _MemoryReader:
    """A `Reader` of a dict and the sorted list of its keys."""

    __slots__ = ("_keys", "_values")

    def __init__(self, values: dict[bytes, bytes], keys: list[bytes]) -> None:
        self._values = values
        self._keys = keys

    def get(self, key: bytes) -> bytes | None:
        _check_key(key)
        return self._values.get(key)

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        return next(self.scan(start, stop), None)

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        return next(self.heads(start, stop, most), None)

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        for key, value in self.scan(start, stop):
            yield key, value[:most], len(value)

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for position in range(bisect_left(self._keys, start), len(self._keys)):
            key = self._keys[position]
            if stop is not None and key >= stop:
                return
            yield key, self._values[key]


class _MemoryWriter(_MemoryReader):
    __slots__ = ("grown", "undo")

    def __init__(self, values: dict[bytes, bytes], keys: list[bytes]) -> None:
        super().__init__(values, keys)
        self.undo: dict[bytes, bytes | None] = {}
        """What each key that was touched had before the block."""
        self.grown = 0
        """Bytes that the block has added so far."""

    def put(self, key: bytes, value: bytes) -> None:
        _check_key(key)
        before = self._values.get(key)
        self.undo.setdefault(key, before)
        if before is None:
            insort(self._keys, key)
            self.grown += len(key)
        self.grown += len(value) - len(before or b"")
        self._values[key] = value

    def delete(self, key: bytes) -> None:
        _check_key(key)
        before = self._values.pop(key, None)
        if before is not None:
            self.undo.setdefault(key, before)
            self.grown -= len(key) + len(before)
            del self._keys[bisect_left(self._keys, key)]

    def abort(self) -> None:
        for key, value in tuple(self.undo.items()):
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)


class MemoryOrderedStore:
    """The `OrderedStore` in memory. Writing copies the map only while a snapshot of it is open."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._snapshots = 0
        """Open snapshots of exactly this dict and list."""
        self._writing = False
        self._used_bytes = 0

    @contextmanager
    def read(self) -> Iterator[_MemoryReader]:
        """Open a snapshot. Not inside a write block, whose changes it would see."""
        invariant(not self._writing, "the in-memory store opens no snapshot while its writer is open")
        values, keys = self._values, self._keys
        self._snapshots += 1
        try:
            yield _MemoryReader(values, keys)
        finally:
            if self._values is values:
                self._snapshots -= 1

    @contextmanager
    def write(self) -> Iterator[_MemoryWriter]:
        """Open the one writer."""
        invariant(not self._writing, "a second writer was opened while the first one is open")
        if self._snapshots:
            self._values, self._keys, self._snapshots = self._values.copy(), self._keys.copy(), 0
        self._writing = True
        writer = _MemoryWriter(self._values, self._keys)
        committed = False
        try:
            yield writer
            committed = True
        finally:
            if not committed:
                writer.abort()
            self._used_bytes += writer.grown
            self._writing = False

    @contextmanager
    def copy(self) -> Iterator[Iterator[bytes]]:
        """Stream all rows. See `CopyableStore`."""
        with self.read() as reader:
            yield (
                _ROW.pack(len(key), len(value)) + key + value if key else _COPY_MAGIC
                for key, value in chain(((b"", b""),), reader.scan(b"\0", None))
            )

    @classmethod
    def of_copy(cls, content: bytes) -> Self:
        """Make a store of what `copy` streamed. Raises StorageError."""
        store = cls()
        at = len(_COPY_MAGIC)
        try:
            while content[: len(_COPY_MAGIC)] == _COPY_MAGIC and at < len(content):
                key_bytes, value_bytes = _ROW.unpack_from(content, at)
                value_at = at + _ROW.size + key_bytes
                key = content[at + _ROW.size : value_at]
                at = value_at + value_bytes
                store._values[key] = content[value_at:at]
        except struct.error as error:
            raise StorageError(f"this is no copy of an in-memory store: {error}") from error
        if at != len(content):
            raise StorageError(f"this is no copy of an in-memory store: {len(content)} bytes")
        store._keys = sorted(store._values)
        store._used_bytes = sum(len(key) + len(value) for key, value in store._values.items())
        return store

    def used_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self._used_bytes

    def close(self) -> None:
        """Do nothing; the twin of `LmdbStore.close`."""


class MemoryEngine:
    """The `StateEngine` of in-memory stores: a copy is a list of rows, in a file of `files`."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self._prepared: MemoryOrderedStore | None = None

    @contextmanager
    def scratch(self) -> Iterator[MemoryOrderedStore]:
        """See `StateEngine.scratch`."""
        yield MemoryOrderedStore()

    @contextmanager
    def open_copy(self, path: Path) -> Iterator[Reader]:
        """See `StateEngine.open_copy`."""
        content = read_file(self._files, path)
        with MemoryOrderedStore.of_copy(content).read() as reader:
            yield reader

    def prepare(self, blocks: Iterator[bytes]) -> None:
        """See `StateEngine.prepare`."""
        self._prepared = MemoryOrderedStore.of_copy(b"".join(blocks))

    def swap(self, store: MemoryOrderedStore | None) -> MemoryOrderedStore:
        """See `StateEngine.swap`."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            raise InvariantViolation("there is no copy to swap in")
        if store is not None:
            store.close()
        return prepared


def _check_key(key: bytes) -> None:
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes")
