"""`raftkv serve --priority`: the preferred node leads whenever it can, and clients do not notice."""

from __future__ import annotations

import asyncio

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from tests.integration.load import CounterLoad
from tests.integration.waiting import PATIENCE_S, POLL_S

pytestmark = pytest.mark.processes


async def takes_over(cluster: LocalCluster, node: int) -> int:
    """Wait until `node` leads; return the term."""
    async with AsyncClient(cluster.endpoints) as client, asyncio.timeout(PATIENCE_S):
        while await cluster.leader() != node:  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(POLL_S)
        return (await client.status(cluster.node(node).client_address)).term


@pytest.mark.slow
async def test_the_preferred_node_takes_over_when_it_has_caught_up_and_stays_in_office() -> None:
    async with LocalCluster(3) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        preferred = cluster.node(3)
        await preferred.kill()
        preferred.extra_arguments += ["--priority", "5"]
        async with CounterLoad(client, "k", tasks=12) as load:
            await load.progress()
            await preferred.start()
            term = await takes_over(cluster, preferred.id)
            await load.progress()

            # Whoever comes back finds it in office, in the same term: nobody has tried to depose it.
            await cluster.node(1).restart()
            await load.progress()
            assert await takes_over(cluster, preferred.id) == term

            # Somebody else is put in its place: that one gives way again.
            await client.transfer_leader(2)
            assert await takes_over(cluster, preferred.id) > term
            await load.progress()
        await load.verify_on_every_node(cluster)
