"""A crash tears the very first record of a segment: after recovery the log ends at two places that are one.

Found by the simulator (level L1, seed 2).
"""

from __future__ import annotations

import pytest

from raftkv.errors import CorruptLog
from raftkv.storage.protocols import WalPosition
from raftkv.storage.wal_format import SEGMENT_HEADER_BYTES
from tests.storage.simdisk import SimDisk
from tests.storage.support import hard, open_log, run, segment_path


def torn_in_a_new_segment() -> tuple[SimDisk, WalPosition]:
    """A log whose second segment held nothing but a torn record, recovered and shut down in order."""
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 3))
    writer.prepare_next()
    disk.overwrite(segment_path(2), SEGMENT_HEADER_BYTES, b"\1" * 100)
    writer, found = open_log(disk)
    assert found.torn is not None
    assert found.tail.segment == 2
    tail = writer.tail
    writer.close()
    return disk, tail


def test_a_clean_shutdown_right_after_a_torn_first_record_is_recovered() -> None:
    """The torn bytes are zeroed, so the second segment is empty again: the log ends in the first one."""
    disk, tail = torn_in_a_new_segment()
    writer, found = open_log(disk, clean_tail=tail)
    assert [entry.index for entry in found.entries] == [1, 2, 3]
    writer.append(hard(1), run(1, 4, 5))
    writer.close()
    _, found = open_log(disk, clean_tail=writer.tail)
    assert [entry.index for entry in found.entries] == [1, 2, 3, 4, 5]


def test_but_not_if_the_segment_has_gone() -> None:
    disk, tail = torn_in_a_new_segment()
    disk.remove(segment_path(2))
    with pytest.raises(CorruptLog, match="a clean shutdown left its end at"):
        open_log(disk, clean_tail=tail)


def test_nor_if_a_record_before_it_has_gone() -> None:
    disk, tail = torn_in_a_new_segment()
    position = disk.content(segment_path(1)).rstrip(b"\0")
    disk.overwrite(segment_path(1), SEGMENT_HEADER_BYTES, bytes(len(position) - SEGMENT_HEADER_BYTES))
    with pytest.raises(CorruptLog):
        open_log(disk, clean_tail=tail)
