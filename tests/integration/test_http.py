"""Health and metrics of real nodes, over HTTP: with a majority, with a follower that is stopped, and without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from raftkv.client import AsyncClient
from raftkv.server.metrics.names import METRICS, Presence
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.testing.processes import LOOPBACK, free_port
from tests.integration.waiting import PATIENCE_S, POLL_S

pytestmark = pytest.mark.processes

Samples = dict[tuple[str, str], float]
"""By name and, where there is one, value of the only label."""


def address(node: NodeProcess) -> str:
    return node.environment["RAFTKV_HTTP_LISTEN"]


async def get(session: aiohttp.ClientSession, node: NodeProcess, path: str) -> tuple[int, str]:
    async with session.get(f"http://{address(node)}{path}", timeout=aiohttp.ClientTimeout(PATIENCE_S)) as response:
        return response.status, await response.text()


async def metrics(session: aiohttp.ClientSession, node: NodeProcess) -> Samples:
    status, text = await get(session, node, "/metrics")
    assert status == 200
    return {
        (sample.name, sample.labels.get("peer", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def until_told(
    session: aiohttp.ClientSession, node: NodeProcess, condition: Callable[[Samples], bool]
) -> Samples:
    async with asyncio.timeout(PATIENCE_S):
        while not condition(found := await metrics(session, node)):  # noqa: ASYNC110 - as Prometheus does it
            await asyncio.sleep(POLL_S)
    return found


async def until_ready(session: aiohttp.ClientSession, node: NodeProcess, status: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await get(session, node, "/readyz"))[0] != status:  # noqa: ASYNC110 - as a probe does it
            await asyncio.sleep(POLL_S)


async def test_what_nodes_tell_over_http() -> None:
    cluster = LocalCluster(3)
    for node in cluster.nodes:
        node.environment["RAFTKV_HTTP_LISTEN"] = f"{LOOPBACK}:{free_port()}"
    async with cluster, AsyncClient(cluster.url) as client, aiohttp.ClientSession() as session:
        await client.put("k", "v")
        leader = cluster.node(await cluster.leader())
        follower, other = (node for node in cluster.nodes if node is not leader)
        for node in cluster.nodes:
            await until_ready(session, node, 200)

        # Every metric of the table that a healthy leader has, and what only leaders have nowhere else.
        told = {name for name, _ in await metrics(session, leader)}
        wanted = {name for name, one in METRICS.items() if one.presence in (Presence.ALWAYS, Presence.LEADER)}
        assert not {name for name in wanted if name not in told and f"{name}_count" not in told}
        led = {name for name, one in METRICS.items() if one.presence is Presence.LEADER}
        assert led.isdisjoint(name for name, _ in await metrics(session, follower))

        # A follower that is stopped lags, and is not active; the others go on.
        follower.pause()
        await client.put("k", "w")
        lags = "raftkv_peer_lag_seconds", str(follower.id)
        first = (await until_told(session, leader, lambda found: found[lags] > 0))[lags]
        found = await until_told(
            session, leader, lambda found: found[lags] > first and not found["raftkv_peer_active", str(follower.id)]
        )
        assert found["raftkv_peer_lag_entries", str(follower.id)] >= 1
        assert (found["raftkv_active_voters", ""], found["raftkv_write_quorum_reached", ""]) == (2, 1)
        assert found["raftkv_peer_connected", str(other.id)] == 1
        status = await client.status(leader.client_address)
        seen = next(one for one in status.progress if one.id == follower.id)
        assert seen.lag_s > 0
        assert status.http_address == address(leader)
        follower.resume()
        await until_told(session, leader, lambda found: found[lags] == 0 and found["raftkv_active_voters", ""] == 3)

        # Without a majority no node is ready, and each is alive.
        await leader.kill()
        await follower.kill()
        await until_ready(session, other, 503)
        for _ in range(3):
            status_code, text = await get(session, other, "/readyz?verbose")
            assert (status_code, "[-]" in text, "readyz check failed" in text) == (503, True, True)
            assert (await get(session, other, "/livez")) == (200, "ok\n")
        found = await metrics(session, other)
        assert (found["raftkv_ready", ""], found["raftkv_has_leader", ""]) == (0, 0)

        # And with one again they are; the change of leaders has been counted.
        await leader.start()
        await until_ready(session, other, 200)
        found = await until_told(session, other, lambda found: found["raftkv_failover_duration_seconds", ""] > 0)
        seen_by_client = (await client.status(other.client_address)).failover
        assert seen_by_client is not None
        assert not seen_by_client.planned
        assert found["raftkv_ready", ""] == 1
