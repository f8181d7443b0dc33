"""The bytes of the write-ahead log, as pure functions: docs/storage-format.md is their specification.

A segment is a header followed by records; a record is what one fdatasync made durable (docs/adr/0002). Three things
tie a record to its place, so that nothing else passes for one:

- the checksum is seeded by the segment's random nonce: bytes inside a value that look like a record do not pass,
  because their author cannot know the nonce, and neither does a record of another segment;
- it covers the record's own offset: a misdirected write does not pass;
- it covers the checksum of the record before it, across segments: no record can vanish from the middle.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

import google_crc32c

from raftkv.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.storage.log_shape import NO_HARD_STATE, NO_INDEX, NO_TERM

FORMAT_VERSION: Final = 1
BASE_NAME: Final = "base"
SEGMENT_SUFFIX: Final = ".wal"

_MAGIC: Final = b"RAFTKVWL"
_SEGMENT: Final = struct.Struct("<8sH6xQQQ")
"""Magic, format version, sequence, nonce, size of the file."""
_SEGMENT_CRC: Final = struct.Struct("<I20x")
"""Checksum of the fields before it."""
SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _SEGMENT_CRC.size

_BASE_MAGIC: Final = b"RAFTKVLB"
_BASE: Final = struct.Struct("<8sH6xQQQQQQ")
"""Magic, format version, first segment; index and term of the base; term, vote (0: none), commit."""
_BASE_END: Final = struct.Struct("<II")
"""Previous checksum of the first record, checksum of everything before this."""

_RECORD: Final = struct.Struct("<IIIIQB7x")
"""Marker, checksum, previous checksum, payload length, offset, type."""
_RECORD_CHECKED: Final = struct.Struct("<IIQB7x")
"""The part of a record's header that the checksum covers: all after itself."""
RECORD_HEADER_BYTES: Final = _RECORD.size
ALIGNMENT: Final = 8

_HARD_STATE: Final = struct.Struct("<QQQII")
"""Term, vote (0: none), commit, number of entries, zero."""
_ENTRY: Final = struct.Struct("<QQIB3x")
"""Term, index, length of the data, kind."""
_KINDS: Final = {int(kind): kind for kind in EntryKind}
BATCH_HEADER_BYTES: Final = _HARD_STATE.size
ENTRY_HEADER_BYTES: Final = _ENTRY.size


class RecordType(IntEnum):
    """What a record holds."""

    BATCH = 1
    """A hard state and 0..n entries, made durable together (raft-bugs 2)."""


class Flaw(StrEnum):
    """Why the bytes at an offset are no record of this segment."""

    MARKER = "no record marker"
    OFFSET = "a record that belongs to another offset"
    LENGTH = "a length that reaches beyond the segment"
    CHECKSUM = "checksum mismatch"
    CHAIN = "a valid record that does not follow the one before it: something between them is lost"
    PAYLOAD = "valid checksum, but a payload this version cannot read"


