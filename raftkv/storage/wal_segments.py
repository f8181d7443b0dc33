"""Writes the segments of a log. Synchronous; everything here runs in the thread that owns the log.

Nothing is ever overwritten but a torn tail, nothing confirmed is ever removed: a truncated suffix stays on disk and
loses against the records after it at replay, so there is no truncation for a crash to interrupt (raft-bugs 36).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raftkv.errors import CorruptLog, StorageError
from raftkv.raft.types import Entry, HardState
from raftkv.storage.files import TEMPORARY_SUFFIX, File, FileSystem, publish_file, write_all, write_zeros
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import (
    SEGMENT_HEADER_BYTES,
    RecordType,
    Segment,
    encode_batch,
    encode_record,
    record_bytes,
    segment_name,
    split_batch,
)
from raftkv.storage.wal_recovery import FIRST_SEQUENCE, RecoveredSegments, recover

ZERO_AHEAD_BYTES = 1 << 20
"""How much is zeroed at a time: rarely enough to cost little, little enough to flush along with a record."""

_CLOSED = "the log is closed"


class SegmentWriter:
    """The end of a log that is being written. Create it with `open_segments`.

    After the first failed operation it is dead: every later call raises StorageError (raft-bugs 39).
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
        self._next: tuple[Segment, File] | None = None

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

    def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Make one batch durable. Raises StorageError."""
        with self._fatal():
            for part in split_batch(hard_state, entries, self._record_limit_bytes):
                self._append_record(encode_batch(part.hard_state, part.entries))

    def prepare_next(self) -> None:
        """Create the segment after this one ahead of need, so that no append waits for it. Raises StorageError."""
        due = self.wants_next()
        with self._fatal():
            if due:
                self._next = self._create(self._segment.sequence + 1, self._segment_bytes)

    @property
    def failure(self) -> str:
        """What ended this writer before it was closed; empty when nothing did."""
        return self._failure if self._failure != _CLOSED else ""

    def close(self) -> None:
        self._file.close()
        if self._next is not None:
            self._next[1].close()
        self._failure = self._failure or _CLOSED

    def start(self) -> None:
        """Create the first segment of an empty log."""
        with self._fatal():
            self._segment, self._file = self._create(FIRST_SEQUENCE, self._segment_bytes)

    def resume(self, found: RecoveredSegments) -> None:
        """Go on after what was recovered, once the disk holds exactly that and holds it durably.

        What was read may have come from the page cache alone, either because the process died before it synced, or
        because a sync failed and left the pages marked clean (raft-bugs 39). The node is about to rely on it, so the
        last record, the only one this can have happened to, is written again and synced.
        """
        with self._fatal():
            self._segment, self._offset, self._crc = found.current, found.tail.offset, found.tail.crc
            self._file = self._files.open(self._path(found.current.sequence))
            self._size_bytes = sum(segment.size for segment in found.segments)
            if found.torn is not None:
                write_zeros(self._file, found.torn.start, found.torn.stop)
            if found.last_record is not None:
                offset, content = found.last_record
                write_all(self._file, content, offset)
            self._file.fdatasync()
            prepared = found.segments[-1]
            if prepared.sequence > found.current.sequence:
                self._next = prepared, self._files.open(self._path(prepared.sequence))

    def _append_record(self, payload: bytes) -> None:
        room = record_bytes(len(payload))
        if self._offset + room > self._segment.size:
            self._roll(SEGMENT_HEADER_BYTES + room)
        if self._offset + room > self._zeroed:
            self._zero_ahead(self._offset + room)
        record, crc = encode_record(self._segment, self._offset, self._crc, RecordType.BATCH, payload)
        write_all(self._file, record, self._offset)
        self._file.fdatasync()
        self._offset += len(record)
        self._crc = crc

    def _zero_ahead(self, least: int) -> None:
        """Write zeros over the zeros ahead, at least up to `least`; the next sync flushes them.

        Reserved but never written blocks make every sync of a record a change of metadata, which waits for the file
        system's journal. Written ones are synced by themselves: half the time, measured with three nodes on one disk.
        """
        start = max(self._zeroed, self._offset)
        self._zeroed = min(max(least, start + ZERO_AHEAD_BYTES), self._segment.size)
        write_zeros(self._file, start, self._zeroed)

    def _roll(self, least_bytes: int) -> None:
        """Go on in a segment with room for `least_bytes`. All records so far are synced already (raft-bugs 35)."""
        if self._offset == SEGMENT_HEADER_BYTES:
            # Nothing was written to this one: replace it, since recovery takes an empty segment for the end.
            self._discard(self._segment, self._file)
            self._segment, self._file = self._create(self._segment.sequence, least_bytes)
            self._zeroed = 0
            return
        following, self._next = self._next, None
        if following is not None and following[0].size < least_bytes:
            self._discard(*following)
            following = None
        if following is None:
            following = self._create(self._segment.sequence + 1, max(self._segment_bytes, least_bytes))
        self._file.close()
        self._segment, self._file = following
        self._offset = SEGMENT_HEADER_BYTES
        self._zeroed = 0

    def _create(self, sequence: int, size: int) -> tuple[Segment, File]:
        """Create a segment, or replace an empty one; it and its name are durable on return (raft-bugs 33)."""
        segment = Segment(sequence=sequence, nonce=self._make_nonce(), size=size)
        file = publish_file(self._files, self._path(sequence), segment.encode(), reserve_bytes=size)
        self._size_bytes += size
        return segment, file

    def _discard(self, segment: Segment, file: File) -> None:
        """Let go of an empty segment that is about to be replaced."""
        file.close()
        self._size_bytes -= segment.size

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
            self._failure = describe_os_error(self._directory, error)
            raise StorageError(self._failure) from error
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
        found = recover(files, directory, clean_tail)
        if found is None and must_exist:
            raise CorruptLog(
                f"{directory} holds no log, but a node has run here: its votes and all that it acknowledged are gone. "
                "The way out: put the log back; a node that lost its disk must not come back under its old id"
            )
        _remove_unpublished(files, directory)
    except OSError as error:
        raise StorageError(describe_os_error(directory, error)) from error
    if found is None:
        writer.start()
    else:
        writer.resume(found)
    return writer, found


def _remove_unpublished(files: FileSystem, directory: Path) -> None:
    for name in files.names(directory):
        if name.endswith(TEMPORARY_SUFFIX):
            files.unlink(directory / name)
    # Also makes durable what a process that died had renamed but not yet synced.
    files.fsync_dir(directory)


def describe_os_error(path: Path, error: OSError) -> str:
    """Say what failed, where, and what the operator can do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the device of {path} ({error}). The way out: free or add space, then start the node"
    return f"{path}: {error}. The node stops, since what the disk holds is unknown; check the disk, then start the node"
