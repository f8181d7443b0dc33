"""What each segment of a log holds, for people to read. Judges nothing: whether that is a log, `wal_recovery` says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raftkv.raft.types import Index, Term
from raftkv.storage.files import FileSystem, read_file
from raftkv.storage.log_shape import NO_INDEX, NO_TERM
from raftkv.storage.wal_format import (
    SEGMENT_HEADER_BYTES,
    SEGMENT_SUFFIX,
    Flaw,
    FormatError,
    RecordType,
    decode_batch,
    decode_record,
    decode_segment,
    find_record,
)


@dataclass(slots=True)
class SurveyedSegment:
    """One file."""

    name: str
    size_bytes: int = 0
    used_bytes: int = SEGMENT_HEADER_BYTES
    """Up to the end of the last valid record."""
    records: int = 0
    entries: int = 0
    first_index: Index = NO_INDEX
    last_index: Index = NO_INDEX
    first_term: Term = NO_TERM
    last_term: Term = NO_TERM
    flaws: tuple[tuple[int, str], ...] = ()
    """(offset, what is wrong there)."""


def survey(
    files: FileSystem, directory: Path, progress: Callable[[int], None] = lambda done: None
) -> list[SurveyedSegment]:
    """Read every segment in `directory`, beyond damage too. `progress` is told bytes read. Raises OSError."""
    found = []
    for name in files.names(directory):
        if name.endswith(SEGMENT_SUFFIX):
            data = read_file(files, directory / name)
            found.append(_survey(name, data))
            progress(len(data))
    return found


def _survey(name: str, data: bytes) -> SurveyedSegment:
    found = SurveyedSegment(name, size_bytes=len(data))
    try:
        segment = decode_segment(data)
    except FormatError as error:
        found.flaws = ((0, str(error)),)
        return found
    flaws = []
    offset = SEGMENT_HEADER_BYTES
    used = len(data.rstrip(b"\0"))
    while offset < used:
        record = decode_record(data, offset, segment)
        if isinstance(record, Flaw):
            flaws.append((offset, str(record)))
            later = find_record(data, offset + 1, segment)
            if later is None:
                break
            record = later
        _count(found, record.type, record.payload)
        offset = found.used_bytes = record.end
    found.flaws = tuple(flaws)
    return found


def _count(found: SurveyedSegment, kind: int, payload: bytes) -> None:
    found.records += 1
    with suppress(FormatError):
        entries = decode_batch(payload).entries if kind == RecordType.BATCH else ()
        if entries:
            found.entries += len(entries)
            if not found.first_index:
                found.first_index, found.first_term = entries[0].index, entries[0].term
            found.last_index, found.last_term = entries[-1].index, entries[-1].term
