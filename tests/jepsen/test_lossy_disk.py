"""What a kill leaves of files: what was synced, under the names that were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.jepsen.lossy_disk import VolatileFileSystem
from raftkv.raft import Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.storage.files import FileSystem, preallocate, publish_file, read_file, write_all
from raftkv.storage.wal import WriteAheadLog


class Machine:
    """A data directory whose power fails."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "data"
        self.directory.mkdir()
        self.unsynced = 0
        self.power_on()

    def power_on(self) -> None:
        """Nothing of the last life's memory is left."""
        self.files: FileSystem = VolatileFileSystem(self.directory, unsynced=self._note)

    def _note(self, size: int) -> None:
        self.unsynced += size

    def content(self, name: str) -> bytes:
        return read_file(self.files, self.directory / name)

    @property
    def names(self) -> list[str]:
        return self.files.names(self.directory)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_write_is_seen_at_once_and_lost_unless_it_was_synced(machine: Machine) -> None:
    publish_file(machine.files, machine.directory / "a", b"0123456789").close()
    file = machine.files.open(machine.directory / "a")
    write_all(file, b"AB", 2)
    file.fdatasync()
    assert machine.unsynced == 0
    write_all(file, b"CDEF", 8)
    assert machine.unsynced == 4
    assert machine.content("a") == b"01AB4567CDEF"
    assert file.pread(3, 9) == b"DEF"
    assert file.pread(3, 20) == b""
    machine.power_on()
    assert machine.content("a") == b"01AB456789"


def test_what_was_closed_without_a_sync_is_lost_too_and_a_sync_through_another_handle_saves_it(
    machine: Machine,
) -> None:
    publish_file(machine.files, machine.directory / "a", b"0123").close()
    file = machine.files.open(machine.directory / "a")
    write_all(file, b"X", 0)
    file.close()
    file.close()
    assert machine.content("a") == b"X123"
    other = machine.files.open(machine.directory / "a")
    other.fdatasync()
    write_all(other, b"Y", 1)
    other.close()
    machine.power_on()
    assert machine.content("a") == b"X123"


def test_room_that_was_reserved_and_not_synced_is_not_there(machine: Machine) -> None:
    publish_file(machine.files, machine.directory / "a", b"0123").close()
    file = machine.files.open(machine.directory / "a")
    preallocate(file, 100)
    assert file.size() == 100
    assert file.pread(100, 2) == b"23" + bytes(96)
    machine.power_on()
    assert machine.files.open(machine.directory / "a").size() == 4


def test_a_new_name_is_lost_unless_its_directory_was_synced(machine: Machine) -> None:
    file = machine.files.create(machine.directory / "a")
    write_all(file, b"content", 0)
    file.fdatasync()
    file.close()
    assert machine.names == ["a"]
    assert machine.content("a") == b"content"
    machine.power_on()
    assert machine.names == []
    with pytest.raises(FileNotFoundError):
        machine.content("a")


def test_a_rename_without_a_sync_of_the_directory_is_lost(machine: Machine) -> None:
    publish_file(machine.files, machine.directory / "a", b"old").close()
    file = machine.files.create(machine.directory / "b")
    write_all(file, b"new", 0)
    file.fdatasync()
    file.close()
    machine.files.fsync_dir(machine.directory)
    machine.files.rename(machine.directory / "b", machine.directory / "a")
    assert machine.names == ["a"]
    assert machine.content("a") == b"new"
    with pytest.raises(FileNotFoundError):
        machine.content("b")
    machine.power_on()
    assert machine.names == ["a", "b"]
    assert machine.content("a") == b"old"
    machine.files.rename(machine.directory / "b", machine.directory / "a")
    machine.files.fsync_dir(machine.directory)
    machine.power_on()
    assert machine.names == ["a"]
    assert machine.content("a") == b"new"


