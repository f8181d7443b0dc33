"""Disks that fail under real nodes, in the kernel's calls: the node stops at once, and the cluster goes on."""

from __future__ import annotations

import asyncio
import errno
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.testing.disk_faults import FaultyDisk, why_unavailable
from tests.crash.cluster import SMALL, require_one_leader_a_term
from tests.crash.drives import TASKS, Load
from tests.crash.trials import Role
from tests.integration.waiting import PATIENCE_S, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(why_unavailable() != "", reason=f"NO DISK FAULTS WERE TESTED: {why_unavailable()}"),
]


@dataclass(frozen=True)
class Fatal:
    """A rule that must stop a node, and what it must say of it."""

    role: Role
    rule: str
    said: str


FATAL = (
    Fatal("leader", f"sync .wal {errno.EIO}", r"Input/output error: '.*/wal/\d+\.wal(\.tmp)?'"),
    Fatal("follower", f"write .wal {errno.EIO}", r"Input/output error: '.*/wal/\d+\.wal(\.tmp)?'"),
    Fatal("leader", f"sync creating.data {errno.EIO}", r"Input/output error: '.*/checkpoints/creating\.data'"),
    Fatal("follower", f"write store/data.mdb {errno.EIO}", r"/store.*: .*Input/output error"),
)


@pytest.mark.jepsen
async def test_bug_39_a_disk_that_fails_stops_the_node_at_once_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    cluster = LocalCluster(3, directory=tmp_path, arguments=SMALL)
    disks = {node.id: FaultyDisk(node) for node in cluster.nodes}
    async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with Load(client, "k") as load:
            for fault in FATAL:
                await load.progress(TASKS)
                leader = await cluster.leader()
                victim = next(node for node in cluster.nodes if (node.id == leader) == (fault.role == "leader"))
                mark = len(victim.log())
                disks[victim.id].fail(fault.rule)
                said = await stopped_by_itself(victim, mark)
                assert re.search(fault.said, said), f"{fault}: {said}"
                assert len(disks[victim.id].hits()) == 1, "a failed disk was tried again"
                await load.progress(TASKS)
                disks[victim.id].heal()
                await victim.start()
        await load.verify_on_every_node(cluster, at_least=TASKS)
    require_one_leader_a_term(cluster)


async def test_a_disk_that_cannot_be_read_keeps_a_node_from_starting(tmp_path: Path) -> None:
    async with LocalCluster(1, directory=tmp_path, arguments=SMALL) as cluster:
        node = cluster.node(1)
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            await client.put("k", "v")
            await node.kill()
            disk = FaultyDisk(node)
            disk.fail(f"read .wal {errno.EIO}")
            mark = len(node.log())
            node.launch()
            said = await stopped_by_itself(node, mark)
            assert re.search(r"Input/output error: '.*/wal/\d+\.wal'", said)
            assert "check the disk" in said
            disk.heal()
            await node.start()
            pair = await client.get("k")
            assert pair is not None
            assert pair.value == b"v"


async def test_short_writes_cost_nothing(tmp_path: Path) -> None:
    cluster = LocalCluster(1, directory=tmp_path, arguments=SMALL)
    disk = FaultyDisk(cluster.node(1))
    disk.fail("write .wal short", "write checkpoints/ short", "write .json short")
    async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with Load(client, "k") as load:
            await load.progress(TASKS)
            await until("a checkpoint", lambda: any("creating.data" in hit for hit in disk.hits()))
            await load.progress(TASKS)
            disk.heal()
            await cluster.node(1).kill()
            await cluster.node(1).start()
            await load.progress(TASKS)
        await load.verify_on_every_node(cluster, at_least=TASKS)


async def stopped_by_itself(node: NodeProcess, mark: int) -> str:
    """Wait for the end of a node that nobody has stopped. Return the one line in which it says why."""
    assert await asyncio.wait_for(node.wait_ended(), PATIENCE_S) == 1
    said = node.log()[mark:]
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("raftkv: "))
    return line
