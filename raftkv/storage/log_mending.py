"""Where a damaged log may begin anew so that nothing is lost. The proof is in docs/adr/0009-repair.md.

A log may be cut at the start of a segment if a durable checkpoint has all entries before it, and if the records from
there on are whole. `base` says what has to be known of what is cut off: it can be read off the last records before the
cut, although there is damage further in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raftkv.errors import CorruptLog
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.files import FileSystem, read_file
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import (
    BASE_NAME,
    SEGMENT_HEADER_BYTES,
    Flaw,
    FormatError,
    LogBase,
    RecordType,
    decode_base,
    decode_batch,
    decode_record,
    decode_segment,
    find_record,
    segment_name,
    segment_sequences,
)
from raftkv.storage.wal_recovery import RecoveredSegments, recover_from


@dataclass(frozen=True, slots=True)
class NewBase:
    """A place where the log may begin."""

    base: LogBase
    dropped: tuple[str, ...]
    """Names of the segments that count no more, damaged ones among them."""
    log: RecoveredSegments
    """What is left."""


def find_new_base(
    files: FileSystem,
    directory: Path,
    checkpoints: Iterable[tuple[Index, Term]],
    clean_tail: WalPosition | None,
    *,
    same_boot: bool = False,
) -> NewBase | None:
    """Return where the log in `directory`, which is damaged, may begin, keeping as much of it as possible.

    `checkpoints` are the entries of the checkpoints whose every byte was found right. None: there is no such place
    behind the damage, or it is not proven that nothing is lost. Changes nothing. Raises OSError.
    """
    covered = tuple(checkpoints)
    present = segment_sequences(files.names(directory))
    old = _old_base(files, directory)
    # What lies before the base is garbage, of another history perhaps: it says nothing about this log.
    sequences = [one for one in present if old is None or one >= old.segment]
    for sequence in sequences[1:]:
        end = _end_of(files, directory / segment_name(sequence - 1)) if sequence - 1 in sequences else None
        if end is None:
            continue
        base = LogBase(sequence, end.crc, end.entry.index, end.entry.term, end.hard_state)
        try:
            log = recover_from(files, directory, base, clean_tail, same_boot=same_boot)
        except CorruptLog:
            continue
        if old is None and clean_tail is None and not _chained_to_its_end(log):
            continue
        if any(_covers(checkpoint, log) for checkpoint in covered):
            dropped = tuple(segment_name(one) for one in present if one < sequence)
            return NewBase(base, dropped, log)
    return None


def _old_base(files: FileSystem, directory: Path) -> LogBase | None:
    """Return the base that the log has; None where it cannot be read."""
    if BASE_NAME not in files.names(directory):
        return None
    try:
        return decode_base(read_file(files, directory / BASE_NAME))
    except FormatError:
        return None


def _chained_to_its_end(log: RecoveredSegments) -> bool:
    """Whether the last segment holds a whole record, which names the one before it.

    A log that began anew after an install has term and vote in its base alone until something is appended to it. Its
    first record does not continue the segments of before, so where the chain holds to the end, there is no such base
    that could have been lost. (After a clean shutdown, the mark's checksum says the same.)
    """
    return log.last_record is not None and log.current == log.segments[-1]


def _covers(checkpoint: tuple[Index, Term], log: RecoveredSegments) -> bool:
    """Whether the checkpoint has all that lies before the log, and both are of one history.

    They are if the log holds the checkpoint's own entry with its term (log matching).
    """
    index, term = checkpoint
    return log.base.index <= index <= log.shape.last_index and log.shape.term_at(index) == term


@dataclass(frozen=True, slots=True)
class _End:
    crc: int
    hard_state: HardState
    entry: Entry


def _end_of(files: FileSystem, path: Path) -> _End | None:
    """Return what the records at the end of a segment say of the log up to there: those behind the last damage in it.

    None where they do not say all of it. What was appended last is last: truncation is logical.
    """
    data = read_file(files, path)
    try:
        segment = decode_segment(data)
    except FormatError:
        return None
    used = len(data.rstrip(b"\0"))
    offset, found = SEGMENT_HEADER_BYTES, None
    previous: int | None = None
    while offset < used:
        record = decode_record(data, offset, segment)
        if isinstance(record, Flaw) or (previous is not None and record.previous != previous):
            later = find_record(data, offset + 1, segment)
            if later is None:
                return None
            offset, found, previous = later.start, None, None
            continue
        try:
            batch = decode_batch(record.payload) if record.type == RecordType.BATCH else None
        except FormatError:
            batch = None
        if batch is None:
            return None
        entry = batch.entries[-1] if batch.entries else (found.entry if found else None)
        found = _End(record.crc, batch.hard_state, entry) if entry is not None else None
        offset, previous = record.end, record.crc
    return found
