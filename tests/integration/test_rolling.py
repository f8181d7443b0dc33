"""A rolling restart under the load of every day: no request fails, nothing is lost, no watch has a gap."""

from __future__ import annotations

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.rolling import in_order, rolling_restart
from tests.integration.everyday import Everyday

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


@pytest.mark.parametrize(
    "leader_first", [pytest.param(True, marks=pytest.mark.jepsen), pytest.param(False, marks=pytest.mark.slow)]
)
async def test_every_node_is_restarted_in_turn(cluster: LocalCluster, prefix: str, *, leader_first: bool) -> None:
    async with AsyncClient(cluster.url) as client, Everyday(client, prefix) as load:
        await load.progress()
        pids = [node.pid for node in cluster.nodes]
        nodes = in_order(cluster.nodes, await cluster.leader(), leader_first=leader_first)
        await rolling_restart(cluster.endpoints, nodes, between=load.progress)
        assert not {node.pid for node in cluster.nodes} & set(pids)
        await load.finish()
    load.verify()
    await cluster.converged()
    newest = {key: value for key, value, _ in load.written}
    for node in cluster.nodes:
        held = await cluster.contents(node.id, prefix)
        pairs = {key: pair for key, pair in held.items() if key in newest}
        assert {key: pair.value for key, pair in pairs.items()} == newest, f"node {node.id} lost writes"
        assert all(pair.version == int(pair.value) for pair in pairs.values()), f"node {node.id} applied a write twice"
