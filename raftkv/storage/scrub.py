"""Reads again what nobody reads: closed segments of the log, and checkpoints. Bit rot shows while there is a remedy.

Checksums are compared and nothing is changed. It goes in small steps, so that whoever drives it sets the pace.

A page that the kernel still has in its cache says nothing about the disk, and what was written recently, or read by the
last round, is there. So before a file is read the kernel is asked to forget it (POSIX_FADV_DONTNEED; O_DIRECT would
want aligned buffers, and a file system that has it), and once more after it, so that scrubbing does not drive out what
others need. Where the kernel has no such call, rot is found once the pages have left the cache by themselves.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from raftkv.storage.checkpoint import CHUNK_BYTES, CheckpointManifest
from raftkv.storage.checkpoint_directory import DATA_SUFFIX, MANIFEST_SUFFIX, checkpoint_stem
from raftkv.storage.files import File, FileSystem, drop_cache, read_file
from raftkv.storage.wal_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Flaw,
    FormatError,
    Segment,
    decode_record,
    decode_segment,
    record_bytes,
    record_end,
    segment_name,
    segment_sequences,
)

STEP_BYTES: Final = 256 << 10
"""About what is read in one step."""


@dataclass(frozen=True, slots=True)
class DamagedSegment:
    """A closed segment of which a byte is not what was written."""

    sequence: int
    path: Path
    offset: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}, byte offset {self.offset}: {self.problem}"


@dataclass(frozen=True, slots=True)
class DamagedChunks:
    """A checkpoint of which a byte is not what was written."""

    manifest: CheckpointManifest
    path: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


Finding = DamagedSegment | DamagedChunks


def scrub_log(
    files: FileSystem, directory: Path, extent: Callable[[], tuple[int, int]]
) -> Iterator[int | DamagedSegment]:
    """Read every closed segment; yield bytes read, in small steps, and what was found.

    `extent` is the sequences of the first segment that counts and of the one that is being written: the latter, and
    what is before the former, is not closed, or garbage. Segments that are dropped meanwhile are skipped. Raises
    OSError.
    """
    before: tuple[int, int] | None = None
    """The segment read last, and the checksum of its last record; for the one after it to name."""
    for sequence in segment_sequences(files.names(directory)):
        path = directory / segment_name(sequence)
        first, current = extent()
        if sequence < first:
            continue
        closed = sequence < current
        expected = before[1] if before is not None and before[0] == sequence - 1 else None
        before = None
        try:
            file = files.open(path)
        except FileNotFoundError:
            continue
        try:
            drop_cache(file)
            reading = _read_segment(file, path, sequence, expected, whole=closed)
            while True:
                try:
                    step = next(reading)
                except StopIteration as end:
                    before = (sequence, end.value) if end.value is not None else None
                    break
                except OSError as error:
                    # A sector that cannot be read is as good as one with other bytes.
                    step = DamagedSegment(sequence, path, 0, _unreadable(error))
                if isinstance(step, DamagedSegment) and not _counts(files, path, step, extent()[0]):
                    break
                yield step
            if closed:
                drop_cache(file)
        finally:
            file.close()
        if not closed:
            return


def _counts(files: FileSystem, path: Path, found: DamagedSegment, first: int) -> bool:
    """Whether the segment is still one of the log. The chain of the first one begins with the base."""
    if found.sequence < first or (found.sequence == first and found.problem == Flaw.CHAIN):
        return False
    return path.name in files.names(path.parent)


def _read_segment(
    file: File, path: Path, sequence: int, expected: int | None, *, whole: bool
) -> Generator[int | DamagedSegment, None, int | None]:
    """Yield as `scrub_log` does; the result is the last record's checksum, None after damage.

    Not `whole`: only whether the first record names the last one of the segment before.
    """
    header = file.pread(SEGMENT_HEADER_BYTES, 0)
    try:
        segment = decode_segment(header)
        if segment.sequence != sequence:
            raise FormatError(f"the header is that of segment {segment.sequence}")
        if segment.size != file.size():
            raise FormatError(f"the file has {file.size()} bytes, but was created with {segment.size}")
    except FormatError as error:
        yield DamagedSegment(sequence, path, 0, str(error))
        return None
    offset, last = SEGMENT_HEADER_BYTES, expected
    while offset < segment.size:
        window = _window(file, offset, segment)
        at = 0
        while at + RECORD_HEADER_BYTES <= len(window):
            if not any(window[at : at + RECORD_HEADER_BYTES]):
                # The end; unless something stands behind it.
                if whole and not (yield from _zeros(file, path, offset + at, segment)):
                    return None
                return last
            if offset + at + record_bytes(0) > segment.size or (at and _reaches_beyond(window, at, segment, offset)):
                break
            record = decode_record(window, at, segment, base=offset)
            if isinstance(record, Flaw):
                if whole:  # else it may be half written
                    yield DamagedSegment(sequence, path, offset + at, str(record))
                return None
            if last is not None and record.previous != last:
                yield DamagedSegment(sequence, path, offset + at, str(Flaw.CHAIN))
                return None
            if not whole:
                return None
            at, last = record.end, record.crc
        if at == 0:
            if any(window):
                yield DamagedSegment(sequence, path, offset, str(Flaw.LENGTH))
                return None
            break
        yield at
        offset += at
    return last


def _unreadable(error: OSError) -> str:
    """Say what the disk says. Raises `error` where it says nothing of the disk."""
    if error.errno != errno.EIO:
        raise error
    return f"cannot be read ({error.strerror})"


def _window(file: File, offset: int, segment: Segment) -> bytes:
    """Read on from `offset`: a step, or the record there, if that is longer."""
    window = file.pread(min(STEP_BYTES, segment.size - offset), offset)
    if len(window) >= RECORD_HEADER_BYTES and record_end(window, 0) > len(window):
        window += file.pread(min(record_end(window, 0), segment.size - offset) - len(window), offset + len(window))
    return window


def _reaches_beyond(window: bytes, at: int, segment: Segment, offset: int) -> bool:
    """Whether the record at `at` goes on behind the window, but not behind the segment: the next window has it."""
    end = record_end(window, at)
    return len(window) < end and offset + end <= segment.size


def _zeros(file: File, path: Path, start: int, segment: Segment) -> Generator[int | DamagedSegment, None, bool]:
    """Read what is left of a segment; the result is whether all of it is zero."""
    for offset in range(start, segment.size, STEP_BYTES):
        block = file.pread(min(STEP_BYTES, segment.size - offset), offset)
        if any(block):
            at = offset + len(block) - len(block.lstrip(b"\0"))
            yield DamagedSegment(segment.sequence, path, at, "bytes behind the last record")
            return False
        yield len(block)
    return True


def scrub_checkpoint(files: FileSystem, directory: Path, manifest: CheckpointManifest) -> Iterator[int | DamagedChunks]:
    """Read a checkpoint, its manifest too; yield as `scrub_log` does. One that is deleted meanwhile is right."""
    stem = checkpoint_stem(manifest.index)
    data, described = directory / (stem + DATA_SUFFIX), directory / (stem + MANIFEST_SUFFIX)
    try:
        file = files.open(described)
        try:
            drop_cache(file)
        finally:
            file.close()
        if read_file(files, described) != manifest.encode():
            yield DamagedChunks(manifest, described, "the manifest is not the one that was written")
            return
        file = files.open(data)
    except FileNotFoundError:
        return
    try:
        drop_cache(file)
        for number, expected in enumerate(manifest.chunk_crcs):
            start, stop = manifest.chunk_at(number * CHUNK_BYTES)
            crc = 0
            for offset in range(start, stop, STEP_BYTES):
                try:
                    block = file.pread(min(STEP_BYTES, stop - offset), offset)
                except OSError as error:
                    yield DamagedChunks(manifest, data, f"byte offset {offset}: {_unreadable(error)}")
                    return
                crc = google_crc32c.extend(crc, block)
                yield len(block)
            if crc != expected:
                yield DamagedChunks(manifest, data, f"byte offset {start}: checksum mismatch")
                return
        drop_cache(file)
    finally:
        file.close()
