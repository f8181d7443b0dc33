"""Data directories made from a backup: whole or not at all, with numbers above all that were given before."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import ConfigurationError, DataDirectoryMismatch, NoRoom, StorageError
from raftkv.kv import commands as c
from raftkv.kv.commands import LockKind, Place
from raftkv.kv.epoch import EPOCH_BITS
from raftkv.kv.records import FORMAT, read_meta
from raftkv.raft import NodeId
from raftkv.server import restore as module
from raftkv.server.cluster import find_cluster
from raftkv.server.rehearsal import probe_here, rehearse
from raftkv.server.restore import EPOCH_BEGINS_S, Plan, Restored, epoch_to_give, read_whole
from raftkv.server.settings import load_settings
from raftkv.storage.backup_format import BackupEncoder, BackupHeader, DamagedBackup
from raftkv.storage.data_dir import RestoredState, read_boot_id, read_identity
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.storage.overlay import Overlay
from tests.formats.opening import opened
from tests.kv.host import Host, put

MEMBERS = {NodeId(node): f"127.0.0.1:71{node:02}" for node in (1, 2, 3)}
EPOCH = 200_000_000
NOW_S = EPOCH_BEGINS_S + EPOCH

restore = partial(module.restore, now=lambda: NOW_S)


def silent(phase: str, done: int, total: int) -> None: ...


def acquire(host: Host, lock: bytes, lease: int) -> int:
    (place,) = host.do(c.Acquire(0, lock, lease, LockKind.MUTEX, True, 0, b"", True))
    assert isinstance(place, Place)
    return place.token


def backup_of(host: Host, **changed: Any) -> bytes:
    with host.store.read() as reader:
        meta = read_meta(reader)
        said: dict[str, Any] = {
            "state_format": FORMAT,
            "cluster_id": 7,
            "node_id": 1,
            "index": meta.applied_index,
            "term": meta.applied_term,
            "revision": meta.revision,
            "compacted_revision": meta.compacted_revision,
            "as_of": 0,
            "time_ms": meta.time_ms,
            "last_token": meta.last_token,
            "made_at_ms": 0,
            "software": "",
        }
        return b"".join(BackupEncoder(BackupHeader(**{**said, **changed})).encode(reader.scan(b"\0", None)))


@pytest.fixture
def old() -> Host:
    host = Host()
    host.do(*[put(b"key %03d" % number, b"v" * 200) for number in range(300)])
    acquire(host, b"lock", host.grant())
    return host


@pytest.fixture
def backup(old: Host, tmp_path: Path) -> Path:
    path = tmp_path / "backup"
    path.write_bytes(backup_of(old))
    return path


def plan(base: Path, *, epoch: int | None = EPOCH, name: str = "raftkv") -> Plan:
    return Plan(MEMBERS, {node: base / str(node) for node in MEMBERS}, name, epoch)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"" for path in directory.rglob("*")
    }


async def test_tokens_of_a_restored_cluster_are_above_all_that_the_old_one_gives(
    old: Host, backup: Path, tmp_path: Path
) -> None:
    made = restore(backup, plan(tmp_path / "new"), progress=silent)
    # The old cluster goes on after the backup, whatever it was told.
    given = [acquire(old, b"other %d" % number, old.grant()) for number in range(50)]
    leases = [old.grant() for _ in range(50)]
    session = old.register()
    async with opened(made.directories[NodeId(1)]) as disk:
        new = Host(disk.store)
        assert acquire(new, b"other", new.grant()) == (EPOCH << EPOCH_BITS) + 1 > max(given)
        assert new.grant() > max(leases)
        assert new.register() > session
        with disk.machine.view() as view:
            assert [one.token for one in view.line(b"lock", 9).contenders] == [1]
        again = tmp_path / "again"
        again.write_bytes(backup_of(new))
        more = [acquire(new, b"more %d" % number, new.grant()) for number in range(10)]
    with pytest.raises(
        ConfigurationError,
        match=f"is to be {EPOCH}, and this backup now takes {EPOCH + 1} to .* --fencing-epoch {EPOCH + 1},",
    ):
        restore(again, plan(tmp_path / "newer"), progress=silent)
    assert epoch_to_give(again, lambda: NOW_S) == EPOCH + 1
    newer = restore(again, plan(tmp_path / "newer", epoch=EPOCH + 1), progress=silent)
    assert newer.cluster_id != made.cluster_id
    async with opened(newer.directories[NodeId(2)], 2) as disk:
        newest = Host(disk.store)
        assert acquire(newest, b"other 1", newest.grant()) == ((EPOCH + 1) << EPOCH_BITS) + 1 > max(more)


def test_members_of_one_restore_agree_and_others_differ(backup: Path, tmp_path: Path) -> None:
    def alone(node: int, name: str = "raftkv", epoch: int = EPOCH) -> Restored:
        directories = {NodeId(node): tmp_path / f"{node} {name} {epoch}"}
        return restore(backup, Plan(MEMBERS, directories, name, epoch), progress=silent)

    first = alone(1)
    for one in (alone(2), alone(3)):
        assert (one.cluster_id, one.state_hash) == (first.cluster_id, first.state_hash)
    at_once = [restore(backup, plan(tmp_path / f"all {number}"), progress=silent) for number in range(2)]
    others = [alone(1, name="x"), alone(1, epoch=EPOCH + 1), *at_once]
    assert len({one.cluster_id for one in (first, *others)}) == 5
    clocked = restore(backup, plan(tmp_path / "clock", epoch=None), progress=silent)
    assert clocked.epoch == epoch_to_give(backup, lambda: NOW_S) == EPOCH


@pytest.mark.parametrize("epoch", [1, EPOCH - 86_401, EPOCH + 3_601, 2**40])
def test_an_epoch_far_from_the_clock_is_refused(backup: Path, tmp_path: Path, epoch: int) -> None:
    with pytest.raises(ConfigurationError, match=f"now takes {EPOCH - 86_400} to {EPOCH + 3_600}: it is of epoch 0"):
        restore(backup, plan(tmp_path / "new", epoch=epoch), progress=silent)
    assert not (tmp_path / "new").exists()


def test_a_clock_that_is_behind_the_backup_is_refused(old: Host, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_bytes(backup_of(old, made_at_ms=int(NOW_S + 61) * 1000))
    with pytest.raises(ConfigurationError, match="later than it is by"):
        restore(path, plan(tmp_path / "new"), progress=silent)
    with pytest.raises(ConfigurationError, match="later than it is by"):
        epoch_to_give(path, lambda: NOW_S)
    path.write_bytes(backup_of(old, made_at_ms=int(NOW_S + 59) * 1000))
    restore(path, plan(tmp_path / "new"), progress=silent)


def test_progress_is_told_in_bytes_and_comes_to_its_end(backup: Path, tmp_path: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    made = restore(
        backup,
        plan(tmp_path / "new"),
        progress=lambda phase, done, total: told.setdefault(phase, []).append((done, total)),
    )
    assert list(told) == ["verify", "load", "write"]
    for steps in told.values():
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]
    copies = [path.stat().st_size for one in made.directories.values() for path in one.glob("checkpoints/*.data")]
    assert told["verify"][-1][0] == backup.stat().st_size
    assert told["write"][-1][0] == sum(copies)


async def test_a_node_starts_there_with_the_members_of_the_restore_or_none(backup: Path, tmp_path: Path) -> None:
    made = restore(backup, plan(tmp_path / "new"), progress=silent)
    data_dir = made.directories[NodeId(1)]
    identity = read_identity(data_dir)
    assert identity is not None
    assert (identity.cluster_id, identity.members) == (made.cluster_id, MEMBERS)
    header = made.backup.header
    assert identity.restored == RestoredState(header.index, header.term, made.state_hash, "raftkv")
    flags = {"id": 1, "data_dir": data_dir}
    member = [f"{node}={address}" for node, address in MEMBERS.items()]
    for given in ({}, {"member": member}, {"member": member, "cluster_name": "raftkv"}):
        cluster = await find_cluster(load_settings({**flags, **given}))
        assert cluster.cluster_id == made.cluster_id
        assert cluster.founded_with.voters == set(MEMBERS)
    with pytest.raises(DataDirectoryMismatch, match=r"for the members 1=127.0.0.1:7101,2=.*, and --member names "):
        await find_cluster(load_settings({**flags, "member": member[:2]}))
    with pytest.raises(DataDirectoryMismatch, match="with --cluster-name raftkv, not another"):
        await find_cluster(load_settings({**flags, "cluster_name": "another"}))
    named = restore(backup, plan(tmp_path / "named", name="mine"), progress=silent).directories[NodeId(1)]
    await find_cluster(load_settings({**flags, "data_dir": named}))
    with pytest.raises(DataDirectoryMismatch, match="with --cluster-name mine, not raftkv"):
        await find_cluster(load_settings({**flags, "data_dir": named, "cluster_name": "raftkv"}))
    with pytest.raises(DataDirectoryMismatch, match="belongs to node 1"):
        await find_cluster(load_settings({**flags, "id": 2, "member": member}))


def _flip(checkpoints: Path) -> None:
    (data,) = checkpoints.glob("*.data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def _lose_manifest(checkpoints: Path) -> None:
    (manifest,) = checkpoints.glob("*.manifest")
    manifest.unlink()


def _take_another(checkpoints: Path) -> None:
    """One of the same entry, but of another restore."""
    other = checkpoints.parent.parent.parent / "other"
    restore(other.parent / "backup", plan(other, epoch=EPOCH + 1), progress=silent)
    shutil.rmtree(checkpoints)
    shutil.copytree(other / "1" / "checkpoints", checkpoints)


@pytest.mark.parametrize("as_before", [False, True], ids=["", "marked by an earlier raftkv"])
@pytest.mark.parametrize("damage", [_flip, _lose_manifest, shutil.rmtree, _take_another])
async def test_a_restored_node_without_its_checkpoint_does_not_start_empty(
    backup: Path, tmp_path: Path, *, damage: Callable[[Path], None], as_before: bool
) -> None:
    data_dir = restore(backup, plan(tmp_path / "new"), progress=silent).directories[NodeId(1)]
    if as_before:
        identity = json.loads((data_dir / "identity.json").read_text())
        (data_dir / "identity.json").write_text(json.dumps({**_unsealed(identity), "restored": True}))
    damage(data_dir / "checkpoints")
    if as_before and damage is _take_another:
        async with opened(data_dir) as disk:
            assert disk.machine.applied_index > 0
        return
    for _ in range(2):
        rehearsal = await rehearse(data_dir, Overlay(), read_boot_id(), probe_here)
        assert "was restored from a backup that ends at entry" in rehearsal.refusal
        with pytest.raises(StorageError, match="and no checkpoint that can be used reaches it: "):
            async with opened(data_dir):
                pass


def _unsealed(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "crc32c"}


def test_a_directory_that_is_not_empty_is_left_as_it_is(backup: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "3").mkdir(parents=True)
    (base / "3" / "precious").write_bytes(b"data")
    before = tree(base)
    with pytest.raises(ConfigurationError, match=r"3 is not empty: it holds precious, other data\. Nothing was"):
        restore(backup, plan(base), progress=silent)
    assert tree(base) == before
    (base / "3" / "precious").unlink()
    (base / "3" / "lost+found").mkdir()  # a file system of its own
    restore(backup, plan(base), progress=silent)
    with pytest.raises(ConfigurationError, match="1 is not empty"):
        restore(backup, plan(base, epoch=EPOCH + 1), progress=silent)
    (base / "1").rename(base / "kept")
    (base / "1").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be used as a data directory"):
        restore(backup, plan(base), progress=silent)


def test_what_is_no_whole_backup_is_not_restored(old: Host, tmp_path: Path) -> None:
    whole = backup_of(old)
    path = tmp_path / "backup"
    for content, problem in (
        (whole[:-1], "cut short"),
        (whole[:-40], "cut short"),
        (b"", "no backup of raftkv"),
        (os.urandom(1000), "no backup of raftkv"),
        (whole[:200] + b"\xff" + whole[201:], "damaged at byte"),
        (backup_of(old, state_format=FORMAT + 1), f"of format {FORMAT + 1}; this raftkv reads format {FORMAT}"),
        (backup_of(old, revision=4), "header says something else than its rows"),
        (backup_of(Host()), "no rows"),
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedBackup, match=problem):
            restore(path, plan(tmp_path / "base"), progress=silent)
        with pytest.raises(DamagedBackup, match=problem):
            read_whole(path, silent)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["backup"]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("fault", "error"), [(_interrupted, KeyboardInterrupt), (_full, StorageError)], ids=["Ctrl-C", "full disk"]
)
@pytest.mark.parametrize("where", ["_fill", "_checkpoint", "write_json", "write_identity", "encode_meta"])
def test_whatever_fails_nothing_is_left(
    backup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    where: str,
    fault: Callable[..., None],
    error: type[BaseException],
) -> None:
    base = tmp_path / "base"
    (base / "2").mkdir(parents=True)
    works = getattr(module, where)
    calls = iter(range(100))

    def fails_at_the_second(*arguments: Any) -> Any:
        if next(calls) == (0 if where in {"_fill", "encode_meta"} else 1):
            fault()
        return works(*arguments)

    monkeypatch.setattr(module, where, fails_at_the_second)
    with pytest.raises(error):
        restore(backup, plan(base), progress=silent)
    assert tree(base) == {"2": b""}
    monkeypatch.undo()
    restore(backup, plan(base), progress=silent)


async def test_of_two_restores_at_once_one_is_refused_and_the_other_whole(backup: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def another(phase: str, done: int, total: int) -> None:
        with pytest.raises(DataDirectoryMismatch, match=f"is held by process {os.getpid()}"):
            restore(backup, plan(tmp_path / "new"), progress=silent)
        refused.append(phase)

    made = restore(backup, plan(tmp_path / "new"), progress=_only("verify", another))
    assert refused
    for node, directory in made.directories.items():
        async with opened(directory, node) as disk:
            assert disk.machine.revision == made.backup.header.revision


def _only(wanted: str, then: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    def progress(phase: str, done: int, total: int) -> None:
        if phase == wanted:
            then(phase, done, total)

    return progress


def test_what_appears_while_the_backup_is_verified_is_kept(backup: Path, tmp_path: Path) -> None:
    def appears(phase: str, done: int, total: int) -> None:
        (tmp_path / "new" / "2" / "checkpoints").mkdir(exist_ok=True)

    with pytest.raises(ConfigurationError, match="2 is not empty: it holds checkpoints"):
        restore(backup, plan(tmp_path / "new"), progress=_only("verify", appears))
    assert tree(tmp_path / "new") == {"2": b"", "2/checkpoints": b""}


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_disk_that_is_full_is_left_as_it_was(
    tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch, *, foreseen: bool
) -> None:
    host = Host(MemoryOrderedStore())
    host.do(*[put(b"key %04d" % number, b"v" * 1000) for number in range(1000)])
    path = tmp_path / "backup"
    path.write_bytes(backup_of(host))
    phases: set[str] = set()
    if not foreseen:
        monkeypatch.setattr(module, "require_room", lambda directories, summary: "as much as there is")
    said = r"1, .*3: more than 4\d{6} bytes are needed at once, 3\d{6} were free" if foreseen else "as much as there is"
    with pytest.raises(NoRoom, match=f"nothing was restored: no room: .*{said}"):
        restore(path, plan(full_disk / "base"), progress=lambda phase, done, total: phases.add(phase))
    assert phases == {"verify"} if foreseen else "load" in phases
    assert tree(full_disk) == {}


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with less room than the copies need."""
    mounted = tmp_path / "full"
    mounted.mkdir()
    if os.system(f"mount -t tmpfs -o size=3m tmpfs {mounted} 2>/dev/null"):
        pytest.skip("this user may not mount a file system")
    try:
        yield mounted
    finally:
        shutil.rmtree(mounted, ignore_errors=True)
        assert os.system(f"umount {mounted}") == 0
