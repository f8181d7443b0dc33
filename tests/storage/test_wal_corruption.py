"""Damage to confirmed data is refused and left as it is; only the tail of an unconfirmed write is ever cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CorruptLog
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import (
    SEGMENT_HEADER_BYTES,
    RecordType,
    Segment,
    decode_segment,
    encode_batch,
    encode_record,
)
from raftkv.storage.wal_segments import SegmentWriter
from tests.storage.simdisk import SimDisk
from tests.storage.support import LOG, Place, entry, hard, open_log, records, run, segment_path


def three_segments() -> tuple[SimDisk, SegmentWriter]:
    """Nine records over three segments, and a fourth one prepared."""
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 10):
        writer.append(hard(1), run(1, index, index, bytes([index]) * 200))
        if writer.wants_next():
            writer.prepare_next()
    assert disk.names(LOG) == [segment_path(sequence).name for sequence in (1, 2, 3, 4)]
    return disk, writer


def assert_refused(disk: SimDisk, message: str, clean_tail: WalPosition | None = None) -> None:
    """Refused every time it is tried, with the way out, and nothing changed."""
    before = disk.image()
    for _ in range(2):
        with pytest.raises(CorruptLog, match=message) as refused:
            open_log(disk, segment_bytes=1024, clean_tail=clean_tail)
        assert "The way out: `raftkv repair --data-dir" in str(refused.value)
    assert disk.image() == before


def test_bug_38_midlog_corruption_is_refused() -> None:
    disk, _ = three_segments()
    places = records(disk)
    assert len(places) == 9
    for lost, place in enumerate(places[:-1]):
        for offset in range(place.start, place.end):
            disk.flip_bit(place.path, offset, offset % 8)
            good = f"{re.escape(str(place.path))}, byte offset {place.start}: .* up to {lost} are"
            with pytest.raises(CorruptLog, match=good):
                open_log(disk, segment_bytes=1024)
            disk.flip_bit(place.path, offset, offset % 8)
    _, found = open_log(disk, segment_bytes=1024)
    assert len(found.entries) == 9


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_bug_38_any_damage_before_the_last_record_is_refused(seed: int) -> None:
    random = Random(seed)
    disk, _ = three_segments()
    place = random.choice(records(disk)[:-1])
    start = random.randrange(place.start, place.end)
    stop = random.randint(start + 1, place.end)
    damage = random.choice((bytes(stop - start), b"\xff" * (stop - start), random.randbytes(stop - start)))
    if damage == disk.content(place.path)[start:stop]:
        return
    disk.overwrite(place.path, start, damage)
    assert_refused(disk, "corrupt")


def test_bug_38_a_damaged_record_with_a_torn_one_after_it_is_refused() -> None:
    disk, writer = three_segments()
    writer.append(hard(1), run(1, 10, 10, b"x" * 8))
    confirmed, torn = records(disk)[-2:]
    assert confirmed.path == torn.path
    disk.overwrite(torn.path, torn.end - 8, bytes(8))
    disk.flip_bit(confirmed.path, confirmed.start + 100)
    assert_refused(disk, "more was written after this record")


def test_the_last_record_alone_is_beyond_telling_from_a_torn_write() -> None:
    disk, _ = three_segments()
    last = records(disk)[-1]
    disk.flip_bit(last.path, last.end - 20)
    _, found = open_log(disk, segment_bytes=1024)
    assert found.torn is not None
    assert len(found.entries) == 8


def test_on_the_same_boot_a_whole_record_that_is_damaged_is_not_cut_off() -> None:
    """Only the process has died: what it had written is there. The record may hold a vote that was answered."""
    disk, _ = three_segments()
    last = records(disk)[-1]
    used = len(disk.content(last.path).rstrip(b"\0"))
    # Not found: a last byte that has become zero, and a length that has grown. Then part of it looks as if not written.
    grown = range(last.start + 12, last.start + 16)
    for offset in range(last.start, used - 1):
        if offset in grown:
            continue
        disk.flip_bit(last.path, offset, offset % 8)
        with pytest.raises(CorruptLog, match=r"the machine has not stopped since|more was written after"):
            open_log(disk, segment_bytes=1024, same_boot=True)
        disk.flip_bit(last.path, offset, offset % 8)
    _, found = open_log(disk, segment_bytes=1024, same_boot=True)
    assert found.torn is None


def test_on_the_same_boot_a_write_that_was_cut_short_is_torn_as_ever() -> None:
    """At every byte; and so is what an interrupted recovery leaves of it, which zeroes it from its start on."""
    disk, _ = three_segments()
    last = records(disk)[-1]
    content = disk.content(last.path)[last.start : last.end]
    whole = len(content.rstrip(b"\0"))
    for cut in range(1, whole):
        disk.overwrite(last.path, last.start, content[:cut].ljust(len(content), b"\0"))
        _, found = open_log(disk, segment_bytes=1024, same_boot=True)
        assert found.torn is not None
        for zeroed in range(4, cut, 64):
            disk.overwrite(last.path, last.start, (bytes(zeroed) + content[zeroed:cut]).ljust(len(content), b"\0"))
            _, found = open_log(disk, segment_bytes=1024, same_boot=True)
            assert found.tail.offset == last.start


def test_after_a_clean_shutdown_damage_to_the_last_record_is_refused_too() -> None:
    disk, writer = three_segments()
    last = records(disk)[-1]
    for offset in range(last.start, last.end):
        disk.flip_bit(last.path, offset, offset % 8)
        assert_refused(disk, f"byte offset {last.start}: .*clean shutdown", writer.tail)
        disk.flip_bit(last.path, offset, offset % 8)


def test_after_a_clean_shutdown_a_log_that_ends_earlier_is_refused() -> None:
    disk, writer = three_segments()
    last = records(disk)[-1]
    disk.overwrite(last.path, last.start, bytes(last.end - last.start))
    assert_refused(disk, "clean shutdown", writer.tail)
    _, found = open_log(disk, segment_bytes=1024)
    assert len(found.entries) == 8


def test_after_a_clean_shutdown_bytes_behind_the_end_are_refused() -> None:
    disk, writer = three_segments()
    disk.overwrite(segment_path(3), writer.tail.offset + 16, b"stray")
    assert_refused(disk, f"0003.wal, byte offset {writer.tail.offset}: .*clean shutdown", writer.tail)


def test_after_a_clean_shutdown_an_empty_directory_is_refused() -> None:
    disk = SimDisk()
    assert_refused(disk, "the segment is missing", WalPosition(segment=1, offset=SEGMENT_HEADER_BYTES, crc=0))


def lose_first_segment(disk: SimDisk) -> None:
    disk.remove(segment_path(1))


def lose_middle_segment(disk: SimDisk) -> None:
    disk.remove(segment_path(2))


def blank_middle_segment(disk: SimDisk) -> None:
    disk.overwrite(segment_path(2), SEGMENT_HEADER_BYTES, bytes(1024 - SEGMENT_HEADER_BYTES))


def blank_first_segment(disk: SimDisk) -> None:
    disk.overwrite(segment_path(1), SEGMENT_HEADER_BYTES, bytes(1024 - SEGMENT_HEADER_BYTES))


def blank_last_written_segment(disk: SimDisk) -> None:
    disk.overwrite(segment_path(3), SEGMENT_HEADER_BYTES, bytes(1024 - SEGMENT_HEADER_BYTES))


def lose_end_of_middle_segment(disk: SimDisk) -> None:
    disk.truncate(segment_path(2), 700)


def lose_end_of_last_segment(disk: SimDisk) -> None:
    place = records(disk)[-1]
    disk.truncate(place.path, place.start)


def swap_segments(disk: SimDisk) -> None:
    second, third = disk.content(segment_path(2)), disk.content(segment_path(3))
    disk.overwrite(segment_path(2), 0, third)
    disk.overwrite(segment_path(3), 0, second)


def drop_a_record_with_its_bytes(disk: SimDisk) -> None:
    place = records(disk)[-2]
    disk.overwrite(place.path, place.start, bytes(place.end - place.start))


def drop_the_last_record_of_a_segment(disk: SimDisk) -> None:
    place = [place for place in records(disk) if place.path == segment_path(1)][-1]
    disk.overwrite(place.path, place.start, bytes(place.end - place.start))


def damage_a_segment_header(disk: SimDisk) -> None:
    disk.flip_bit(segment_path(2), 20)


def damage_the_prepared_segment(disk: SimDisk) -> None:
    disk.flip_bit(segment_path(4), 20)


def misdirected_write(disk: SimDisk) -> None:
    first, second = records(disk)[:2]
    disk.overwrite(second.path, second.start, disk.content(first.path)[first.start : first.end])


def foreign_name(disk: SimDisk) -> None:
    disk.rename(segment_path(4), LOG / "copy-of-4.wal")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_first_segment, "0001.wal, byte offset 0: the segment is missing, .* Entries up to 0 "),
        (lose_middle_segment, "0002.wal, byte offset 0: the segment is missing, .* Entries up to 3 .* 4 to 9 may "),
        (blank_first_segment, "0001.wal, byte offset 64: no records"),
        (blank_middle_segment, "0002.wal, byte offset 64: no records, .* Entries up to 3 "),
        (blank_last_written_segment, "0003.wal, byte offset 64: no records, .* Entries up to 6 "),
        (lose_end_of_middle_segment, "0002.wal, byte offset 700: the file has 700 bytes"),
        (lose_end_of_last_segment, "0003.wal, byte offset .*: the file has"),
        (swap_segments, "0002.wal, byte offset 0: the header is that of segment 3"),
        (drop_a_record_with_its_bytes, "0003.wal, .*no record marker, though a valid record follows"),
        (drop_the_last_record_of_a_segment, "0002.wal, byte offset 64: a valid record that does not follow"),
        (damage_a_segment_header, "0002.wal, byte offset 0: the segment header's checksum"),
        (damage_the_prepared_segment, "0004.wal, byte offset 0: the segment header's checksum"),
        (misdirected_write, "0001.wal, byte offset .*: a record that belongs to another offset"),
        (foreign_name, "copy-of-4.wal.* What the log holds may include acknowledged writes"),
    ],
)
def test_bug_38_lost_files_and_records_are_refused(damage: Callable[[SimDisk], None], message: str) -> None:
    disk, _ = three_segments()
    damage(disk)
    assert_refused(disk, message)


def test_bug_35_an_unsynced_end_of_an_older_segment_is_refused() -> None:
    # What yugabyte#3490 left behind: the next segment is there, the last pages of the one before it are not.
    disk, _ = three_segments()
    place = [place for place in records(disk) if place.path == segment_path(2)][-1]
    disk.overwrite(place.path, place.end - 100, bytes(100))
    assert_refused(disk, "0002.wal, .*not the last one")


def append_raw(disk: SimDisk, segment: Segment, at: int, previous: int, payload: bytes) -> None:
    record, _ = encode_record(segment, at, previous, RecordType.BATCH, payload)
    disk.overwrite(segment_path(segment.sequence), at, record)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"no batch", "cannot read"),
        (encode_batch(hard(2), ()) + b"more", "4 bytes follow"),
        (encode_batch(hard(1), ()), "the term goes back from 2 to 1"),
        (encode_batch(hard(2, 4), ()), "the vote in term 2 changes from 3 to 4"),
        (encode_batch(hard(2, 3, 9), ()), "commit index 9 lies beyond"),
        (encode_batch(hard(2, 3, 1), run(2, 5, 5)), "entry 5 leaves a gap after entry 2"),
        (encode_batch(hard(2, 3, 1), run(2, 1, 1)), "entry 1 replaces a committed one"),
        (encode_batch(hard(2, 3, 1), (entry(1, 3),)), "the term of entry 3 is 1, below"),
        (encode_batch(hard(2, 3, 1), (entry(3, 3),)), "an entry of term 3 with the node in term 2"),
        (encode_batch(hard(2, 3, 1), (entry(2, 3), entry(2, 5))), "entry 5 where entry 4 is due"),
    ],
)
def test_a_valid_record_that_makes_no_sense_is_refused(payload: bytes, message: str) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(2, 3, 1), run(2, 1, 2))
    segment = decode_segment(disk.content(segment_path(1)))
    append_raw(disk, segment, writer.tail.offset, writer.tail.crc, payload)
    with pytest.raises(CorruptLog, match=message):
        open_log(disk)


def test_a_value_that_looks_like_a_record_is_none() -> None:
    """The reason for the nonce: the tail is torn, and inside its value lies what would be a valid record elsewhere."""
    for nonce in (1, 0xDEADBEEF):
        disk = SimDisk()
        writer, _ = open_log(disk)
        writer.append(hard(1), run(1, 1, 1))
        at = writer.tail.offset + 32 + 32 + 24
        fake, _ = encode_record(
            Segment(sequence=1, nonce=nonce, size=4096), at, 0, RecordType.BATCH, encode_batch(hard(9), ())
        )
        writer.append(hard(1), (entry(1, 2, fake + bytes(600)),))
        torn = records(disk)[-1]
        assert disk.content(torn.path)[at : at + len(fake)] == fake
        disk.flip_bit(torn.path, torn.end - 9)
        _, found = open_log(disk)
        assert found.torn is not None
        assert len(found.entries) == 1
        assert found.hard_state == hard(1)


def test_a_record_of_another_segment_is_none() -> None:
    disk, _ = three_segments()
    for other in (1, 2):
        source = next(place for place in records(disk) if place.path == segment_path(other))
        last: Place = records(disk)[-1]
        before = disk.content(last.path)
        disk.overwrite(last.path, last.end, disk.content(source.path)[source.start : source.end][: 1024 - last.end])
        _, found = open_log(disk, segment_bytes=1024)
        assert found.torn is not None
        assert len(found.entries) == 9
        disk.overwrite(last.path, 0, before)


def test_the_message_names_file_offset_loss_and_way_out() -> None:
    disk, _ = three_segments()
    place = records(disk)[1]
    disk.flip_bit(place.path, place.start + 50)
    with pytest.raises(CorruptLog) as refused:
        open_log(disk, segment_bytes=1024)
    text = str(refused.value)
    assert str(Path("/log/0000000000000001.wal")) in text
    assert f"byte offset {place.start}: checksum mismatch" in text
    assert "Entries up to 1 are readable" in text
    assert "The way out: `raftkv repair" in text
