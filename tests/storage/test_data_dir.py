"""Whose directory it is, who holds it, and when its state store is thrown away."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv.errors import DataDirectoryMismatch, NoRoom, StorageError
from raftkv.raft.types import NodeId
from raftkv.server.peer_book import PeerBook
from raftkv.storage.data_dir import CleanMark, DataDir, open_data_dir, store_is_trustworthy, write_json
from raftkv.storage.files import File, OsFile, OsFileSystem, read_file
from raftkv.storage.json_files import unseal
from raftkv.storage.protocols import WalPosition
from tests.storage.simdisk import SimDisk

MEMBERS = {NodeId(1): "a:1", NodeId(2): "b:2"}
TAIL = WalPosition(segment=3, offset=4096, crc=0xDEADBEEF)


def open_dir(path: Path, *, cluster: int = 0xC1, node: int = 1, boot: str = "boot-1") -> DataDir:
    return open_data_dir(
        path, cluster_id=cluster, node_id=NodeId(node), members=MEMBERS, boot_id=boot, now=lambda: 1700000000.0
    )


def make_store(directory: DataDir) -> Path:
    directory.store_path.mkdir(exist_ok=True)
    data = directory.store_path / "data.mdb"
    data.write_bytes(b"pages")
    return data


@pytest.mark.parametrize("operation", ["create", "pwrite", "rename"])
def test_a_directory_on_a_full_disk_says_so_and_stays_as_it_is(operation: str) -> None:
    disk, path = SimDisk(), Path("/data/boot.json")
    write_json(disk, path, {"run": 1})
    disk.fail_next(operation, errno.ENOSPC)
    with pytest.raises(NoRoom, match=r"no space left on the device of /data/boot.json .*free or add space"):
        write_json(disk, path, {"run": 2})
    assert unseal(read_file(disk, path)) == {"run": 1}
    write_json(disk, path, {"run": 2})
    disk.fail_next("fdatasync", errno.ENOSPC)
    with pytest.raises(StorageError) as caught:
        write_json(disk, path, {"run": 3})
    assert not isinstance(caught.value, NoRoom), "nobody knows what the disk holds"


def test_a_new_directory_gets_an_identity(tmp_path: Path) -> None:
    directory = open_dir(tmp_path / "deep" / "data")
    assert directory.identity.cluster_id == 0xC1
    assert directory.identity.members == MEMBERS
    assert directory.clean_shutdown is None
    assert not directory.store_discarded
    assert (directory.wal_path, directory.store_path) == (directory.path / "wal", directory.path / "store")
    directory.close()
    assert unseal((tmp_path / "deep" / "data" / "identity.json").read_bytes()) == {
        "format_version": 1,
        "cluster_id": 0xC1,
        "node_id": 1,
        "members": {"1": "a:1", "2": "b:2"},
        "created_at": 1700000000.0,
        "founded": True,
    }


def test_the_recorded_members_count_not_the_later_ones(tmp_path: Path) -> None:
    open_dir(tmp_path).close()
    directory = open_data_dir(tmp_path, cluster_id=0xC1, node_id=NodeId(1), members={}, boot_id="b")
    assert directory.identity.members == MEMBERS
    directory.close()


def test_a_directory_of_before_it_was_recorded_who_founded_opens(tmp_path: Path) -> None:
    open_dir(tmp_path).close()
    path = tmp_path / "identity.json"
    stored = unseal(path.read_bytes())
    del stored["founded"]
    path.write_text(json.dumps(stored))
    directory = open_dir(tmp_path)
    assert directory.identity.founded is None
    directory.close()
    path.write_text(json.dumps({**stored, "founded": "yes"}))
    with pytest.raises(StorageError, match="is damaged"):
        open_dir(tmp_path)


@pytest.mark.parametrize(("cluster", "node"), [(0xC2, 1), (0xC1, 2)])
def test_another_identity_is_refused_and_both_are_named(tmp_path: Path, cluster: int, node: int) -> None:
    open_dir(tmp_path).close()
    with pytest.raises(DataDirectoryMismatch) as refused:
        open_dir(tmp_path, cluster=cluster, node=node)
    assert "node 1 of cluster 0xc1" in str(refused.value)
    assert f"node {node} of cluster {cluster:#x}" in str(refused.value)
    assert "The way out" in str(refused.value)
    open_dir(tmp_path).close()


def test_a_directory_in_use_is_refused_and_the_process_named(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from raftkv.storage.data_dir import open_data_dir;"
        "held = open_data_dir(Path(sys.argv[1]), cluster_id=193, node_id=1, members={});"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DataDirectoryMismatch, match=f"held by process {process.pid}"):
            open_dir(tmp_path)
        # A killed process leaves no lock behind.
        process.kill()
        process.wait()
    open_dir(tmp_path).close()


def test_the_lock_holds_within_one_process_too_and_ends_with_close(tmp_path: Path) -> None:
    directory = open_dir(tmp_path)
    with pytest.raises(DataDirectoryMismatch, match="held by process"):
        open_dir(tmp_path)
    directory.close()
    directory.close()
    open_dir(tmp_path).close()


def test_a_failed_open_releases_the_lock(tmp_path: Path) -> None:
    open_dir(tmp_path).close()
    for _ in range(2):
        with pytest.raises(DataDirectoryMismatch, match="belongs to node 1"):
            open_dir(tmp_path, node=2)


@pytest.mark.parametrize("name", ["identity.json", "boot.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format_version": 2}', r"has format version 2; this raftkv reads version 1\. The way out"),
        ('{"format_version": 1}', "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("", "is damaged"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    directory = open_dir(tmp_path)
    directory.mark_running()
    directory.close()
    (tmp_path / name).write_text(content)
    with pytest.raises(StorageError, match=f"{name} {message}"):
        open_dir(tmp_path)


@pytest.mark.parametrize("name", ["wal", "store", "checkpoints"])
def test_data_without_an_identity_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=r"but no identity\.json"):
        open_dir(tmp_path)


@pytest.mark.parametrize("name", ["peers.json", "boot.json"])
def test_what_an_earlier_run_left_is_no_new_directory(tmp_path: Path, name: str) -> None:
    """A directory wiped but for its incarnation was taken for the old disk: its votes and its log were forgotten."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(StorageError, match=rf"holds '{name}' but no identity\.json.*The way out.*raftkv repair"):
        open_dir(tmp_path)


