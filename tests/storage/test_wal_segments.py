"""Creating, filling and rolling segments; and what a failing disk does to the log."""

from __future__ import annotations

import errno
from random import Random

import pytest

from raftkv.errors import StorageError
from raftkv.storage import wal_segments
from raftkv.storage.wal_format import SEGMENT_HEADER_BYTES
from tests.storage.simdisk import SimDisk
from tests.storage.support import LOG, entry, hard, open_log, records, run, segment_path


def test_bug_33_directory_fsynced_after_rename() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    writer.append(hard(1), run(1, 1, 1, b"x" * 700))
    created = disk.trace.index("create .tmp")
    assert disk.trace[created : created + 6] == [
        "create .tmp",
        "fallocate",
        "pwrite",
        "fdatasync",
        "rename",
        "fsync_dir",
    ]
    # The second segment goes the same way, before the record that it is made for.
    before = len(disk.trace)
    writer.append(hard(1), run(1, 2, 2, b"x" * 700))
    assert disk.trace[before:] == [*disk.trace[created : created + 6], "pwrite", "pwrite", "fdatasync"]
    for seed in range(10):
        disk.lose_power(Random(seed))
        assert len(open_log(disk, segment_bytes=1024)[1].entries) == 2


def test_bug_35_segment_rolled_only_when_the_old_one_is_synced() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 20):
        writer.append(hard(1), run(1, index, index, b"x" * 200))
        assert disk.unsynced() == []
        if writer.wants_next():
            writer.prepare_next()
    assert len(disk.names(LOG)) > 4


def test_rolling_into_a_prepared_segment_touches_no_metadata() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    writer.append(hard(1), run(1, 1, 1, b"x" * 700))
    assert writer.wants_next()
    writer.prepare_next()
    assert not writer.wants_next()
    before = len(disk.trace)
    writer.append(hard(1), run(1, 2, 2, b"x" * 700))
    assert disk.trace[before:] == ["pwrite", "pwrite", "fdatasync"]  # zeros ahead, the record, and no name
    assert records(disk)[-1].path == segment_path(2)
    assert writer.wants_next()


def test_zeros_are_written_ahead_of_records_and_never_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_segments, "ZERO_AHEAD_BYTES", 1000)
    disk = SimDisk()
    for start in (1, 11, 21):  # reopened in between: where the zeros end is not known then
        writer, found = open_log(disk, segment_bytes=1 << 14)
        assert len(found.entries) == start - 1
        before = len(disk.trace)
        for index in range(start, start + 10):
            writer.append(hard(1), run(1, index, index, b"x" * 300))
        assert 3 <= disk.trace[before:].count("pwrite") - 10 <= 5
    assert [len(entry.data) for entry in open_log(disk)[1].entries] == [300] * 30
    for seed in range(10):
        disk.lose_power(Random(seed))
        assert len(open_log(disk)[1].entries) == 30


def test_nothing_is_prepared_behind_an_empty_segment() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    assert not writer.wants_next()
    writer.prepare_next()
    assert disk.names(LOG) == [segment_path(1).name]
    # The first record does not fit: the empty segment is replaced, not left behind.
    writer.append(hard(1), run(1, 1, 1, b"x" * 2000))
    assert disk.names(LOG) == [segment_path(1).name]
    assert len(open_log(disk)[1].entries) == 1


def test_a_record_larger_than_a_segment_gets_one_of_its_size() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    big = b"x" * 5000
    for index in (1, 2, 4):
        writer.append(hard(1), run(1, index, index, big))
        writer.append(hard(1), run(1, index + 1, index + 1, b"small"))
        if writer.wants_next():
            writer.prepare_next()
    sizes = [len(disk.content(LOG / name)) for name in disk.names(LOG)]
    assert writer.size_bytes() == sum(sizes)
    assert max(sizes) < 5000 + 200
    _, found = open_log(disk, segment_bytes=1024)
    assert [e.data for e in found.entries] == [big, big, b"small", big, b"small"]
    assert found.torn is None


def test_segment_sizes_may_change_between_runs() -> None:
    disk = SimDisk()
    for index, size in enumerate((512, 4096, 1024), 1):
        writer, found = open_log(disk, segment_bytes=size)
        assert len(found.entries) == index - 1
        writer.append(hard(1), run(1, index, index, b"x" * 400))
        writer.prepare_next()
        assert writer.size_bytes() == sum(map(len, disk.image().values()))


def test_a_large_batch_is_several_records_and_rounds_of_sync() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1 << 16, record_limit_bytes=1010)
    before = len(disk.trace)
    writer.append(hard(3, 2, 9), run(3, 1, 10, b"x" * 300))
    assert disk.trace[before:] == ["pwrite", *["pwrite", "fdatasync"] * 4]  # the first one writes zeros ahead, too
    places = records(disk)
    for count in range(4):
        torn = SimDisk()
        torn.create(segment_path(1))
        torn.overwrite(segment_path(1), 0, disk.content(segment_path(1)))
        torn.overwrite(segment_path(1), places[count].start, bytes(places[-1].end - places[count].start))
        _, found = open_log(torn)
        assert len(found.entries) == 3 * count
        assert found.hard_state == (hard(3, 2, min(9, 3 * count)) if count else hard(0))
    assert open_log(disk)[1].hard_state == hard(3, 2, 9)


