"""A node dies in the middle of its disk's work. All of the steps, in every way: `make crash`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raftkv.client import AsyncClient
from raftkv.storage.files import publish_file
from tests.crash.cluster import WITHOUT_CHECKPOINTS, CrashCluster, NeverStruck
from tests.crash.drives import CORE, DRIVES, FIRST_STARTS, Load
from tests.crash.files import Control, DeadlyFileSystem, Order
from tests.crash.node import FORGETS
from tests.crash.trials import (
    Case,
    KnownSteps,
    Role,
    all_cases,
    chains_of_first_starts,
    record,
    run,
    run_first_starts,
    ways_to_die,
)
from tests.integration.waiting import PATIENCE_S

pytestmark = pytest.mark.processes

LARGE_SEGMENTS = ("--wal-segment-bytes", "8388608")

KNOWN = KnownSteps.read()
APPENDED = "fdatasync wal/N.wal in SegmentWriter._append_record < SegmentWriter.append"
SELECTION = (
    Case("load", Order(APPENDED, "before", 40), "leader"),
    Case("load", Order("rename wal/base.tmp in SegmentWriter._rebase < SegmentWriter.compact", "after"), "follower"),
    Case("install", Order("rename store/data.mdb.tmp in LmdbEngine.swap < CheckpointStore.restore", "after")),
)
"""One for each of: an append, a compaction, an installation."""
INTERRUPTIONS = tuple(
    Order(f"{operation} {name}")
    for operation, name in (
        ("rename", "identity.json.tmp"),
        ("rename", "wal/N.wal.tmp"),
        ("fsync_dir", "wal"),
        ("rename", "peers.json.tmp"),
        ("rename", "kind.json.tmp"),
    )
)


@pytest.mark.jepsen
@pytest.mark.timeout(300)
async def test_no_step_of_the_disk_is_without_a_crash_test(tmp_path: Path) -> None:
    """Who adds an operation on files adds a death in front of it and behind it: `python -m tests.crash --record`."""
    steps, everywhere = await record(tmp_path, CORE)
    assert KNOWN.differences(steps, everywhere) == [], "python -m tests.crash --record, and look at what has changed"


def test_every_step_is_died_at_in_every_way() -> None:
    died = {(case.order.step, case.order.when) for seed in range(2) for case in all_cases(KNOWN, seed)}
    assert died == {
        (step, when) for drive, steps in KNOWN.by_drive.items() for step in steps for when in ways_to_die(drive, step)
    }
    assert KNOWN.by_drive.keys() <= DRIVES.keys()
    operations = {step.partition(" ")[0] for step in KNOWN.all}
    assert operations == {"create", "fallocate", "fdatasync", "fsync_dir", "mkdir", "rename", "unlink", "write"}
    chains = chains_of_first_starts(all_cases(KNOWN, 0))
    assert sum(len(chain.orders) for chain in chains) == sum(case.drive in FIRST_STARTS for case in all_cases(KNOWN, 0))


@pytest.mark.jepsen
@pytest.mark.timeout(300)
async def test_what_a_node_that_dies_has_acknowledged_is_there(tmp_path: Path) -> None:
    assert {case.order.step for case in SELECTION} <= KNOWN.all
    async with CrashCluster(tmp_path) as cluster:
        for number, case in enumerate(SELECTION):
            await run(cluster, case, f"{number}/")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_control_a_node_that_forgets_what_it_has_acknowledged_is_noticed(tmp_path: Path) -> None:
    """Its store is thrown away as well: by that, the node would notice it by itself."""
    cluster = CrashCluster(tmp_path, LARGE_SEGMENTS)
    cluster.node(1).environment[FORGETS] = "1"
    async with cluster:
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client, Load(client, "before/") as load:
            await load.progress(100)  # more than it keeps in memory
        role: Role = "leader" if await cluster.leader() == 1 else "follower"
        with pytest.raises(AssertionError, match=r"has gone back|is gone"):
            await run(cluster, Case("rebuild", Order("fsync_dir . in _discard_store"), role), "forgotten/")


async def test_a_step_that_is_never_taken_proves_nothing(tmp_path: Path) -> None:
    cluster = CrashCluster(tmp_path)
    node = cluster.node(1)
    node.program = (sys.executable, "-c", "")  # ends at once, and not by order
    with pytest.raises(NeverStruck, match="ended with code 0, not by: before unlink nothing"):
        await cluster.start_to_die(node, Order("unlink nothing"))


def test_a_step_is_named_and_struck_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control(tmp_path / "control")
    files = DeadlyFileSystem(tmp_path, control)
    died: list[str] = []

    def strike(_: Control, step: str) -> None:
        died.append(f"{step}: {(tmp_path / 'wal.tmp').exists()}, {(tmp_path / '7.wal').exists()}")

    monkeypatch.setattr(Control, "strike", strike)
    control.give(Order("rename wal.tmp", "before", 2))
    for _ in range(2):
        publish_file(files, tmp_path / "wal", b"content").close()
    assert died == ["rename wal.tmp in ?: True, False"]
    died.clear()
    control.give(Order("write 7.wal", "short"))
    file = files.create(tmp_path / "7.wal.tmp")
    files.rename(tmp_path / "7.wal.tmp", tmp_path / "7.wal")
    assert file.pwrite(b"12345678", 0) == 8
    assert not died, "the file is that of segment 7, and segments are all alike"
    control.give(Order("write N.wal", "short"))
    file.pwrite(b"12345678", 0)
    assert len(died) == 1
    file.close()
    assert [step.partition(" in ")[0] for step in control.take_steps()] == [
        *("create wal.tmp", "write wal.tmp", "fdatasync wal.tmp", "rename wal.tmp", "fsync_dir ."),
        *("create N.wal.tmp", "rename N.wal.tmp", "write N.wal"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_first_start_is_interrupted_again_and_again(tmp_path: Path) -> None:
    await run_first_starts(CrashCluster(tmp_path, WITHOUT_CHECKPOINTS), INTERRUPTIONS, late=False)
