"""What the tests of the log share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from raftkv.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import SEGMENT_HEADER_BYTES, Record, decode_record, decode_segment, segment_name
from raftkv.storage.wal_recovery import RecoveredSegments
from raftkv.storage.wal_segments import SegmentWriter, open_segments
from tests.storage.simdisk import SimDisk

LOG = Path("/log")


def hard(term: int, vote: int | None = None, commit: int = 0) -> HardState:
    return HardState(term=Term(term), vote=NodeId(vote) if vote else None, commit=Index(commit))


def entry(term: int, index: int, data: bytes = b"") -> Entry:
    return Entry(term=Term(term), index=Index(index), kind=EntryKind.COMMANDS, data=data)


def run(term: int, first: int, last: int, data: bytes = b"data") -> tuple[Entry, ...]:
    return tuple(entry(term, index, data) for index in range(first, last + 1))


def open_log(
    disk: SimDisk,
    *,
    segment_bytes: int = 4096,
    record_limit_bytes: int = 1 << 20,
    clean_tail: WalPosition | None = None,
    same_boot: bool = False,
    seed: int = 0,
) -> tuple[SegmentWriter, RecoveredSegments]:
    """Open the synchronous part of the WAL; of an empty log, return what reading it back would."""
    random = Random(f"{seed}/{len(disk.trace)}")
    writer, found = open_segments(
        disk,
        LOG,
        segment_bytes=segment_bytes,
        record_limit_bytes=record_limit_bytes,
        make_nonce=lambda: random.getrandbits(64),
        clean_tail=clean_tail,
        same_boot=same_boot,
    )
    if found is None:
        _, found = open_segments(
            disk,
            LOG,
            segment_bytes=segment_bytes,
            record_limit_bytes=record_limit_bytes,
            make_nonce=lambda: 1,
            clean_tail=None,
        )
        assert found is not None
    return writer, found


@dataclass(frozen=True)
class Place:
    """Where a record lies."""

    path: Path
    start: int
    end: int


def records(disk: SimDisk) -> list[Place]:
    """Find every record of the log, reading it as the format document says."""
    return [place for name in disk.names(LOG) if name.endswith(".wal") for place in _records(disk, LOG / name)]


def _records(disk: SimDisk, path: Path) -> Iterator[Place]:
    image = disk.content(path)
    segment = decode_segment(image)
    offset = SEGMENT_HEADER_BYTES
    while isinstance(record := decode_record(image, offset, segment), Record):
        yield Place(path, record.start, record.end)
        offset = record.end


def segment_path(sequence: int) -> Path:
    return LOG / segment_name(sequence)
