"""Which disk stands behind which id: written down before anybody is believed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from raftkv.errors import StorageError
from raftkv.raft import NodeId
from raftkv.server.peer_book import PeerBook
from raftkv.storage.files import File, OsFileSystem


class FullDisk(OsFileSystem):
    """Takes no new file while `full`."""

    full = False

    def create(self, path: Path) -> File:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().create(path)


def test_the_first_incarnation_under_an_id_counts_for_ever(tmp_path: Path) -> None:
    book = PeerBook.open(tmp_path)
    assert book.admits(NodeId(2), 111)
    assert not book.admits(NodeId(2), 222)
    again = PeerBook.open(tmp_path)
    assert again.incarnation == book.incarnation
    assert again.admits(NodeId(2), 111)
    assert not again.admits(NodeId(2), 222)


def test_a_peer_that_could_not_be_written_down_is_not_admitted(tmp_path: Path) -> None:
    """It was, at its second greeting; after a restart, another disk under its id would have been."""
    files = FullDisk()
    book = PeerBook.open(tmp_path, files)
    files.full = True
    for _ in range(2):
        with pytest.raises(StorageError, match="No space left"):
            book.admits(NodeId(2), 111)
    files.full = False
    assert book.admits(NodeId(2), 222)
    assert not PeerBook.open(tmp_path).admits(NodeId(2), 111)
