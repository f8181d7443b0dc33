"""Reads a log back and judges what it finds. Decides only: it changes nothing on the disk.

The rule (docs/adr/0002, raft-bugs 34 and 38): one record is one fdatasync, and the next is not begun before it
returned. So a crash can damage the last record only. Damage with anything valid after it, or in front of the segment
written last, is corruption of confirmed data: CorruptLog, never a truncation.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from raftkv.errors import CorruptLog
from raftkv.invariant import InvariantViolation
from raftkv.raft.types import Entry, HardState, Index
from raftkv.storage.files import FileSystem, file_size, read_file
from raftkv.storage.log_shape import NO_INDEX, LogShape
from raftkv.storage.progress import STEP_BYTES, UNHEARD, Phase, Progress
from raftkv.storage.protocols import RESTORE_FROM_PEERS, WalPosition
from raftkv.storage.wal_format import (
    BASE_NAME,
    SEGMENT_HEADER_BYTES,
    SEGMENT_SUFFIX,
    Flaw,
    FormatError,
    LogBase,
    Record,
    RecordType,
    Segment,
    decode_base,
    decode_batch,
    decode_record,
    decode_segment,
    find_record,
    may_be_cut_short,
    record_end,
    segment_name,
    segment_sequence,
)

FIRST_SEQUENCE = 1
"""Sequence of the oldest segment of a log that was neither compacted nor restarted."""

_ZERO_BLOCK = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class TornTail:
    """An unconfirmed write that a crash left behind: [start, stop) of the segment written last."""

    start: int
    stop: int
    flaw: Flaw


@dataclass(frozen=True, slots=True)
class RecoveredSegments:
    """What the directory holds, and what is to be done before it is written again."""

    segments: tuple[Segment, ...]
    current: Segment
    """The segment written last: appending goes on in it. At most one empty segment, prepared ahead, follows."""
    tail: WalPosition
    """Where appending goes on."""
    last_record: tuple[int, bytes] | None
    """Offset and bytes of the last record of `current`."""
    torn: TornTail | None
    shape: LogShape
    entries: list[Entry]
    marks: tuple[LogBase, ...]
    """Where the log may be cut, the base first: nothing after such a place reaches back behind it."""
    garbage: tuple[int, ...]
    """Sequences of segments before the base, which a crash kept from being deleted. Not among `segments`."""

    @property
    def base(self) -> LogBase:
        return self.marks[0]

    @property
    def hard_state(self) -> HardState:
        return self.shape.hard_state


@dataclass(frozen=True, slots=True)
class _Image:
    """A segment file in memory."""

    path: Path
    segment: Segment
    data: bytes
    used: int
    """Everything from here on is zero."""

    @property
    def empty(self) -> bool:
        return self.used <= SEGMENT_HEADER_BYTES


def recover(
    files: FileSystem,
    directory: Path,
    clean_tail: WalPosition | None = None,
    progress: Progress = UNHEARD,
    *,
    same_boot: bool = False,
) -> RecoveredSegments | None:
    """Read the log in `directory`; None when it has no segment and no base yet.

    `clean_tail` is where a clean shutdown left the log: then every byte up to it was confirmed, and any other end is
    corruption. With `same_boot` the machine has run on since the last run: a write that came back is there, whole, so
    only what may be the beginning of a record is torn, and a whole one that is damaged is corruption.

    Raises CorruptLog, naming segment, offset, what is wrong, what is lost and the way out; and OSError.
    """
    sequences = _sequences(files, directory)
    base = _read_base(files, directory)
    if not sequences and base is None:
        if clean_tail is not None:
            _refuse(directory / segment_name(FIRST_SEQUENCE), 0, "the segment is missing", Index(0))
        return None
    recovery = _Recovery(files, directory, sequences, base or LogBase(segment=FIRST_SEQUENCE, chain=0), same_boot)
    with progress.phase("reading the log", recovery.size_bytes()) as phase:
        return recovery.run(clean_tail, phase)


def recover_from(
    files: FileSystem, directory: Path, base: LogBase, clean_tail: WalPosition | None, *, same_boot: bool = False
) -> RecoveredSegments:
    """Read the log in `directory` as if it began with `base`, whatever its own base says. As `recover`."""
    recovery = _Recovery(files, directory, _sequences(files, directory), base, same_boot)
    with UNHEARD.phase("reading the log", recovery.size_bytes()) as phase:
        return recovery.run(clean_tail, phase)


def _read_base(files: FileSystem, directory: Path) -> LogBase | None:
    path = directory / BASE_NAME
    if BASE_NAME not in files.names(directory):
        return None
    try:
        return decode_base(read_file(files, path))
    except FormatError as error:
        _refuse(path, 0, str(error), None)


def _sequences(files: FileSystem, directory: Path) -> list[int]:
    found = []
    for name in files.names(directory):
        if name.endswith(SEGMENT_SUFFIX):
            try:
                found.append(segment_sequence(name))
            except FormatError as error:
                _refuse(directory / name, 0, str(error), None)
    return sorted(found)


def _refuse(path: Path, offset: int, problem: str, last_good: Index | None, last_seen: Index = NO_INDEX) -> NoReturn:
    """`last_good`: the last entry that was read; None: nothing has been yet."""
    lost = f"entries {last_good + 1} to {last_seen}" if last_good is not None and last_seen > last_good else ""
    readable = "" if last_good is None else f"Entries up to {last_good} are readable; "
    lost = lost or ("What the log holds" if last_good is None else "what follows")
    raise CorruptLog(
        f"the write-ahead log is corrupt: {path}, byte offset {offset}: {problem}. {readable}{lost} may include "
        f"acknowledged writes, so nothing was cut off. {RESTORE_FROM_PEERS}"
    )


class _Recovery:
    def __init__(
        self, files: FileSystem, directory: Path, sequences: list[int], base: LogBase, same_boot: bool
    ) -> None:
        self._same_boot = same_boot
        self._files = files
        self._directory = directory
        self._sequences = [sequence for sequence in sequences if sequence >= base.segment]
        self._garbage = tuple(sequence for sequence in sequences if sequence < base.segment)
        self._base = base
        self._shape = LogShape(base.index, base.term, base.hard_state)
        self._entries: list[Entry] = []
        self._crc = base.chain
        self._marks: list[LogBase] = []

    def size_bytes(self) -> int:
        """Bytes of the segments to read."""
        return sum(file_size(self._files, self._path(sequence)) for sequence in self._sequences)

    def run(self, clean_tail: WalPosition | None, phase: Phase) -> RecoveredSegments:
        if not self._sequences:
            self._refuse(self._path(self._base.segment), 0, f"the segment is missing, though {BASE_NAME} names it")
        segments: list[Segment] = []
        before: _Image | None = None
        written: _Image | None = None
        last: Record | None = None
        end, torn = SEGMENT_HEADER_BYTES, None
        for expected, sequence in enumerate(self._sequences, self._base.segment):
            if sequence != expected:
                # Only here: what is before the gap has been read, and counts as readable.
                self._refuse(self._path(expected), 0, f"the segment is missing, though {segment_name(sequence)} exists")
            image = self._load(sequence)
            segments.append(image.segment)
            if before is not None and before.empty:
                # One segment at most is prepared ahead, and only once the one before it holds something.
                self._refuse(before.path, SEGMENT_HEADER_BYTES, f"no records, though {image.path.name} exists")
            if before is None or not image.empty:
                if before is not None and torn is not None:
                    # The next segment was begun, so everything in this one had been confirmed (raft-bugs 35).
                    self._refuse(before.path, torn.start, f"{torn.flaw}, in a segment that is not the last one")
                written = image
                self._mark(sequence)
                last, end, torn = self._replay(image, phase)
            else:
                phase.advance(len(image.data))
            before = image
        if written is None:
            raise InvariantViolation("a log that has a segment has a first one")
        tail = WalPosition(segment=written.segment.sequence, offset=end, crc=self._crc)
        if clean_tail is not None and (torn is not None or not self._same_end(tail, clean_tail)):
            self._refuse(
                written.path, end, f"the log ends here, but a clean shutdown left its end at {_describe(clean_tail)}"
            )
        # What lies before the base is committed, whatever the last hint said.
        state = self._shape.hard_state
        self._shape.hard_state = replace(state, commit=max(state.commit, self._base.index))
        return RecoveredSegments(
            segments=tuple(segments),
            current=written.segment,
            tail=tail,
            last_record=(last.start, written.data[last.start : last.end]) if last else None,
            torn=torn,
            shape=self._shape,
            entries=self._entries,
            marks=tuple(self._marks),
            garbage=self._garbage,
        )

    def _same_end(self, tail: WalPosition, clean_tail: WalPosition) -> bool:
        """Whether the log ends where a clean shutdown left it.

        Behind the last record of one segment, and at the beginning of the empty one after it, is the same place: there
        the log ends when the first record of a segment was torn, and cut by a recovery that appended nothing after it.
        """
        beginning = WalPosition(segment=tail.segment + 1, offset=SEGMENT_HEADER_BYTES, crc=tail.crc)
        return clean_tail == tail or (clean_tail == beginning and beginning.segment in self._sequences)

    def _mark(self, sequence: int) -> None:
        shape = self._shape
        last = shape.last_index
        self._marks.append(LogBase(sequence, self._crc, last, shape.term_at(last), shape.hard_state))

    def _load(self, sequence: int) -> _Image:
        path = self._path(sequence)
        data = read_file(self._files, path)
        try:
            segment = decode_segment(data)
        except FormatError as error:
            self._refuse(path, 0, str(error))
        if segment.sequence != sequence:
            self._refuse(path, 0, f"the header is that of segment {segment.sequence}")
        if segment.size != len(data):
            self._refuse(path, len(data), f"the file has {len(data)} bytes, but was created with {segment.size}")
        return _Image(path=path, segment=segment, data=data, used=_used(data))

    def _replay(self, image: _Image, phase: Phase) -> tuple[Record | None, int, TornTail | None]:
        """Take over the segment's records; return the last one, where they end, and what is torn after them."""
        last: Record | None = None
        offset, told = SEGMENT_HEADER_BYTES, 0
        while offset < image.used:
            if offset - told >= STEP_BYTES:
                phase.advance(offset - told)
                told = offset
            record = decode_record(image.data, offset, image.segment)
            if isinstance(record, Flaw):
                later = find_record(image.data, offset + 1, image.segment)
                if later is not None:
                    self._refuse(image.path, offset, f"{record}, though a valid record follows at {later.start}")
                if record is Flaw.CHECKSUM and image.used > record_end(image.data, offset):
                    # A write does not reach beyond its own record: these bytes are of a later one.
                    self._refuse(image.path, offset, f"{record}, though more was written after this record")
                if self._same_boot and not may_be_cut_short(image.data, offset, image.used, image.segment, self._crc):
                    self._refuse(
                        image.path,
                        offset,
                        f"{record}. It is no write that was cut short, and the machine has not stopped since",
                    )
                return last, offset, TornTail(start=offset, stop=image.used, flaw=record)
            if record.previous != self._crc:
                self._refuse(image.path, offset, Flaw.CHAIN)
            self._take(image, record)
            self._crc = record.crc
            last, offset = record, record.end
        phase.advance(len(image.data) - told)
        return last, offset, None

    def _take(self, image: _Image, record: Record) -> None:
        if record.type != RecordType.BATCH:
            self._refuse(image.path, record.start, f"{Flaw.PAYLOAD}: record type {record.type}")
        try:
            batch = decode_batch(record.payload)
        except FormatError as error:
            self._refuse(image.path, record.start, f"{Flaw.PAYLOAD}: {error}")
        problem = self._shape.violation(batch.hard_state, batch.entries)
        if problem is not None:
            self._refuse(image.path, record.start, problem)
        self._shape.advance(batch.hard_state, batch.entries)
        if batch.entries:
            # Truncation is logical: the later record wins (raft-bugs 36).
            first = batch.entries[0].index
            while self._marks[-1].index >= first:
                self._marks.pop()
            del self._entries[first - self._shape.first_index :]
            self._entries.extend(batch.entries)

    def _path(self, sequence: int) -> Path:
        return self._directory / segment_name(sequence)

    def _refuse(self, path: Path, offset: int, problem: str) -> NoReturn:
        _refuse(path, offset, problem, self._shape.last_index, self._last_seen(path, offset))

    def _last_seen(self, path: Path, offset: int) -> Index:
        """Return the last entry that can still be read behind the damage, to say what is at stake; 0: none."""
        seen = NO_INDEX
        for sequence in self._sequences:
            behind = self._path(sequence)
            if behind.name < path.name:
                continue
            data = read_file(self._files, behind)
            with suppress(FormatError):
                segment = decode_segment(data)
                start = offset + 1 if behind == path else SEGMENT_HEADER_BYTES
                while (record := find_record(data, start, segment)) is not None:
                    entries = decode_batch(record.payload).entries if record.type == RecordType.BATCH else ()
                    seen = max(seen, entries[-1].index) if entries else seen
                    start = record.end
        return seen


def _used(data: bytes) -> int:
    """Return the length without the zeros at the end. Block by block: most of a segment may be unused."""
    stop = len(data)
    while stop >= len(_ZERO_BLOCK) and data.startswith(_ZERO_BLOCK, stop - len(_ZERO_BLOCK)):
        stop -= len(_ZERO_BLOCK)
    start = max(0, stop - len(_ZERO_BLOCK))
    return start + len(data[start:stop].rstrip(b"\0"))


def _describe(position: WalPosition) -> str:
    return f"{segment_name(position.segment)}, byte offset {position.offset}, checksum {position.crc:08x}"
