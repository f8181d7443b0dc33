"""Backups as files: in place whole, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.errors import ConfigurationError, StorageError
from raftkv.storage.backup_file import BackupReader, BackupWriter
from raftkv.storage.backup_format import DamagedBackup
from tests.storage.test_backup_format import encoded

BACKUP = encoded([(b"key %03d" % number, b"value" * 100) for number in range(100)])


def save(path: Path, content: bytes = BACKUP, *, replace: bool = False) -> None:
    with BackupWriter(path, replace=replace) as writer:
        for at in range(0, len(content), 1000):
            writer.write(content[at : at + 1000])
        writer.finish()


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    save(tmp_path / "b")
    assert names(tmp_path) == ["b"]
    read: list[int] = []
    with BackupReader(tmp_path / "b", read.append) as backup:
        assert len(list(backup.rows())) == 100
        assert backup.summary.file_bytes == len(BACKUP) == sum(read) == backup.size


@pytest.mark.parametrize("content", [BACKUP[:-1], BACKUP[:20], b"", BACKUP + b"x", BACKUP[:50] + b"x" + BACKUP[51:]])
def test_nothing_is_left_of_what_is_no_backup(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedBackup):
        save(tmp_path / "b", content)
    assert names(tmp_path) == []


def test_an_existing_file_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match="exists: name another file, or give --force"):
        save(path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(DamagedBackup):
        save(path, BACKUP[:-1], replace=True)
    assert path.read_bytes() == b"precious"
    save(path, replace=True)
    assert path.read_bytes() == BACKUP
    assert names(tmp_path) == ["b"]


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with pytest.raises(ConfigurationError, match="exists"), BackupWriter(path) as writer:  # noqa: PT012
        writer.write(BACKUP)
        path.write_bytes(b"precious")
        writer.finish()
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["b"]


def test_without_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "b")
    assert names(tmp_path) == ["b"]
    with pytest.raises(ConfigurationError, match="exists"):
        save(tmp_path / "b")


def test_one_writes_at_a_time_and_what_a_killed_one_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "b"
    (tmp_path / "b.part").write_bytes(b"x" * 2 * len(BACKUP))
    with BackupWriter(path) as writer:
        with pytest.raises(ConfigurationError, match="being written by another process"):
            BackupWriter(path)
        writer.write(BACKUP)
        writer.finish()
    assert path.read_bytes() == BACKUP
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("where", ["", "missing/b", "file/b"])
def test_a_place_where_no_file_can_be_is_a_usage_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError):
        save(tmp_path / where)
    assert names(tmp_path) == ["file"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with no room for a backup."""
    mounted = tmp_path / "full"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mounted)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.decode()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_leaves_nothing(full: Path) -> None:
    with pytest.raises(StorageError, match=r"no room for the backup after \d+ bytes: .*b\.part"):
        save(full / "b")
    assert names(full) == []


def test_a_disk_that_says_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match="no room for the backup"):
        save(tmp_path / "b")
    assert names(tmp_path) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), BackupWriter(tmp_path / "b") as writer:  # noqa: PT012
        writer.write(BACKUP[:5000])
        raise stop
    assert names(tmp_path) == []


def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        BackupReader(path)
    path.write_bytes(b"PK\3\4 something else")
    with pytest.raises(DamagedBackup, match=f"{path}: this is no backup of raftkv"):
        BackupReader(path)
    path.write_bytes(BACKUP[:-1])
    with BackupReader(path) as backup, pytest.raises(DamagedBackup, match=f"{path}: the backup is cut short: it ends"):
        list(backup.rows())