class FormatError(ValueError):
    """Bytes with a valid checksum that make no sense: another format version, or a bug."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The header of a segment file."""

    sequence: int
    """1, 2, 3, ... without gaps."""
    nonce: int
    """Random 64 bits, told to nobody."""
    size: int
    """Bytes of the whole file, fixed when it is created: a shorter one has lost something."""
    seed: int = field(init=False, repr=False)
    """What every checksum of the segment starts from: the header's own checksum."""
    marker: int = field(init=False, repr=False)
    """First four bytes of each record, never zero; finds records in a damaged segment at the speed of memchr."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", google_crc32c.value(self._fields()))
        object.__setattr__(self, "marker", (self.nonce & 0xFFFFFFFF) or 1)

    def _fields(self) -> bytes:
        return _SEGMENT.pack(_MAGIC, FORMAT_VERSION, self.sequence, self.nonce, self.size)

    def encode(self) -> bytes:
        return self._fields() + _SEGMENT_CRC.pack(self.seed)


class Record(NamedTuple):
    """A record that is valid by itself; whether it follows its predecessor is for the caller to compare."""

    start: int
    end: int
    crc: int
    previous: int
    type: int
    payload: bytes


class Batch(NamedTuple):
    """The payload of a BATCH record."""

    hard_state: HardState
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class LogBase:
    """The state of a log at the start of one of its segments: what has to be known once all before it is gone."""

    segment: int
    """Sequence of the segment."""
    chain: int
    """What its first record names as the checksum before it."""
    index: Index = NO_INDEX
    """The last entry before the segment..."""
    term: Term = NO_TERM
    """...and its term."""
    hard_state: HardState = NO_HARD_STATE
    """The newest hard state before the segment."""

    @classmethod
    def of_restart(cls, before: int, segment: int, hard_state: HardState, index: Index, term: Term) -> LogBase:
        """Begin a log anew, in a segment without records, where `before` is the checksum of the old log.

        The new chain starts from the base itself, so that equal ends of two logs still mean equal logs.
        """
        base = cls(segment=segment, chain=0, index=index, term=term, hard_state=hard_state)
        return replace(base, chain=google_crc32c.extend(before, base._fields()))

    def _fields(self) -> bytes:
        state = self.hard_state
        return _BASE.pack(
            *(_BASE_MAGIC, FORMAT_VERSION, self.segment, self.index, self.term),
            *(state.term, state.vote or 0, state.commit),
        )

    def encode(self) -> bytes:
        fields = self._fields()
        crc = google_crc32c.value(fields + self.chain.to_bytes(4, "little"))
        return fields + _BASE_END.pack(self.chain, crc)


def decode_base(content: bytes) -> LogBase:
    """Decode the base file. Raises FormatError."""
    if len(content) != _BASE.size + _BASE_END.size:
        raise FormatError(f"the file has {len(content)} bytes instead of {_BASE.size + _BASE_END.size}")
    magic, version, segment, index, base_term, term, vote, commit = _BASE.unpack_from(content)
    chain, _ = _BASE_END.unpack_from(content, _BASE.size)
    if magic != _BASE_MAGIC:
        raise FormatError("this is no base of a raftkv log")
    if version != FORMAT_VERSION:
        raise FormatError(f"format version {version}; this raftkv reads version {FORMAT_VERSION}")
    hard_state = HardState(term=Term(term), vote=NodeId(vote) if vote else None, commit=Index(commit))
    base = LogBase(segment=segment, chain=chain, index=Index(index), term=Term(base_term), hard_state=hard_state)
    if content != base.encode():
        raise FormatError("the base's checksum does not match")
    return base


def segment_name(sequence: int) -> str:
    return f"{sequence:016d}{SEGMENT_SUFFIX}"


def segment_sequence(name: str) -> int:
    """Invert `segment_name`. Raises FormatError for a name that it does not produce."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    if not stem.isdecimal() or segment_name(int(stem)) != name:
        raise FormatError(f"{name!r} is no segment name")
    return int(stem)


def segment_sequences(names: Iterable[str]) -> list[int]:
    """Return the sequences of the segments among the names of files, in order; what is named otherwise is none."""
    found = []
    for name in names:
        if name.endswith(SEGMENT_SUFFIX):
            with suppress(FormatError):
                found.append(segment_sequence(name))
    return sorted(found)


def decode_segment(header: bytes) -> Segment:
    """Decode a segment header. Raises FormatError."""
    if len(header) < SEGMENT_HEADER_BYTES:
        raise FormatError("the segment header is cut short")
    magic, version, sequence, nonce, size = _SEGMENT.unpack_from(header)
    if magic != _MAGIC:
        raise FormatError("this is no raftkv log segment")
    segment = Segment(sequence=sequence, nonce=nonce, size=size)
    if version != FORMAT_VERSION:
        raise FormatError(f"format version {version}; this raftkv reads version {FORMAT_VERSION}")
    if header[:SEGMENT_HEADER_BYTES] != segment.encode():
        raise FormatError("the segment header's checksum does not match")
    return segment