def test_names_are_synced_for_the_directory_that_was_asked_for_only(machine: Machine) -> None:
    inner = machine.directory / "inner"
    machine.files.mkdir(inner)
    machine.files.create(inner / "a").close()
    machine.files.create(machine.directory / "b").close()
    machine.files.fsync_dir(inner)
    machine.power_on()
    assert machine.names == ["inner"]
    assert machine.files.names(inner) == ["a"]


def test_a_removal_without_a_sync_of_the_directory_is_lost_and_a_reader_keeps_the_file(machine: Machine) -> None:
    publish_file(machine.files, machine.directory / "a", b"content").close()
    reader = machine.files.open(machine.directory / "a")
    machine.files.unlink(machine.directory / "a")
    assert machine.names == []
    assert reader.pread(7, 0) == b"content"
    with pytest.raises(FileNotFoundError):
        machine.files.unlink(machine.directory / "a")
    machine.power_on()
    assert machine.names == ["a"]
    machine.files.unlink(machine.directory / "a")
    machine.files.fsync_dir(machine.directory)
    machine.power_on()
    assert machine.names == []


def test_a_published_file_survives_with_what_it_replaces_gone(machine: Machine) -> None:
    for content in (b"one", b"two"):
        publish_file(machine.files, machine.directory / "a", content).close()
    machine.power_on()
    assert machine.names == ["a"]
    assert machine.content("a") == b"two"
    assert machine.unsynced == 0


def test_a_copy_of_the_store_has_its_name_at_once_and_nothing_that_was_not_synced(machine: Machine) -> None:
    path = machine.directory / "creating.data"
    for content in (b"synced", b"again"):
        file = machine.files.create(path)
        write_all(file, content, 0)
        file.fdatasync()
        assert path.read_bytes() == content
    write_all(file, b" and more", 5)
    machine.files.rename(path, machine.directory / "1.data")
    machine.power_on()
    assert machine.content("creating.data") == b"again"


def test_what_lmdb_has_of_its_own_is_left_alone(machine: Machine) -> None:
    store = machine.directory / "store"
    machine.files.mkdir(store)
    checkpoints = machine.directory / "checkpoints"
    machine.files.mkdir(checkpoints)
    for path in (store / "data.mdb", checkpoints / "backup.tmp"):
        file = machine.files.create(path)
        write_all(file, b"content", 0)
        assert path.read_bytes() == b"content"
        file.close()
    machine.files.create(checkpoints / "1.manifest.tmp").close()
    assert not (checkpoints / "1.manifest.tmp").exists()


async def test_a_log_has_what_it_confirmed_after_every_loss_of_power(machine: Machine) -> None:
    confirmed: list[Entry] = []
    for life in range(3):
        log, found = WriteAheadLog.open(
            machine.directory / "wal", segment_bytes=65536, files=machine.files, must_exist=life > 0
        )
        assert list(found.entries) == confirmed
        for _ in range(40):
            entry = Entry(Term(1), Index(len(confirmed) + 1), EntryKind.COMMANDS, bytes(4000))
            await log.append(HardState(Term(1), NodeId(1), entry.index), [entry])
            confirmed.append(entry)
        await log.close()  # which syncs nothing
        machine.power_on()
    assert len(confirmed) == 120


_WRITER = """
import os, signal, sys
from pathlib import Path
from raftkv.jepsen.lossy_disk import VolatileFileSystem
directory = Path(sys.argv[1])
files = VolatileFileSystem(directory)
file = files.create(directory / "a")
file.pwrite(b"synced", 0)
file.fdatasync()
files.fsync_dir(directory)
file.pwrite(b" not", 6)
files.create(directory / "b")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_is_a_loss_of_power(machine: Machine) -> None:
    killed = subprocess.run([sys.executable, "-c", _WRITER, str(machine.directory)], check=False)
    assert killed.returncode == -9
    machine.power_on()
    assert machine.names == ["a"]
    assert machine.content("a") == b"synced"
