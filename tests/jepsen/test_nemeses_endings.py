"""How nodes and tasks of nemeses end, and what is made of it. Nodes are shell scripts here."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.jepsen.nemeses import create
from raftkv.jepsen.nemeses.checkpoint import Checkpoint
from raftkv.jepsen.nemeses.clock import ClockStrobe
from raftkv.jepsen.nemeses.combination import Combination
from raftkv.jepsen.nemeses.disk import DiskFull, DiskNemesis, DiskSlow
from raftkv.jepsen.nemeses.flapping import Flapping
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import ClusterError, LocalCluster, NodeProcess
from tests.integration.waiting import until

STOPS = "2026-11-21T17:04:54.823705Z [critical ] the node stops                 "
FULL = f"""{STOPS}error="no space left on the device of /d ([Errno 28] No space left on device: '/d/3')" kind=NoRoom
raftkv: no space left on the device of /d ([Errno 28] No space left on device: '/d/3'). The way out: free or add space
"""
BROKEN = f"""{STOPS}error='a committed entry was changed' kind=InvariantViolation node=1
raftkv: stopped: a safety invariant does not hold (please report this): a committed entry was changed
"""
BAD_DISK = f"""{STOPS}error="/d/wal: [Errno 5] Input/output error: '/d/wal/3.wal'" kind=StorageError
raftkv: /d/wal: [Errno 5] Input/output error: '/d/wal/3.wal'. The node stops
"""


def made(path: Path, script: str = "exit 1") -> Testbed:
    """Return three nodes that run a script, and links and levers that do nothing."""
    cluster = LocalCluster(3, directory=path, program=("/bin/sh", "-c", script))
    disk = SimpleNamespace(drop=lambda name: None)
    layer = SimpleNamespace(heal=nothing, verify=nothing, block=nothing)
    clock = SimpleNamespace(set_clock_rate=lambda rate: None, set_wall_clock=lambda ms: None)
    levers = {node.id: SimpleNamespace(disk=disk, **vars(clock)) for node in cluster.nodes}
    return Testbed(
        cluster=cluster,
        links=cast("Any", SimpleNamespace(layer=lambda: layer, nodes=(1, 2, 3))),
        levers=cast("Any", levers),
        admin=cast("Any", None),
    )


async def nothing(*_: object, **__: object) -> None:
    pass


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The nodes that were started, which do not answer."""
    found: list[int] = []

    async def start(self: NodeProcess) -> None:
        found.append(self.id)
        self.launch()

    monkeypatch.setattr(NodeProcess, "start", start)
    return found


@pytest.mark.parametrize(
    ("kind", "said", "again"),
    [
        (DiskFull, FULL, True),
        (DiskFull, BROKEN, False),
        (DiskFull, FULL + BROKEN, False),
        (DiskFull, BAD_DISK, False),
        (DiskFull, "", False),
        (DiskSlow, FULL, False),
    ],
)
async def test_only_a_node_that_stopped_over_its_disk_is_started_again(
    kind: type[DiskNemesis], said: str, again: bool, tmp_path: Path, started: list[int]
) -> None:
    bed = made(tmp_path, "sleep 60")
    node = bed.node(1)
    node.log_path.write_text("before\n" + FULL)
    nemesis = kind(bed, random.Random(1))
    nemesis.struck, nemesis.said = node, len(node.log())
    with node.log_path.open("a") as log:
        log.write(said)
    for other in bed.cluster.nodes[1:]:
        other.launch()
    try:
        await DiskNemesis.end(nemesis)
        assert started == ([1] if again else [])
        assert bed.stopped_themselves() == ([] if again else [node])
        assert not bed.down
    finally:
        await bed.cluster.close()


@pytest.mark.parametrize("name", ["restart-all", "rolling-restart"])
async def test_a_graceful_end_with_a_code_is_an_error_that_says_why(
    name: str, tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = made(tmp_path, 'trap "echo it does not hold; exit 7" TERM; echo up; while true; do sleep 0.05; done')
    monkeypatch.setattr(NodeProcess, "answers", nothing)
    monkeypatch.setattr("raftkv.jepsen.nemeses.restart.leader_of", nothing)
    nemesis = create(name, bed, random.Random(1))
    try:
        for node in bed.cluster.nodes:
            node.launch()
        await until("they are up", lambda: all("up" in node.log() for node in bed.cluster.nodes))
        with pytest.raises(ClusterError, match=r"node \d was told to end and did so with code 7: .*it does not hold"):
            await nemesis.begin()
        await nemesis.end()
        assert all(node.running for node in bed.cluster.nodes)
        assert not bed.down
    finally:
        await bed.cluster.close()


async def test_checkpoints_of_nodes_that_are_all_down_are_proven_by_their_logs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.jepsen.nemeses.checkpoint.MAKE_S", 0.1)
    bed = made(tmp_path)
    nemesis = Checkpoint(bed, random.Random(1))
    first, second, _ = bed.cluster.nodes
    nemesis.before = {first: 0, second: 0}
    bed.down |= {1, 2, 3}
    with pytest.raises(FaultNotProven, match="checkpoints in the logs"):
        await nemesis.prove()
    first.log_path.write_text("checkpoint made, log compacted")
    await nemesis.prove()
    bed.down.remove(2)
    with pytest.raises(FaultNotProven, match="checkpoints in the logs"):
        await nemesis.prove()
    second.log_path.write_text("checkpoint made, log compacted")
    await nemesis.prove()


async def fails() -> None:
    raise RuntimeError("toxiproxy is gone")


async def goes_on() -> None:
    await asyncio.Event().wait()


async def test_what_a_task_of_a_nemesis_failed_of_is_told_at_its_end(tmp_path: Path) -> None:
    flapping, strobe = Flapping(made(tmp_path), random.Random(1)), ClockStrobe(made(tmp_path), random.Random(1))
    flapping._task = asyncio.create_task(fails())
    strobe._strobe = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for nemesis in (flapping, strobe):
        with pytest.raises(RuntimeError, match="toxiproxy is gone"):
            await nemesis.end()
        await nemesis.end()


async def test_to_abandon_ends_the_tasks_and_nothing_else(tmp_path: Path) -> None:
    bed = made(tmp_path)
    flapping, strobe = Flapping(bed, random.Random(1)), ClockStrobe(bed, random.Random(1))
    first = flapping._task = asyncio.create_task(goes_on())
    second = strobe._strobe = asyncio.create_task(goes_on())
    combined = Combination(bed, random.Random(1))
    combined.on += [flapping, strobe]
    nemeses: list[Nemesis] = [combined, combined, create("kill", bed, random.Random(1))]
    for nemesis in nemeses:
        nemesis.abandon()
    await asyncio.wait({first, second}, timeout=1.0)
    assert first.cancelled()
    assert second.cancelled()