def test_a_node_that_has_an_incarnation_has_run_before(tmp_path: Path) -> None:
    """So a log that is missing is a lost one, also where the mark of the last run is lost with it."""
    directory = open_dir(tmp_path)
    assert not directory.ran_before
    directory.close()
    PeerBook.open(tmp_path)
    directory = open_dir(tmp_path)
    assert directory.ran_before
    directory.close()


@pytest.mark.parametrize(
    ("recorded", "current", "clean", "keep"),
    [
        ("boot-1", "boot-1", None, True),
        ("boot-1", "boot-2", None, False),
        ("boot-1", "boot-2", CleanMark(TAIL), True),
        ("boot-1", "boot-1", CleanMark(TAIL), True),
        (None, "boot-1", None, False),
        ("boot-1", None, None, False),
        (None, None, None, False),
        (None, None, CleanMark(TAIL), True),
    ],
)
def test_when_the_store_is_kept(recorded: str | None, current: str | None, clean: CleanMark | None, keep: bool) -> None:
    assert store_is_trustworthy(recorded, current, clean) is keep


@pytest.mark.parametrize(
    ("clean", "boot", "discarded"), [(False, "boot-1", False), (False, "boot-2", True), (True, "boot-2", False)]
)
def test_the_boot_id_rule_end_to_end(tmp_path: Path, clean: bool, boot: str, discarded: bool) -> None:
    directory = open_dir(tmp_path)
    directory.mark_running()
    data = make_store(directory)
    if clean:
        directory.mark_clean(TAIL)
    directory.close()

    directory = open_dir(tmp_path, boot=boot)
    assert directory.store_discarded is discarded
    assert data.exists() is not discarded
    assert directory.clean_shutdown == (CleanMark(TAIL, summed=True) if clean else None)
    assert directory.clean_tail == (TAIL if clean else None)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ([] if discarded else ["store"])
    directory.close()


