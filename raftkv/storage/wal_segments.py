"""Writes the segments of a log. Synchronous; everything here runs in the thread that owns the log.

Nothing is ever overwritten but a torn tail. A truncated suffix stays on disk and loses against the records after it at
replay, so there is no truncation for a crash to interrupt (raft-bugs 36).

The front of the log goes by whole segments, and in one step: a new base file, which names the first segment that
counts. What lies before it is garbage from that moment on, however much of it a crash leaves behind (raft-bugs 28).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raftkv.errors import CorruptLog, NoRoom, StorageError
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.files import (
    TEMPORARY_SUFFIX,
    File,
    FileSystem,
    flush,
    is_full,
    publish_file,
    write_all,
    write_zeros,
)
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import (
    BASE_NAME,
    SEGMENT_HEADER_BYTES,
    Batch,
    LogBase,
    RecordType,
    Segment,
    encode_batch,
    encode_record,
    record_bytes,
    segment_name,
    split_batch,
)
from raftkv.storage.wal_recovery import FIRST_SEQUENCE, RecoveredSegments, recover
from raftkv.storage.way_out import REPAIR

ZERO_AHEAD_BYTES = 1 << 20
"""How much is zeroed at a time: rarely enough to cost little, little enough to flush along with a record."""

_CLOSED = "the log is closed"


class SegmentWriter:
    """The end of a log that is being written. Create it with `open_segments`.

    After the first failed operation it is dead: every later call raises StorageError (raft-bugs 39). Only where it
    raises NoRoom, which no flush does, nothing has happened, and the same call may be made again.
    """

    def __init__(
        self,
        files: FileSystem,
        directory: Path,
        *,
        segment_bytes: int,
        record_limit_bytes: int,
        make_nonce: Callable[[], int],
    ) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._record_limit_bytes = record_limit_bytes
        self._make_nonce = make_nonce
        self._failure = ""
        self._size_bytes = 0
        self._segment: Segment
        self._file: File
        self._offset = SEGMENT_HEADER_BYTES
        self._crc = 0
        self._zeroed = 0
        """Where the blocks end that were written, and not only reserved, in this segment; 0: not known."""
        self._touched = 0
        """How far writes of records reached in this segment: beyond the tail where one has found no room."""
        self._next: tuple[Segment, File] | None = None
        self._unwritten: deque[Batch] = deque()
        """What an append that found no room has left of its batch."""
        self._last = Index(0)
        self._last_term = Term(0)
        self._hard_state = HardState()
        self._marks: list[LogBase] = []
        """Where the log may be cut, the base first: nothing after such a place reaches back behind it."""
        self._sizes: dict[int, int] = {}
        """Bytes of every segment."""
        self._garbage: deque[int] = deque()
        """Sequences of the segments that count no more and are still to be deleted, oldest first."""

    @property
    def tail(self) -> WalPosition:
        """Where the last confirmed record ends."""
        return WalPosition(segment=self._segment.sequence, offset=self._offset, crc=self._crc)

    def wants_next(self) -> bool:
        """Whether `prepare_next` has something to do.

        Not while this segment is empty: recovery takes an empty segment with another one after it for a lost one.
        """
        return self._next is None and self._offset > SEGMENT_HEADER_BYTES and not self._failure

    def size_bytes(self) -> int:
        return self._size_bytes

    def reserved_bytes(self) -> int:
        """See `LogStore.reserved_bytes`. In any thread."""
        following = self._next
        # Not the sum: a record that does not fit into the rest of this segment leaves it unused.
        ahead = following[0].size - SEGMENT_HEADER_BYTES if following is not None else 0
        return max(self._segment.size - self._offset, ahead)

    @property
    def directory(self) -> Path:
        return self._directory

    def extent(self) -> tuple[int, int]:
        """See `WriteAheadLog.extent`."""
        return self._marks[0].segment, self._segment.sequence

    def cut_behind(self, segment: int) -> Index | None:
        """See `WriteAheadLog.cut_behind`. In any thread: it reads a list that others replace items of."""
        return next((Index(mark.index + 1) for mark in tuple(self._marks) if mark.segment > segment), None)

    def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Make one batch durable. Raises StorageError; after NoRoom, it must be the same batch again."""
        with self._fatal():
            if not self._unwritten:
                self._unwritten.extend(split_batch(hard_state, entries, self._record_limit_bytes))
            while self._unwritten:
                self._append_record(self._unwritten[0])
                self._unwritten.popleft()

    def prepare_next(self) -> None:
        """Create the segment after this one ahead of need, so that no append waits for it. Raises StorageError."""
        due = self.wants_next()
        with self._fatal():
            if due:
                self._next = self._create(self._segment.sequence + 1, self._segment_bytes)

    def compact(self, first_kept: Index) -> None:
        """Let go of the segments that hold only entries below `first_kept`; `delete_one` deletes them."""
        with self._fatal():
            cuts = [mark for mark in self._marks if mark.index < first_kept]
            if len(cuts) > 1:
                self._rebase(cuts[-1])
                del self._marks[: len(cuts) - 1]

    def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        """Begin anew after entry `index`, in a segment without records; `delete_one` deletes the others."""
        with self._fatal():
            fresh = None
            if self._offset > SEGMENT_HEADER_BYTES:
                fresh = self._next = self._next or self._create(self._segment.sequence + 1, self._segment_bytes)
            segment = fresh[0] if fresh else self._segment
            base = LogBase.of_restart(self._crc, segment.sequence, hard_state, index, term)
            self._rebase(base)
            self._marks = [base]
            self._last, self._last_term, self._hard_state, self._crc = index, term, hard_state, base.chain
            if fresh:
                self._file.close()
                self._segment, self._file = fresh
                self._next = None
                self._offset = SEGMENT_HEADER_BYTES
                self._zeroed = self._touched = 0

    def delete_one(self) -> bool:
        """Delete one of the segments let go of; say whether there are more.

        Nothing waits for the deletions to be durable: a segment that comes back is deleted when the log is opened.
        """
        with self._fatal():
            if self._garbage:
                sequence = self._garbage[0]
                self._files.unlink(self._path(sequence))
                self._garbage.popleft()
                self._size_bytes -= self._sizes.pop(sequence)
        return bool(self._garbage)

    @property
    def failure(self) -> str:
        """What ended this writer before it was closed; empty when nothing did."""
        return self._failure if self._failure != _CLOSED else ""

    def close(self) -> None:
        """Leave nothing behind the tail, and let go of the files; `failure` says whether that went well."""
        if not self._failure:
            self._wipe_unfinished()
        self._file.close()
        if self._next is not None:
            self._next[1].close()
        self._failure = self._failure or _CLOSED

    def start(self) -> None:
        """Create the first segment of an empty log."""
        with self._fatal():
            self._segment, self._file = self._create(FIRST_SEQUENCE, self._segment_bytes)
            self._marks = [LogBase(segment=FIRST_SEQUENCE, chain=0)]

    def resume(self, found: RecoveredSegments) -> None:
        """Go on after what was recovered, once the disk holds exactly that and holds it durably.

        What was read may have come from the page cache alone, either because the process died before it synced, or
        because a sync failed and left the pages marked clean (raft-bugs 39). The node is about to rely on it, so the
        last record, the only one this can have happened to, is written again and synced.
        """
        with self._fatal():
            self._segment, self._offset, self._crc = found.current, found.tail.offset, found.tail.crc
            self._file = self._files.open(self._path(found.current.sequence))
            self._sizes = {segment.sequence: segment.size for segment in found.segments}
            self._size_bytes = sum(self._sizes.values())
            self._marks = list(found.marks)
            self._last, self._hard_state = found.shape.last_index, found.hard_state
            self._last_term = found.shape.term_at(self._last)
            if found.torn is not None:
                write_zeros(self._file, found.torn.start, found.torn.stop)
            if found.last_record is not None:
                offset, content = found.last_record
                write_all(self._file, content, offset)
            self._file.fdatasync()
            prepared = found.segments[-1]
            if prepared.sequence > found.current.sequence:
                self._next = prepared, self._files.open(self._path(prepared.sequence))

    def _append_record(self, batch: Batch) -> None:
        payload = encode_batch(batch.hard_state, batch.entries)
        room = record_bytes(len(payload))
        if self._offset + room > self._segment.size:
            self._roll(SEGMENT_HEADER_BYTES + room)
        if self._offset + room > self._zeroed:
            self._zero_ahead(self._offset + room)
        record, crc = encode_record(self._segment, self._offset, self._crc, RecordType.BATCH, payload)
        self._touched = max(self._touched, self._offset + len(record))
        write_all(self._file, record, self._offset)
        flush(self._file)
        self._offset += len(record)
        self._crc = crc
        self._hard_state = batch.hard_state
        if batch.entries:
            while self._marks[-1].index >= batch.entries[0].index:
                self._marks.pop()
            self._last, self._last_term = batch.entries[-1].index, batch.entries[-1].term

    def _wipe_unfinished(self) -> None:
        """Zero what a record that found no room has left of itself: a clean end has nothing behind the tail."""
        if self._touched > self._offset:
            try:
                write_zeros(self._file, self._offset, self._touched)
                flush(self._file)
            except OSError as error:
                self._failure = describe_os_error(self._directory, error)

    def _rebase(self, base: LogBase) -> None:
        """Make `base` the beginning of the log, durably: the one step in which a cut or a restart happens."""
        first = self._marks[0].segment
        publish_file(self._files, self._directory / BASE_NAME, base.encode()).close()
        self._garbage.extend(range(first, base.segment))

    def _zero_ahead(self, least: int) -> None:
        """Write zeros over the zeros ahead, at least up to `least`; the next sync flushes them.

        Reserved but never written blocks make every sync of a record a change of metadata, which waits for the file
        system's journal. Written ones are synced by themselves: half the time, measured with three nodes on one disk.
        """
        start = max(self._zeroed, self._offset)
        stop = min(max(least, start + ZERO_AHEAD_BYTES), self._segment.size)
        write_zeros(self._file, start, stop)
        self._zeroed = stop

    def _roll(self, least_bytes: int) -> None:
        """Go on in a segment with room for `least_bytes`. All records so far are synced already (raft-bugs 35)."""
        if self._offset == SEGMENT_HEADER_BYTES:
            # Nothing was written to this one: replace it, since recovery takes an empty segment for the end.
            empty = self._file
            self._segment, self._file = self._create(self._segment.sequence, least_bytes)
            empty.close()
            self._zeroed = self._touched = 0
            return
        following = self._next
        if following is None or following[0].size < least_bytes:
            following = self._create(self._segment.sequence + 1, max(self._segment_bytes, least_bytes))
            if self._next is not None:
                self._next[1].close()
        self._next = None
        self._file.close()
        self._segment, self._file = following
        self._offset = SEGMENT_HEADER_BYTES
        self._zeroed = self._touched = 0
        self._marks.append(LogBase(self._segment.sequence, self._crc, self._last, self._last_term, self._hard_state))

    def _create(self, sequence: int, size: int) -> tuple[Segment, File]:
        """Create a segment, or replace an empty one; it and its name are durable on return (raft-bugs 33)."""
        segment = Segment(sequence=sequence, nonce=self._make_nonce(), size=size)
        try:
            file = publish_file(self._files, self._path(sequence), segment.encode(), reserve_bytes=size)
        except OSError as error:
            if is_full(error):
                self._drop_unpublished(sequence)
            raise
        self._size_bytes += size - self._sizes.get(sequence, 0)
        self._sizes[sequence] = size
        return segment, file

    def _drop_unpublished(self, sequence: int) -> None:
        """Give back what a segment that found no room has taken of it."""
        temporary = segment_name(sequence) + TEMPORARY_SUFFIX
        if temporary in self._files.names(self._directory):
            self._files.unlink(self._directory / temporary)

    def _path(self, sequence: int) -> Path:
        return self._directory / segment_name(sequence)

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """Let no operation begin after one that did not finish."""
        if self._failure:
            raise StorageError(f"the write-ahead log in {self._directory} is dead: {self._failure}")
        self._failure = "an earlier operation did not finish"
        try:
            yield
        except OSError as error:
            if is_full(error):
                self._failure = ""
                raise no_room(self._directory, error) from error
            self._failure = problem = describe_os_error(self._directory, error)
            raise StorageError(problem) from error
        self._failure = ""


