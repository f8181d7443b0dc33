"""A log whose disk is full: nothing has happened, and the same is done again once there is room."""

from __future__ import annotations

import asyncio
import errno
from random import Random

import pytest

from raftkv.errors import NoRoom, StorageError
from raftkv.invariant import InvariantViolation
from raftkv.raft.types import Index, Term
from raftkv.storage import wal_segments
from raftkv.storage.files import FlushFailed
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.wal_recovery import RecoveredSegments, recover
from raftkv.storage.worker import Inline
from tests.storage.simdisk import SimDisk
from tests.storage.support import LOG, hard, open_log, run

WITHOUT_EFFECT = ("create", "fallocate", "pwrite", "rename")
"""What can find no room; a flush that fails is another matter."""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("operation", WITHOUT_EFFECT)
def test_an_append_that_finds_no_room_for_its_segment_is_made_again(operation: str, number: int) -> None:
    for seed in range(10):
        disk = SimDisk()
        writer, _ = open_log(disk, segment_bytes=1024)
        writer.append(hard(1), run(1, 1, 1, b"x" * 700))
        for _ in range(3):
            disk.fail_next(operation, number)
            with pytest.raises(NoRoom, match=r"no space left on the device of /log .*free or add space"):
                writer.append(hard(1, commit=1), run(1, 2, 2, b"y" * 700))
            assert [name for name in disk.names(LOG) if name.endswith(".tmp")] == [], "it gives back what it has taken"
        assert open_log_of(disk.crashed()).entries == list(run(1, 1, 1, b"x" * 700)), "nothing of it counts"
        writer.append(hard(1, commit=1), run(1, 2, 2, b"y" * 700))
        writer.append(hard(1, commit=2), run(1, 3, 3))
        disk.lose_power(Random(seed))
        found = open_log_of(disk)
        assert found.hard_state == hard(1, commit=2)
        assert [entry.index for entry in found.entries] == [1, 2, 3]
        assert writer.size_bytes() == sum(len(content) for name, content in disk.image().items() if name != "base")


@pytest.mark.parametrize("operation", WITHOUT_EFFECT)
def test_a_segment_that_cannot_be_prepared_is_prepared_later(operation: str) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    writer.append(hard(1), run(1, 1, 1))
    disk.fail_next(operation, errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.prepare_next()
    writer.append(hard(1), run(1, 2, 2))
    assert writer.wants_next()
    writer.prepare_next()
    writer.append(hard(1), run(1, 3, 3, b"x" * 900))
    assert [entry.index for entry in open_log_of(disk).entries] == [1, 2, 3]


def test_an_empty_segment_that_is_too_small_stays_until_its_successor_has_room() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    disk.fail_next("fallocate", errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.append(hard(1), run(1, 1, 1, b"x" * 5000))
    writer.append(hard(1), run(1, 1, 1, b"x" * 5000))
    writer.append(hard(1), run(1, 2, 2))
    assert [entry.index for entry in open_log_of(disk).entries] == [1, 2]


def test_of_a_batch_in_several_records_the_first_ones_stay_and_the_rest_follows() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=2048, record_limit_bytes=900)
    batch = run(1, 1, 6, b"x" * 400)
    disk.fail_next("create", errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.append(hard(1, commit=5), batch)
    held = open_log_of(disk.crashed())
    assert 0 < len(held.entries) < 6
    assert held.hard_state.commit <= len(held.entries)
    writer.append(hard(1, commit=5), batch)
    found = open_log_of(disk)
    assert found.entries == list(batch)
    assert found.hard_state == hard(1, commit=5)


def test_a_record_of_which_half_was_written_is_written_again() -> None:
    """On a file system that copies on write, room that was reserved may be lacking all the same."""
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 1))
    disk.write_limit = 10
    disk.fail_after("pwrite", 2, errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.append(hard(1), run(1, 2, 2))
    disk.write_limit = None
    writer.append(hard(1), run(1, 2, 2))
    assert [entry.index for entry in open_log_of(disk).entries] == [1, 2]


@pytest.mark.parametrize("first", [False, True])
async def test_a_log_that_is_closed_with_half_a_record_ends_cleanly(first: bool) -> None:
    disk = SimDisk()
    wal, _ = WriteAheadLog.open(LOG, segment_bytes=1024, files=disk, runner=Inline())
    held = 0 if first else 1
    if not first:
        await wal.append(hard(1), run(1, 1, 1))
    await half_append(disk, wal, held + 1)
    found = open_log_of(disk)
    assert found.torn is not None, "a start with its clean mark would refuse this log"
    assert found.torn.start == wal.tail.offset
    await wal.close()
    for kept in (disk.crashed(), disk):
        again, recovered = WriteAheadLog.open(LOG, files=kept, runner=Inline(), clean_tail=wal.tail)
        assert len(recovered.entries) == held
        assert recovered.torn_bytes == 0
        await again.close()


async def test_a_log_that_cannot_be_rid_of_half_a_record_does_not_end_cleanly() -> None:
    disk = SimDisk()
    wal, _ = WriteAheadLog.open(LOG, segment_bytes=1024, files=disk, runner=Inline())
    await half_append(disk, wal, 1)
    disk.fail_next("pwrite", errno.ENOSPC)
    with pytest.raises(StorageError, match="did not end cleanly"):
        await wal.close()
    assert open_log_of(disk).torn is not None


async def half_append(disk: SimDisk, wal: WriteAheadLog, index: int) -> None:
    await asyncio.sleep(0.01)  # a segment is prepared ahead
    disk.fail_after("pwrite", 0 if index > 1 else 1, errno.ENOSPC)
    with pytest.raises(NoRoom):
        await wal.append(hard(1), run(1, index, index))  # behind the zeros that are written ahead of the first record
    disk.write_limit = 10
    disk.fail_after("pwrite", 2, errno.ENOSPC)
    with pytest.raises(NoRoom):
        await wal.append(hard(1), run(1, index, index))
    disk.write_limit = None


@pytest.mark.parametrize("operation", WITHOUT_EFFECT)
def test_a_log_that_finds_no_room_to_begin_anew_or_to_be_cut_goes_on(operation: str) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 6):
        writer.append(hard(1), run(1, index, index, b"x" * 700))
    if operation != "fallocate":  # the file that says where the log begins reserves nothing
        disk.fail_next(operation, errno.ENOSPC)
        with pytest.raises(NoRoom):
            writer.compact(Index(4))
    writer.append(hard(1), run(1, 6, 6))
    writer.compact(Index(4))
    disk.fail_next("unlink", errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.delete_one()
    while writer.delete_one():
        pass
    assert [entry.index for entry in open_log_of(disk).entries][-1] == 6
    disk.fail_next(operation, errno.ENOSPC)
    with pytest.raises(NoRoom):
        writer.restart(hard(2, commit=9), Index(9), Term(2))
    writer.append(hard(1), run(1, 7, 7))
    writer.restart(hard(2, commit=9), Index(9), Term(2))
    writer.append(hard(2, commit=9), run(2, 10, 10))
    found = open_log_of(disk)
    assert [entry.index for entry in found.entries] == [10]
    assert found.shape.first_index == 10


def test_what_is_reserved_is_enough_for_as_much_and_what_a_new_segment_lacks_is_no_matter() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=8 << 10)
    writer.append(hard(1), run(1, 1, 1))
    assert 7 << 10 < writer.reserved_bytes() < 8 << 10
    before = writer.reserved_bytes()
    writer.append(hard(1), run(1, 2, 2, b"x" * 7000))
    assert writer.reserved_bytes() < before - 7000
    writer.prepare_next()
    assert writer.reserved_bytes() > 7 << 10
    disk.fail_next("create", errno.ENOSPC)
    index = 3
    while writer.reserved_bytes() > 200:  # each record is of half as many bytes
        writer.append(hard(1), run(1, index, index))
        index += 1
    writer.append(hard(2), ())
    assert disk.faults, "no segment was created"
    assert open_log_of(disk).hard_state == hard(2)