def test_the_clean_mark_holds_until_the_node_runs(tmp_path: Path) -> None:
    directory = open_dir(tmp_path)
    directory.mark_running()
    make_store(directory)
    directory.mark_clean(TAIL)
    directory.close()
    # Two attempts that end in recovery, say because the log is corrupt.
    for _ in range(2):
        directory = open_dir(tmp_path, boot="boot-2")
        assert directory.clean_tail == TAIL
        directory.close()
    directory = open_dir(tmp_path, boot="boot-2")
    directory.mark_running()
    directory.close()
    directory = open_dir(tmp_path, boot="boot-2")
    assert directory.clean_tail is None
    assert not directory.store_discarded
    directory.close()
    directory = open_dir(tmp_path, boot="boot-3")
    assert directory.store_discarded
    directory.close()


def test_a_store_half_discarded_is_not_taken_for_a_store(tmp_path: Path) -> None:
    directory = open_dir(tmp_path)
    directory.mark_running()
    make_store(directory)
    directory.close()
    (tmp_path / "store").rename(tmp_path / "store.discarded")
    directory = open_dir(tmp_path)
    assert not directory.store_path.exists()
    assert not (tmp_path / "store.discarded").exists()
    directory.close()


class TracingFile(OsFile):
    def __init__(self, fd: int, trace: list[str]) -> None:
        super().__init__(fd)
        self._trace = trace

    def fdatasync(self) -> None:
        self._trace.append("fdatasync")
        super().fdatasync()


class TracingFileSystem(OsFileSystem):
    def __init__(self) -> None:
        self.trace: list[str] = []

    def create(self, path: Path) -> File:
        self.trace.append(f"create {path.name}")
        super().create(path).close()
        return TracingFile(os.open(path, os.O_RDWR), self.trace)

    def rename(self, source: Path, target: Path) -> None:
        self.trace.append(f"rename {target.name}")
        super().rename(source, target)

    def fsync_dir(self, directory: Path) -> None:
        self.trace.append("fsync_dir")
        super().fsync_dir(directory)


def test_bug_33_identity_and_marks_are_synced_before_and_after_their_rename(tmp_path: Path) -> None:
    files = TracingFileSystem()
    directory = open_data_dir(tmp_path, cluster_id=1, node_id=NodeId(1), members={}, boot_id="b", files=files)
    published = ["create {0}.tmp", "fdatasync", "rename {0}", "fsync_dir"]
    assert files.trace == ["fsync_dir", *(step.format("identity.json") for step in published)]
    for mark in (directory.mark_running, lambda: directory.mark_clean(TAIL)):
        files.trace.clear()
        mark()
        assert files.trace == [step.format("boot.json") for step in published]
    directory.close()


def test_the_machine_has_a_boot_id(tmp_path: Path) -> None:
    directory = open_data_dir(tmp_path, cluster_id=1, node_id=NodeId(1), members={})
    directory.mark_running()
    directory.close()
    recorded = json.loads((tmp_path / "boot.json").read_text())["boot_id"]
    assert recorded == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def promised(path: Path, promise_ms: int, *, clean: bool = False, runs_s: float = 0) -> int:
    """Run a node that promises so much; return what the runs before had promised."""
    directory = open_data_dir(path, cluster_id=1, node_id=NodeId(1), members={}, promise_ms=promise_ms)
    directory.mark_running()
    directory._opened_s -= runs_s
    if clean:
        directory.mark_clean(TAIL)
    directory.close()
    return directory.promised_ms


def test_what_was_promised_outlives_the_process(tmp_path: Path) -> None:
    """A follower that promised to vote for nobody keeps to it when it comes back with other settings (raft-bugs 43)."""
    assert promised(tmp_path, 250) == 0
    assert promised(tmp_path, 100) == 250
    assert promised(tmp_path, 0, clean=True) == 250, "the run before may have been too short to keep it"
    assert promised(tmp_path, 0, clean=True, runs_s=0.3) == 250
    assert promised(tmp_path, 0) == 0
