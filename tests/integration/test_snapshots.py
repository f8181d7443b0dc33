"""The log is compacted while everybody works, and who falls behind it gets a snapshot."""

from __future__ import annotations

import asyncio
import re
from functools import partial

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster, NodeProcess
from tests.integration.load import CounterLoad
from tests.integration.waiting import PATIENCE_S, until

pytestmark = pytest.mark.processes

SMALL = ["--checkpoint-log-bytes", "65536", "--wal-segment-bytes", "65536"]
VALUE_BYTES = 400
"""So large that one `progress` makes a checkpoint due."""


async def outrun_a_dead_node(client: AsyncClient, leader: NodeProcess, load: CounterLoad) -> None:
    """Write until the leader has compacted its log beyond all that a node can have that is down now."""
    last_index = (await client.status(leader.client_address)).last_index
    while first_kept(leader) <= last_index + 1:
        await load.progress()


def first_kept(node: NodeProcess) -> int:
    compactions = re.findall(r"checkpoint made, log compacted +first_kept=(\d+)", node.log())
    return int(compactions[-1]) if compactions else 1


@pytest.mark.slow
async def test_a_follower_that_fell_behind_the_compacted_log_catches_up_under_load() -> None:
    async with LocalCluster(3, arguments=SMALL) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with CounterLoad(client, "k", value_bytes=VALUE_BYTES) as load:
            await load.progress()
            leader = cluster.node(await cluster.leader())
            behind = next(node for node in cluster.nodes if node is not leader)
            await behind.kill()
            await outrun_a_dead_node(client, leader, load)
            await behind.start()
            await until("the snapshot is installed", lambda: "installed a snapshot" in behind.log())
            await load.progress()
            assert await cluster.leader() == leader.id, "nothing of this may cost an election"
        await load.verify_on_every_node(cluster)
        # Everybody starts again from checkpoint and log, and so does the session table (raft-bugs 31).
        for node in cluster.nodes:
            await node.kill()
        await asyncio.gather(*(node.start() for node in cluster.nodes))
        await load.verify_on_every_node(cluster)
        opened = [line for line in behind.log().splitlines() if "data directory open" in line]
        assert "checkpoint=None" not in opened[-1]


@pytest.mark.slow
async def test_a_follower_is_killed_again_and_again_while_it_installs() -> None:
    """Raft-bugs 28: whatever the kill leaves is the old state or the new one."""
    async with LocalCluster(3, arguments=SMALL) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with CounterLoad(client, "k", value_bytes=VALUE_BYTES) as load:
            leader = cluster.node(await cluster.leader())
            victim = next(node for node in cluster.nodes if node is not leader)
            for _ in range(2):
                await victim.kill()
                await outrun_a_dead_node(client, leader, load)
                installs = victim.log().count("installed a snapshot")
                await victim.start()
                await until("a snapshot is on its way", partial(_installs_more, victim, installs))
        await victim.kill()
        await victim.start()
        await load.verify_on_every_node(cluster)


def _installs_more(node: NodeProcess, than: int) -> bool:
    return node.log().count("installed a snapshot") > than