def record_bytes(payload_bytes: int) -> int:
    """Return the room that a record with such a payload takes, padding included."""
    return (RECORD_HEADER_BYTES + payload_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def encode_record(segment: Segment, offset: int, previous: int, kind: RecordType, payload: bytes) -> tuple[bytes, int]:
    """Return the record's bytes and its checksum, which the next record names as its previous one."""
    body = payload.ljust(record_bytes(len(payload)) - RECORD_HEADER_BYTES, b"\0")
    crc = google_crc32c.extend(segment.seed, _RECORD_CHECKED.pack(previous, len(payload), offset, kind))
    crc = google_crc32c.extend(crc, body)
    return _RECORD.pack(segment.marker, crc, previous, len(payload), offset, kind) + body, crc


def decode_record(image: bytes, offset: int, segment: Segment, *, base: int = 0) -> Record | Flaw:
    """Decode the record at `offset` of a segment's bytes, judged by itself. `image` begins at `base` of the segment,
    and `offset` counts from there, as do start and end of what is returned.
    """
    if offset + RECORD_HEADER_BYTES > len(image):
        return Flaw.LENGTH
    marker, crc, previous, length, own_offset, kind = _RECORD.unpack_from(image, offset)
    if marker != segment.marker:
        return Flaw.MARKER
    if own_offset != base + offset:
        return Flaw.OFFSET
    # As `record_bytes`.
    end = offset + (RECORD_HEADER_BYTES + length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    if end > len(image):
        return Flaw.LENGTH
    # From the bytes, not from the fields: a flipped bit in the header's padding must not go unnoticed.
    checked = image[offset + RECORD_HEADER_BYTES - _RECORD_CHECKED.size : end]
    if google_crc32c.extend(segment.seed, checked) != crc:
        return Flaw.CHECKSUM
    payload_at = offset + RECORD_HEADER_BYTES
    return Record(offset, end, crc, previous, kind, image[payload_at : payload_at + length])


def record_end(image: bytes, offset: int) -> int:
    """Return where the record at `offset` says that it ends; to be believed only if its marker and offset are right.

    Those enclose the length, so a torn write that left both of them left the length too.
    """
    return offset + record_bytes(int(_RECORD.unpack_from(image, offset)[3]))


def may_be_cut_short(image: bytes, offset: int, used: int, segment: Segment, previous: int) -> bool:
    """Whether an invalid record may be the beginning of one that was being written after that with the CRC `previous`.

    From `used` on, all is zero. So it is if the header is not all there; if all that is there of it is right, and the
    payload does not go on to its end; or if the zeroing of such a one was interrupted, which goes from its start on.
    """
    if used <= offset + RECORD_HEADER_BYTES:
        return True
    marker, _, named, length, own_offset, _ = _RECORD.unpack_from(image, offset)
    if marker == 0:
        return True
    payload_end = offset + RECORD_HEADER_BYTES + length
    right = (marker, named, own_offset) == (segment.marker, previous, offset)
    return right and used < payload_end <= len(image)


def find_record(image: bytes, start: int, segment: Segment) -> Record | None:
    """Return the first valid record at an aligned offset from `start` on, whatever lies in between."""
    needle = segment.marker.to_bytes(4, "little")
    found = image.find(needle, start)
    while found >= 0:
        if found % ALIGNMENT == 0:
            record = decode_record(image, found, segment)
            if isinstance(record, Record):
                return record
        found = image.find(needle, found + 1)
    return None


def encode_batch(hard_state: HardState, entries: Sequence[Entry]) -> bytes:
    """Encode the payload of a BATCH record."""
    parts = [_HARD_STATE.pack(hard_state.term, hard_state.vote or 0, hard_state.commit, len(entries), 0)]
    for entry in entries:
        parts.append(_ENTRY.pack(entry.term, entry.index, len(entry.data), entry.kind))
        parts.append(entry.data)
    return b"".join(parts)


def decode_batch(payload: bytes) -> Batch:
    """Decode the payload of a BATCH record. Raises FormatError."""
    # Written out: a log of small writes has a million of these, and a start waits for them.
    size, offset, entries = len(payload), BATCH_HEADER_BYTES, []
    try:
        term, vote, commit, count, _ = _HARD_STATE.unpack_from(payload)
        for _ in range(count):
            entry_term, index, length, kind = _ENTRY.unpack_from(payload, offset)
            offset += ENTRY_HEADER_BYTES
            end = offset + length
            if end > size:
                raise FormatError("an entry reaches beyond its record")
            entries.append(Entry(entry_term, index, _KINDS[kind], payload[offset:end]))
            offset = end
    except struct.error as error:
        raise FormatError(str(error)) from error
    except KeyError as error:
        raise FormatError(f"{error} is not a valid EntryKind") from error
    if offset != size:
        raise FormatError(f"{size - offset} bytes follow the last entry")
    return Batch(HardState(term, vote or None, commit), tuple(entries))


def split_batch(hard_state: HardState, entries: Sequence[Entry], limit_bytes: int) -> Iterator[Batch]:
    """Cut a batch into record-sized ones that may be made durable one after the other.

    A crash between two of them must leave a legal log: so term and vote come with the first, a prefix of the entries
    is always legal, and the commit hint never names an entry of a later part. An entry larger than the limit is
    not cut: it gets a record of its own.
    """
    first, size = 0, BATCH_HEADER_BYTES
    for position, entry in enumerate(entries):
        entry_bytes = ENTRY_HEADER_BYTES + len(entry.data)
        if position > first and size + entry_bytes > limit_bytes:
            yield _part(hard_state, entries[first:position])
            first, size = position, BATCH_HEADER_BYTES
        size += entry_bytes
    if first == 0:
        yield Batch(hard_state=hard_state, entries=tuple(entries))
    else:
        yield _part(hard_state, entries[first:])


def _part(hard_state: HardState, entries: Sequence[Entry]) -> Batch:
    commit = min(hard_state.commit, entries[-1].index)
    return Batch(
        hard_state=HardState(term=hard_state.term, vote=hard_state.vote, commit=commit), entries=tuple(entries)
    )
