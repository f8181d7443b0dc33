"""Which disk stands behind which id: durable before it is relied upon."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from raftkv.errors import NoRoom, StorageError
from raftkv.raft import NodeId
from raftkv.server.peer_book import PeerBook
from tests.storage.simdisk import SimDisk

DATA = Path("/data")
PEER = NodeId(2)


def test_a_peer_is_known_by_the_disk_that_was_met_first_also_after_a_restart() -> None:
    disk = SimDisk()
    book = PeerBook.open(DATA, disk)
    assert book.admits(PEER, 7)
    assert not book.admits(PEER, 8)
    again = PeerBook.open(DATA, disk)
    assert again.incarnation == book.incarnation
    assert again.admits(PEER, 7)
    assert not again.admits(PEER, 8)


def test_the_incarnation_of_another_directory_is_another_one() -> None:
    assert PeerBook.open(DATA, SimDisk()).incarnation != PeerBook.open(DATA, SimDisk()).incarnation


def test_a_peer_that_could_not_be_written_down_has_not_been_met() -> None:
    """Else its next greeting would be answered from memory, and a restart would take another disk for it."""
    disk = SimDisk()
    book = PeerBook.open(DATA, disk)
    disk.fail_next("fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="cannot be written"):
        book.admits(PEER, 7)
    assert book.admits(PEER, 7), "tried again"
    assert not PeerBook.open(DATA, disk).admits(PEER, 8)


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
def test_a_peer_that_there_was_no_room_to_write_down_is_met_later(operation: str) -> None:
    disk = SimDisk()
    book = PeerBook.open(DATA, disk)
    disk.fail_next(operation, errno.ENOSPC)
    with pytest.raises(NoRoom, match=r"no space left on the device of /data/peers.json .*free or add space"):
        book.admits(PEER, 7)
    assert book.admits(PEER, 7)


def test_a_damaged_book_is_refused_with_the_way_out() -> None:
    disk = SimDisk()
    PeerBook.open(DATA, disk)
    disk.overwrite(DATA / "peers.json", 0, b"nonsense")
    with pytest.raises(StorageError, match="The way out"):
        PeerBook.open(DATA, disk)
