"""A store that a clean shutdown left is compared with its checksums before it is opened again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftkv.errors import StorageError
from raftkv.raft.types import NodeId
from raftkv.storage.data_dir import DataDir, open_data_dir
from raftkv.storage.files import File, OsFileSystem
from raftkv.storage.protocols import WalPosition
from raftkv.storage.store_sums import CHUNK_BYTES, SUMS_NAME, decode_sums, problem_with, write_sums
from raftkv.storage.wal_format import FormatError

TAIL = WalPosition(segment=3, offset=4096, crc=0xDEADBEEF)
CONTENT = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"the end"


def opened(path: Path, files: OsFileSystem | None = None) -> DataDir:
    return open_data_dir(path, cluster_id=1, node_id=NodeId(1), members={}, boot_id="boot", files=files)


def shut_down(path: Path) -> Path:
    """Leave a directory as a clean shutdown does; return the store's file."""
    directory = opened(path)
    directory.mark_running()
    directory.store_path.mkdir(exist_ok=True)
    data = directory.store_path / "data.mdb"
    data.write_bytes(CONTENT)
    directory.mark_clean(TAIL)
    directory.close()
    return data


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def test_a_store_that_is_what_it_was_is_kept(tmp_path: Path) -> None:
    data = shut_down(tmp_path)
    directory = opened(tmp_path)
    assert (directory.store_problem, directory.store_discarded, data.exists()) == ("", False, True)
    directory.close()


@pytest.mark.parametrize("offset", [0, CHUNK_BYTES - 1, 2 * CHUNK_BYTES + 5, len(CONTENT) - 1])
def test_a_flipped_bit_is_named_and_the_store_goes(tmp_path: Path, offset: int) -> None:
    data = shut_down(tmp_path)
    flip(data, offset)
    directory = opened(tmp_path)
    assert directory.store_problem == f"{data}, byte offset {offset // CHUNK_BYTES * CHUNK_BYTES}: checksum mismatch"
    assert directory.store_discarded
    assert not data.exists()
    # What else the clean shutdown said counts as before: the log must still end there.
    assert directory.clean_tail == TAIL
    directory.close()


@pytest.mark.parametrize("damage", ["longer", "shorter", "gone", "sums", "no sums"])
def test_whatever_else_does_not_match_is_no_better(tmp_path: Path, damage: str) -> None:
    data = shut_down(tmp_path)
    match damage:
        case "longer":
            data.write_bytes(CONTENT + b"x")
        case "shorter":
            data.write_bytes(CONTENT[:-1])
        case "gone":
            data.unlink()
        case "sums":
            flip(tmp_path / SUMS_NAME, 40)
        case "no sums":
            (tmp_path / SUMS_NAME).unlink()
    directory = opened(tmp_path)
    assert str(tmp_path) in directory.store_problem
    assert not data.exists()
    directory.close()


def test_what_an_earlier_version_left_has_no_sums_and_is_kept(tmp_path: Path) -> None:
    data = shut_down(tmp_path)
    (tmp_path / SUMS_NAME).unlink()
    boot = tmp_path / "boot.json"
    stored = json.loads(boot.read_text())
    boot.write_text(json.dumps({name: stored[name] for name in ("format_version", "boot_id", "clean_tail")}))
    directory = opened(tmp_path)
    assert (directory.store_problem, data.exists()) == ("", True)
    directory.close()


def test_old_sums_do_not_outlive_the_run_after_them(tmp_path: Path) -> None:
    """The node ran on and was killed: the file is another one, and nobody says that it is damaged."""
    data = shut_down(tmp_path)
    directory = opened(tmp_path)
    directory.mark_running()
    data.write_bytes(b"other pages")
    directory.close()
    directory = opened(tmp_path)
    assert (directory.store_problem, directory.store_discarded) == ("", False)
    directory.close()


class Broken(OsFileSystem):
    def create(self, path: Path) -> File:
        if path.name.startswith(SUMS_NAME):
            raise OSError(28, "No space left on device")
        return super().create(path)


def test_no_clean_mark_without_sums(tmp_path: Path) -> None:
    shut_down(tmp_path)
    directory = opened(tmp_path, Broken())
    directory.mark_running()
    with pytest.raises(StorageError, match="no space left"):
        directory.mark_clean(TAIL)
    directory.close()
    directory = opened(tmp_path)
    assert directory.clean_shutdown is None
    directory.close()


def test_every_flipped_bit_of_the_sums_is_noticed(tmp_path: Path) -> None:
    data, path = tmp_path / "data", tmp_path / "sums"
    data.write_bytes(b"x" * 100)
    write_sums(OsFileSystem(), data, path)
    good = path.read_bytes()
    assert problem_with(OsFileSystem(), data, path) is None
    for bit in range(len(good) * 8):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            decode_sums(bytes(content))
    for length in range(len(good)):
        with pytest.raises(FormatError):
            decode_sums(good[:length])
