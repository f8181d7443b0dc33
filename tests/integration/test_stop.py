"""SIGTERM under load: the node hands over, answers what it was asked, and goes; nobody sees an error."""

from __future__ import annotations

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster, NodeProcess
from tests.integration.load import CounterLoad

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def stop_cleanly(node: NodeProcess) -> None:
    mark = len(node.log())
    code = await node.stop()
    assert code == 0, node.log()[mark:]


@pytest.mark.slow
async def test_the_leader_stops_under_load(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    leader = cluster.node(await cluster.leader())
    mark = len(leader.log())
    async with CounterLoad(client, prefix) as load:
        await load.progress()
        await stop_cleanly(leader)
        await load.progress()
        assert await cluster.leader() != leader.id
        await leader.start()
        await load.progress()
    await load.verify_on_every_node(cluster)
    assert "clean_shutdown=True" in leader.log()[mark:]
