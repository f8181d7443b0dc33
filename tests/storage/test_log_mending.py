"""Where a damaged log may begin anew, and where it must not: term and vote are never forgotten."""

from __future__ import annotations

import pytest

from raftkv.raft.types import Index, Term
from raftkv.storage.log_mending import find_new_base
from raftkv.storage.wal_format import BASE_NAME
from raftkv.storage.wal_segments import SegmentWriter
from tests.storage.simdisk import SimDisk
from tests.storage.support import LOG, hard, open_log, run, segment_path

OLD = ((Index(2), Term(1)), (Index(8), Term(1)))
"""Checkpoints of the history before the install."""


def installed(disk: SimDisk) -> SegmentWriter:
    """A log that began anew after entry 20, with a vote in term 5; its old segments are still to be deleted."""
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 9):
        writer.append(hard(1, 1), run(1, index, index, b"d" * 200))
    writer.restart(hard(5, 2, 20), Index(20), Term(4))
    return writer


@pytest.mark.parametrize("appended", [False, True])
def test_a_rotten_base_after_an_install_does_not_bring_back_the_log_of_before(appended: bool) -> None:
    """In there stand term 1 and its vote; a node that came back with them could vote once more in term 5."""
    disk = SimDisk()
    writer = installed(disk)
    _, current = writer.extent()
    assert current > 2
    if appended:
        writer.append(hard(5, 2, 20), run(5, 21, 21))
    tail = writer.tail
    writer.close()
    disk.flip_bit(LOG / BASE_NAME, 42)
    assert find_new_base(disk, LOG, OLD, None) is None
    assert find_new_base(disk, LOG, OLD, tail) is None


def test_nor_does_a_damaged_segment_behind_a_sound_base() -> None:
    disk = SimDisk()
    writer = installed(disk)
    _, current = writer.extent()
    writer.close()
    disk.remove(segment_path(current))
    assert find_new_base(disk, LOG, OLD, None) is None


def test_a_rotten_base_after_a_compaction_can_be_mended() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=1024)
    for index in range(1, 13):
        writer.append(hard(3, 2), run(1, index, index, b"d" * 200))
    writer.compact(Index(5))
    writer.close()
    disk.flip_bit(LOG / BASE_NAME, 42)
    found = find_new_base(disk, LOG, OLD, None)
    assert found is not None
    assert found.log.hard_state == hard(3, 2, found.base.index)
    assert found.base.index <= 8
    assert found.log.shape.last_index == 12
