"""The doctor says what the start does, over many damaged directories, and leaves every one as it is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import ConfigurationError, StorageError
from raftkv.raft import Index, Raft, RaftConfig
from raftkv.server.cluster import find_cluster
from raftkv.server.disk import open_disk
from raftkv.server.doctor import Report, examine
from raftkv.server.peer_book import PeerBook
from raftkv.server.rehearsal import probe_here
from raftkv.storage.checkpoint import decode_manifest
from raftkv.storage.data_dir import open_data_dir
from tests.server.directories import LAST, Crash, copied, flip, image, made, settings

FLIPS = 25


async def real_start(path: Path) -> tuple[object, ...]:
    """Start the node as `serve` does, up to where it would take part. Return why not, or what it goes on from."""
    node = settings(path)
    try:
        cluster = await find_cluster(node)
        async with open_disk(node, cluster) as disk:
            PeerBook.open(path)
            Raft(
                RaftConfig(
                    node_id=cluster.node_id,
                    configuration=cluster.founded_with,
                    election_ticks=10,
                    heartbeat_ticks=1,
                ),
                hard_state=disk.recovered.hard_state,
                entries=disk.entries,
                applied=Index(disk.machine.applied_index),
                rng=Random(0),
                snapshot=disk.snapshot,
            )
            checkpoint = disk.checkpoint.index if disk.checkpoint else None
            log = disk.recovered
            found = (log.hard_state, log.first_index, log.last_index, disk.machine.applied_index, checkpoint)
            raise Crash
    except Crash:
        return ("starts", *found)
    except StorageError as error:
        return ("refuses", str(error).split(" The way out")[0])


def said(report: Report) -> tuple[object, ...]:
    start = report.start
    if start.refusal:
        return ("refuses", start.refusal.split(" The way out")[0])
    log = start.recovered
    assert log is not None
    checkpoint = start.checkpoint.index if start.checkpoint else None
    return ("starts", log.hard_state, log.first_index, log.last_index, start.applied, checkpoint)


async def compared(path: Path) -> Report:
    """Examine a directory, and start from it. They agree, and the examination has changed nothing."""
    before = image(path)
    report = await examine(path, probe_with=probe_here)  # in a process of its own: test_repair_locally
    assert image(path) == before
    assert said(report) == await real_start(path)
    return report


async def test_a_healthy_directory(tmp_path: Path) -> None:
    report = await compared(await made(tmp_path / "node"))
    assert report.healthy, report.damage
    assert report.start.store == "kept"
    assert report.store_summed
    assert [one.index for one in report.checkpoints] == [250, 450]
    assert len(report.segments) > 4
    assert report.segments[0].first_index == 1
    assert max(one.last_index for one in report.segments) == LAST


@pytest.mark.parametrize("clean", [True, False])
async def test_the_doctor_says_what_the_start_does(tmp_path: Path, clean: bool) -> None:
    """Bits are flipped all over the directory. Where nobody can notice, the state is the same all the same."""
    whole = await made(tmp_path / "whole", clean=clean, kept_from=300)
    healthy = said(await examine(whole, probe_with=probe_here))
    random = Random(f"doctor/{clean}")
    names = [name for name in image(whole) if not name.endswith(("LOCK", "lock.mdb"))]
    if not clean:
        names.remove("store/data.mdb")  # without checksums, LMDB takes what it finds, and may take the process along
    refused = 0
    for _ in range(FLIPS):
        path = copied(whole, tmp_path / "copy")
        victim = path / random.choice(names)
        # Most of a segment is empty, and most of a store is values.
        used = len(victim.read_bytes().rstrip(b"\0"))
        flip(victim, random.randrange(used), 1 << random.randrange(8))
        report = await compared(path)
        assert not report.healthy or said(report) == healthy, victim
        refused += bool(report.start.refusal)
    assert refused > FLIPS // 10


@pytest.mark.parametrize(
    "name",
    [
        *("identity.json", "boot.json", "peers.json", "kind.json", "wal/base", "store.sums", "store/data.mdb"),
        *("wal/0000000000000004.wal", "checkpoints/00000000000000000450.manifest"),
        *("checkpoints/00000000000000000450.data", "checkpoints/00000000000000000250.data"),
    ],
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
async def test_lost_and_shortened_files(tmp_path: Path, name: str, damage: str) -> None:
    path = await made(tmp_path / "node", kept_from=300)
    victim = path / name
    if damage == "gone":
        victim.unlink()
    else:
        os.truncate(victim, victim.stat().st_size // 2)
    report = await compared(path)
    # A start cannot miss what it would make anew: the names of peers, the mark of its kind, an unpublished checkpoint.
    anew = {"peers.json", "kind.json", "checkpoints/00000000000000000450.manifest"}
    assert not report.healthy or (damage == "gone" and name in anew)


async def test_damage_is_told_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    path = await made(tmp_path / "node")
    victim = path / "wal" / "0000000000000002.wal"
    flip(victim, 3000)
    report = await compared(path)
    (problem,) = report.damage
    assert f"{victim}, byte offset" in problem
    assert f"to {LAST} may include acknowledged writes" in problem
    assert f"`raftkv repair --data-dir {path} --endpoints HOST:PORT --yes`" in problem
    (segment,) = (one for one in report.segments if one.flaws)
    assert segment.name == victim.name
    assert "checksum mismatch" in segment.flaws[0][1]


async def test_a_state_that_is_not_the_one_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    """Every chunk is right, and the state in them is another one: only hashing it shows that."""
    path = await made(tmp_path / "node")
    directory = path / "checkpoints"
    manifest = directory / "00000000000000000450.manifest"
    forged = replace(decode_manifest(manifest.read_bytes()), state_hash=bytes(16))
    manifest.write_bytes(forged.encode())
    report = await examine(path)
    assert [bool(one.problem) for one in report.checkpoints] == [False, True]
    assert not report.healthy


async def test_what_is_no_data_directory_or_in_use_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError):
            await examine(path)
    path = await made(tmp_path / "node", checkpoints=())
    held = open_data_dir(path, cluster_id=settings(path).founded_cluster_id, node_id=settings(path).id, members={})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=f"is in use: process {os.getpid()} holds it"):
        await examine(path)
    held.close()
    assert (await examine(path)).healthy