def test_an_entry_beyond_the_record_limit_is_not_cut() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1 << 16, record_limit_bytes=1000)
    entries = (entry(1, 1, b"a"), entry(1, 2, b"b" * 5000), entry(1, 3, b"c"))
    writer.append(hard(1), entries)
    assert len(records(disk)) == 3
    assert tuple(open_log(disk)[1].entries) == entries


def test_short_writes_are_continued() -> None:
    disk = SimDisk()
    disk.write_limit = 7
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 8):
        writer.append(hard(1), run(1, index, index, b"x" * 150))
    disk.lose_power(Random(0))
    assert len(open_log(disk, segment_bytes=1024)[1].entries) == 7


def test_a_disk_that_takes_no_bytes_kills_the_log() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    disk.write_limit = 0
    with pytest.raises(StorageError, match="took no more bytes"):
        writer.append(hard(1), ())


def test_without_fallocate_zeros_are_written() -> None:
    disk = SimDisk()
    disk.can_fallocate = False
    writer, _ = open_log(disk, segment_bytes=3 << 20)
    assert len(disk.content(segment_path(1))) == 3 << 20
    writer.append(hard(1), run(1, 1, 1))
    disk.lose_power(Random(0))
    assert len(open_log(disk)[1].entries) == 1


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_bug_39_failed_fsync_kills_the_store(operation: str) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 1))
    tail = writer.tail
    disk.fail_next(operation, errno.EIO)
    with pytest.raises(StorageError, match=r"/log: .*EIO"):
        writer.append(hard(1), run(1, 2, 2))
    before = list(disk.trace)
    for _ in range(2):
        # The disk works again: a retry would succeed, and lie.
        with pytest.raises(StorageError, match=r"dead: .*EIO"):
            writer.append(hard(1), run(1, 2, 2))
        with pytest.raises(StorageError, match=r"dead: .*EIO"):
            writer.prepare_next()
    assert disk.trace == before
    assert not writer.wants_next()
    assert writer.tail == tail


def test_bug_39_what_a_failed_fsync_left_in_the_page_cache_is_written_again() -> None:
    for seed in range(20):
        disk = SimDisk()
        writer, _ = open_log(disk)
        writer.append(hard(1), run(1, 1, 1))
        disk.fail_next("fdatasync", errno.EIO)
        with pytest.raises(StorageError):
            writer.append(hard(2, 3), run(2, 2, 2))
        assert disk.unsynced() == []
        # The node is started again on the same machine: it reads its vote from pages that no sync will ever write.
        _, found = open_log(disk)
        assert found.hard_state == hard(2, 3)
        disk.lose_power(Random(seed))
        assert open_log(disk)[1].hard_state == hard(2, 3)


FATAL = [
    *[(operation, errno.EIO) for operation in ("create", "fallocate", "pwrite", "fdatasync", "rename", "fsync_dir")],
    ("fdatasync", errno.ENOSPC),
    ("fsync_dir", errno.ENOSPC),
]
"""An I/O error anywhere, and a flush that failed, whatever it says of the reason (raft-bugs 39)."""


@pytest.mark.parametrize(("operation", "number"), FATAL)
@pytest.mark.parametrize("prepared", [True, False])
def test_a_failure_to_make_a_segment_kills_the_store(operation: str, number: int, prepared: bool) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    writer.append(hard(1), run(1, 1, 1, b"x" * 700))
    disk.fail_next(operation, number)
    with pytest.raises(StorageError, match="/log"):
        writer.prepare_next() if prepared else writer.append(hard(1), run(1, 2, 2, b"x" * 700))
    with pytest.raises(StorageError, match="dead"):
        writer.append(hard(1), run(1, 2, 2))
    disk.lose_power(Random(0))
    writer, found = open_log(disk, segment_bytes=1024)
    assert len(found.entries) == 1
    assert [name for name in disk.names(LOG) if name.endswith(".tmp")] == []
    writer.append(hard(1), run(1, 2, 2))


@pytest.mark.parametrize("operation", ["create", "fallocate", "pwrite", "fdatasync", "rename", "fsync_dir"])
def test_a_failure_at_open_is_a_storage_error(operation: str) -> None:
    disk = SimDisk()
    disk.fail_next(operation, errno.EIO)
    with pytest.raises(StorageError, match="/log"):
        open_log(disk)


def test_a_closed_log_is_dead() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), ())
    writer.prepare_next()
    writer.close()
    with pytest.raises(StorageError, match="closed"):
        writer.append(hard(1), ())


def test_an_empty_log_has_its_tail_behind_the_header() -> None:
    writer, found = open_log(SimDisk())
    assert found.entries == []
    assert (writer.tail.segment, writer.tail.offset, writer.tail.crc) == (1, SEGMENT_HEADER_BYTES, 0)
    assert writer.tail == found.tail
