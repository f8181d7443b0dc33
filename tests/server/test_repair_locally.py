"""What is put right on the spot loses nothing; and what might lose something is left alone."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptLog, StorageError
from raftkv.kv.hashing import StateHasher
from raftkv.raft import NodeId
from raftkv.server.cluster import find_cluster
from raftkv.server.disk import open_disk
from raftkv.server.doctor import examine, probe
from raftkv.server.mending import apply as mend
from raftkv.server.mending import find_remedies
from raftkv.server.rehearsal import probe_apart, probe_here
from raftkv.server.replacement import aside_of, objection
from raftkv.storage.data_dir import read_boot_id
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.lmdb_store import DamagedStore
from raftkv.storage.wal_format import SEGMENT_HEADER_BYTES
from tests.server.directories import LAST, Crash, apply, copied, flip, image, made, settings


async def state_of(path: Path) -> bytes:
    """Start the node, apply all that its log holds, and return the hash of the state; leave the directory as it was."""
    node = settings(path)
    try:
        async with open_disk(node, await find_cluster(node)) as disk:
            assert disk.recovered.last_index == LAST
            assert disk.recovered.hard_state.vote == 2
            apply(disk, LAST)
            with disk.store.read() as reader:
                hasher = StateHasher(reader)
                while not hasher.step(1000):
                    pass
            raise Crash
    except Crash:
        return hasher.digest()


async def repaired(path: Path) -> list[str]:
    """Repair on the spot, if that can be done; return what was done."""
    before = image(path)
    report = await examine(path)
    assert report.start.refusal
    remedies = await find_remedies(report, read_boot_id(), probe)
    assert image(path) == before, "looking for a way has changed something"
    aside = aside_of(path)
    for remedy in remedies:
        mend(remedy, OsFileSystem(), path, aside)
    if remedies:
        after = await examine(path)
        assert not after.start.refusal
        kept = {**image(path), **image(aside)}
        assert all(digest in kept.values() for name, digest in before.items()), "something was deleted"
    return [remedy.what for remedy in remedies]


async def test_damage_before_a_checkpoint_costs_nothing(tmp_path: Path) -> None:
    """Wherever in the log a bit flips: it is mended only in front of a checkpoint, and then nothing is missing."""
    whole = await made(tmp_path / "whole")
    right = await state_of(copied(whole, tmp_path / "copy"))
    random = Random(7)
    outcomes = set()
    segments = sorted(name for name in image(whole) if name.endswith(".wal"))
    for name in segments:
        path = copied(whole, tmp_path / "copy")
        used = len((path / name).read_bytes().rstrip(b"\0"))
        if used <= SEGMENT_HEADER_BYTES:
            continue
        flip(path / name, random.randrange(SEGMENT_HEADER_BYTES, used - 2000))
        done = await repaired(path)
        outcomes.add(bool(done))
        if done:
            assert await state_of(path) == right
        else:
            with pytest.raises(StorageError):
                await state_of(path)
    assert outcomes == {True, False}


async def test_a_start_in_the_middle_of_a_repair_deletes_nothing_that_was_not_kept(tmp_path: Path) -> None:
    """Once the new base is written, the damaged segments are garbage: the next start deletes them."""
    path = await made(tmp_path / "node")
    segment = path / "wal" / "0000000000000001.wal"
    flip(segment, 3000)
    damaged = segment.read_bytes()
    (remedy,) = await find_remedies(await examine(path), read_boot_id(), probe)
    write = remedy.write

    def write_and_crash(files: FileSystem) -> None:
        write(files)
        raise Crash

    remedy.write = write_and_crash
    aside = aside_of(path)
    with pytest.raises(Crash):
        mend(remedy, OsFileSystem(), path, aside)
    await state_of(path)
    assert not segment.exists()
    assert (aside / "wal" / segment.name).read_bytes() == damaged


async def test_a_lost_segment_before_a_checkpoint_and_a_damaged_base(tmp_path: Path) -> None:
    whole = await made(tmp_path / "whole", kept_from=300, checkpoints=(250, 500))
    right = await state_of(copied(whole, tmp_path / "copy"))
    first = sorted((whole / "wal").glob("*.wal"))[0].name
    for damage in ("segment", "header", "base"):
        path = copied(whole, tmp_path / damage)
        if damage == "segment":
            (path / "wal" / first).unlink()
            # What stood right before the second one is not known any more: the third will do.
        elif damage == "header":
            flip(path / "wal" / first, 30)
        else:
            flip(path / "wal" / "base", 30)
        assert await repaired(path), damage
        assert await state_of(path) == right


async def test_without_a_whole_checkpoint_the_log_is_not_cut(tmp_path: Path) -> None:
    path = await made(tmp_path / "node")
    flip(path / "wal" / "0000000000000002.wal", 3000)
    for index in (250, 450):
        flip(path / "checkpoints" / f"{index:020d}.data", 100_000)
    assert await repaired(path) == []


async def test_damage_behind_the_checkpoint_is_not_cut_off(tmp_path: Path) -> None:
    path = await made(tmp_path / "node", checkpoints=(100,))
    flip(path / "wal" / "0000000000000004.wal", 3000)
    assert await repaired(path) == []


async def test_a_damaged_last_record_is_refused_unless_the_machine_has_stopped(tmp_path: Path) -> None:
    """It was answered for. Only after a power loss it may be a write that never ended. The doctor says the same."""
    path = await made(tmp_path / "node", clean=False)
    last = max((one for one in (path / "wal").glob("*.wal") if any(one.read_bytes()[64:])), key=lambda one: one.name)
    flip(last, len(last.read_bytes().rstrip(b"\0")) - 10)
    assert await repaired(path) == []
    with pytest.raises(CorruptLog, match="the machine has not stopped since"):
        await state_of(path)
    report = await examine(path, boot_id="another")
    assert not report.start.refusal
    assert report.start.log is not None
    assert report.start.log.torn_bytes
    assert report.start.log.last_index == LAST - 5


@pytest.mark.parametrize("name", ["boot.json", "kind.json"])
async def test_what_the_log_says_too_is_written_anew(tmp_path: Path, name: str) -> None:
    whole = await made(tmp_path / "whole")
    right = await state_of(copied(whole, tmp_path / "copy"))
    path = copied(whole, tmp_path / "copy")
    flip(path / name, 8)
    (done,) = await repaired(path)
    assert name in done
    assert await state_of(path) == right


@pytest.mark.parametrize("name", ["identity.json", "peers.json"])
async def test_what_nobody_else_says_is_not_made_up(tmp_path: Path, name: str) -> None:
    path = await made(tmp_path / "node")
    flip(path / name, 8)
    assert await repaired(path) == []


async def test_a_mark_of_the_last_run_is_not_made_up_for_a_log_with_a_torn_end(tmp_path: Path) -> None:
    """Whether its last record was confirmed, only that mark could have told."""
    path = await made(tmp_path / "node")
    flip(path / "boot.json", 8)
    last = max((one for one in (path / "wal").glob("*.wal") if any(one.read_bytes()[64:])), key=lambda one: one.name)
    flip(last, len(last.read_bytes().rstrip(b"\0")) - 1)
    assert await repaired(path) == []


async def test_a_store_is_read_in_another_process_unless_its_checksums_are_right(tmp_path: Path) -> None:
    path = await made(tmp_path / "node", clean=False, checkpoints=())
    data = path / "store" / "data.mdb"
    assert probe_apart(data) == probe_here(data) == LAST
    for page in (0, 4096):
        flip(data, page + 16)  # LMDB's magic, of both meta pages
    with pytest.raises(DamagedStore):
        probe_apart(data)
    report = await examine(path)
    assert not report.start.refusal
    assert report.start.store == "rebuilt from the log"
    assert not report.healthy


def against(**changed: object) -> str:
    known: dict[str, object] = {
        "old": NodeId(3),
        "leader": NodeId(1),
        "voters": [NodeId(1), NodeId(2), NodeId(3)],
        "data_voters": [NodeId(1), NodeId(2), NodeId(3)],
        "active": [NodeId(2)],
        "changing": False,
    }
    return objection(**{**known, **changed})  # type: ignore[arg-type]


def test_when_a_node_may_be_replaced() -> None:
    assert against() == ""
    assert "another change" in against(changing=True)
    assert "leads the cluster" in against(old=NodeId(1))
    assert "runs under its id" in against(active=[NodeId(2), NodeId(3)])
    assert "only 1 of the voters" in against(active=[])
    assert "only voter that holds data" in against(old=NodeId(2), data_voters=[NodeId(2)], active=[NodeId(3)])
    five = [NodeId(node) for node in range(1, 6)]
    assert against(voters=five, data_voters=five, active=[NodeId(2), NodeId(4)]) == ""
    assert "no majority" in against(voters=five, data_voters=five, active=[NodeId(2)])
    # Four without the damaged one, of which a majority is three, as of the five.
    assert against(voters=five[:4], data_voters=five[:4], active=[NodeId(2), NodeId(4)]) == ""
    assert "no majority" in against(voters=five[:4], data_voters=five[:4], active=[NodeId(2)])
    # Witnesses count as voters; a learner or a node that was removed already is nobody's majority.
    assert against(data_voters=[NodeId(1), NodeId(3)]) == ""
    assert against(old=NodeId(9)) == ""
