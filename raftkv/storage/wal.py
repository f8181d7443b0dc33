"""The write-ahead log: the durable truth of a node. Format: docs/storage-format.md; reasons: docs/adr/0002."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Self

from raftkv.errors import NoRoom, StorageError
from raftkv.invariant import invariant
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.log_shape import LogShape
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import RecoveredLog, WalPosition
from raftkv.storage.wal_format import segment_name
from raftkv.storage.wal_recovery import RecoveredSegments
from raftkv.storage.wal_segments import SegmentWriter, open_segments
from raftkv.storage.worker import Runner, Worker

SEGMENT_BYTES: Final = 64 << 20
"""Default size of a segment."""
RECORD_LIMIT_BYTES: Final = 16 << 20
"""Default bound of a record's payload; only a single entry may exceed it."""


def _random_nonce() -> int:
    return secrets.randbits(64)


class WriteAheadLog:
    """The `LogStore` on disk.

    All file access happens in one dedicated thread (or what stands in for it, a `Runner`); the event loop only checks,
    hands over and waits.
    """

    def __init__(self, writer: SegmentWriter, shape: LogShape, runner: Runner | None = None) -> None:
        self._writer = writer
        self._shape = shape
        self._worker = runner or Worker("raftkv-wal")
        self._closed = False
        self._starved: tuple[HardState, tuple[Entry, ...]] | None = None
        """An append that found no room, and is to be made again."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        record_limit_bytes: int = RECORD_LIMIT_BYTES,
        clean_tail: WalPosition | None = None,
        must_exist: bool = False,
        same_boot: bool = False,
        files: FileSystem | None = None,
        make_nonce: Callable[[], int] = _random_nonce,
        runner: Runner | None = None,
        progress: Progress = UNHEARD,
    ) -> tuple[Self, RecoveredLog]:
        """Recover the log in `directory`, or create an empty one (the parent must exist). Blocks.

        A torn tail is removed and reported. With `clean_tail`, the `tail` at a clean shutdown, there is nothing that
        could be torn, and a log that ends anywhere else is corrupt. What is returned is durable: it may be acted upon.

        With `same_boot`, the machine has not stopped since the last run: then only what may be the beginning of a
        record is torn, since no write that came back can be missing.

        With `must_exist`, an empty or missing directory is a lost log, and refused: a node that has forgotten its votes
        must not vote under its old id.

        `runner` does the file access of appends; by default a thread of this log's own. `progress` is told how far
        reading has come.

        Raises CorruptLog when confirmed data is damaged; nothing is changed on the disk then. Raises StorageError when
        the disk fails.
        """
        writer, found = open_segments(
            files or OsFileSystem(),
            directory,
            segment_bytes=segment_bytes,
            record_limit_bytes=record_limit_bytes,
            make_nonce=make_nonce,
            clean_tail=clean_tail,
            must_exist=must_exist,
            same_boot=same_boot,
            progress=progress,
        )
        if found is None:
            return cls(writer, LogShape(), runner), RecoveredLog(hard_state=HardState(), entries=())
        return cls(writer, found.shape, runner), _report(directory, found)

    @property
    def tail(self) -> WalPosition:
        """Where the confirmed log ends; meaningful while no append is under way. It outlives `close`."""
        return self._writer.tail

    @property
    def directory(self) -> Path:
        return self._writer.directory

    def extent(self) -> tuple[int, int]:
        """Return the sequences of the first segment that counts and of the one that is being written. In any thread."""
        return self._writer.extent()

    def cut_behind(self, segment: int) -> Index | None:
        """Return the first entry to keep so that `compact` drops everything up to and including `segment`; None: there
        is no such place now.
        """
        return self._writer.cut_behind(segment)

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """See `LogStore.append`."""
        self._require_open()
        batch = tuple(entries)
        if self._starved is None:
            problem = self._shape.violation(hard_state, batch)
            invariant(problem is None, "the write-ahead log refuses an append: {}", problem)
            self._shape.advance(hard_state, batch)
        else:
            invariant(self._starved == (hard_state, batch), "an append that found no room comes before any other")
        try:
            await self._worker.run(partial(self._writer.append, hard_state, batch))
        except NoRoom:
            self._starved = hard_state, batch
            raise
        self._starved = None
        if self._writer.wants_next() and not self._closed:
            # Behind this append and ahead of the next one. A failure is not lost: it fails the next append. Where there
            # is no room, the next append comes back to it.
            self._worker.run(self._writer.prepare_next).add_done_callback(_retrieve)

    async def compact(self, first_kept: Index) -> None:
        """See `LogStore.compact`. Whole segments are dropped."""
        self._require_open()
        last = self._shape.last_index
        invariant(first_kept <= last + 1, "the log is to begin at entry {}, but ends at {}", first_kept, last)
        await self._worker.run(partial(self._writer.compact, first_kept))
        await self._delete_garbage()

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        """See `LogStore.restart`."""
        self._require_open()
        problem = self._shape.restart_violation(hard_state, index, term)
        invariant(problem is None, "the write-ahead log refuses to begin anew: {}", problem)
        state = replace(hard_state, commit=index)
        before, self._shape = self._shape, LogShape(index, term, state)
        try:
            await self._worker.run(partial(self._writer.restart, state, index, term))
        except NoRoom:
            self._shape = before
            raise
        await self._delete_garbage()

    async def _delete_garbage(self) -> None:
        # One at a time, so that appends get in between: deleting a large file takes a while.
        while not self._closed and await self._worker.run(self._writer.delete_one):
            pass

    def _require_open(self) -> None:
        if self._closed:
            raise StorageError("the write-ahead log is closed")

    def size_bytes(self) -> int:
        """Bytes of all segments, preallocated room included."""
        return self._writer.size_bytes()

    def reserved_bytes(self) -> int:
        """See `LogStore.reserved_bytes`. Where the file system copies on write, a reservation promises nothing."""
        return self._writer.reserved_bytes()

    async def close(self) -> None:
        """See `LogStore.close`."""
        if not self._closed:
            self._closed = True
            await self._worker.stop()
            self._writer.close()
            if self._writer.failure:
                raise StorageError(f"the write-ahead log did not end cleanly: {self._writer.failure}")


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _report(directory: Path, found: RecoveredSegments) -> RecoveredLog:
    log = RecoveredLog(
        hard_state=found.hard_state,
        entries=tuple(found.entries),
        first_index=found.shape.first_index,
        base_term=found.base.term,
    )
    torn = found.torn
    if torn is None:
        return log
    return replace(
        log,
        torn_bytes=torn.stop - torn.start,
        torn_at=f"{directory / segment_name(found.current.sequence)}, byte offset {torn.start}: {torn.flaw}",
    )