async def test_the_log_waits_for_the_same_append() -> None:
    disk = SimDisk()
    wal, _ = WriteAheadLog.open(LOG, segment_bytes=1024, files=disk, runner=Inline())
    await wal.append(hard(1), run(1, 1, 1, b"x" * 700))
    await asyncio.sleep(0.01)
    assert "00000002" in "".join(disk.names(LOG)), "the next segment is prepared"
    await wal.append(hard(1), run(1, 2, 2, b"x" * 700))
    await asyncio.sleep(0.01)
    await wal.append(hard(1), run(1, 3, 3, b"x" * 700))
    for name in WITHOUT_EFFECT[:2]:
        disk.fail_next(name, errno.ENOSPC)
    await asyncio.sleep(0.01)  # a segment could not be prepared: nobody is told
    await wal.append(hard(1), run(1, 4, 4, b"x" * 10))
    await asyncio.sleep(0.01)
    disk.faults.clear()
    disk.fail_next("pwrite", errno.ENOSPC)
    with pytest.raises(NoRoom):
        await wal.append(hard(1), run(1, 5, 5))
    with pytest.raises(InvariantViolation, match="comes before any other"):
        await wal.append(hard(1), run(1, 5, 6))
    await wal.append(hard(1), run(1, 5, 5))
    await wal.append(hard(1), run(1, 6, 6))
    disk.fail_next("create", errno.ENOSPC)
    with pytest.raises(NoRoom):
        await wal.restart(hard(1), Index(9), Term(1))
    await wal.append(hard(1), run(1, 7, 7))
    await wal.restart(hard(1), Index(9), Term(1))
    await wal.close()
    assert [entry.index for entry in open_log_of(disk).entries] == []


def test_without_the_safeguard_a_flush_that_found_no_room_would_be_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where a failed flush counts as "nothing has happened", a retry confirms what the disk lost."""

    def lost() -> bool:
        disk = SimDisk()
        writer, _ = open_log(disk)
        writer.append(hard(1), run(1, 1, 1))
        disk.fail_next("fdatasync", errno.ENOSPC)
        try:
            writer.append(hard(1), run(1, 2, 2))
        except NoRoom:
            writer.append(hard(1), run(1, 2, 2))
        except StorageError:
            return False
        return True

    assert not lost()
    monkeypatch.setattr(wal_segments, "is_full", lambda error: error.errno == errno.ENOSPC)
    assert lost()
    assert issubclass(FlushFailed, OSError)


def open_log_of(disk: SimDisk) -> RecoveredSegments:
    """What a restart would find; the disk stays as it is."""
    found = recover(disk, LOG, None)
    assert found is not None
    return found