def open_segments(
    files: FileSystem,
    directory: Path,
    *,
    segment_bytes: int,
    record_limit_bytes: int,
    make_nonce: Callable[[], int],
    clean_tail: WalPosition | None,
    must_exist: bool = False,
    same_boot: bool = False,
    progress: Progress = UNHEARD,
) -> tuple[SegmentWriter, RecoveredSegments | None]:
    """Recover the log in `directory`, creating it if need be, and make it ready for appending.

    Raises CorruptLog and StorageError.
    """
    writer = SegmentWriter(
        files,
        directory,
        segment_bytes=segment_bytes,
        record_limit_bytes=record_limit_bytes,
        make_nonce=make_nonce,
    )
    try:
        files.mkdir(directory)
        files.fsync_dir(directory.parent)
        found = recover(files, directory, clean_tail, progress, same_boot=same_boot)
        if found is None and must_exist:
            raise CorruptLog(
                f"{directory} holds no log, but a node has run here: its votes and all that it acknowledged are gone, "
                f"so it must not come back under its old id. The way out: put the log back, or `{REPAIR}`"
            )
        _clean_up(files, directory, found.garbage if found else ())
    except OSError as error:
        raise StorageError(describe_os_error(directory, error)) from error
    if found is None:
        writer.start()
    else:
        writer.resume(found)
    return writer, found


def _clean_up(files: FileSystem, directory: Path, garbage: Sequence[int]) -> None:
    for name in files.names(directory):
        if name.endswith(TEMPORARY_SUFFIX):
            files.unlink(directory / name)
    # Also makes durable what a process that died had renamed but not yet synced: before anything is deleted because of
    # it, since an old base without its segments would be a lost log.
    files.fsync_dir(directory)
    for sequence in garbage:
        files.unlink(directory / segment_name(sequence))


def no_room(path: Path, error: OSError) -> NoRoom:
    """Return the error of an operation on `path` that has not happened: `is_full`."""
    return NoRoom(f"no space left on the device of {path} ({error}). The way out: free or add space")


def describe_os_error(path: Path, error: OSError) -> str:
    """Say what failed, where, and what the operator can do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the device of {path} ({error}). The way out: free or add space, then start the node"
    return f"{path}: {error}. The node stops, since what the disk holds is unknown; check the disk, then start the node"
