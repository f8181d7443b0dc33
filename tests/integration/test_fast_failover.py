"""A leader that dies is replaced at once: its connections end with its process, and nobody waits for a timer."""

from __future__ import annotations

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster

ELECTION_MS = 60_000
"""Longer than the test may take: an election that needed this timer would make it fail."""

PATIENCE_S = 30.0

pytestmark = pytest.mark.processes


async def test_a_killed_leader_is_replaced_without_waiting_for_the_election_timeout() -> None:
    # The first election of all has no connection that could end: it must come soon, and only the later ones be slow.
    async with LocalCluster(3) as cluster:
        first = await cluster.leader()
        for node in cluster.nodes:
            node.extra_arguments += ["--election-ms", str(ELECTION_MS)]
        for node_id in [one.id for one in cluster.nodes if one.id != first]:
            await cluster.node(node_id).restart()
        assert await cluster.leader() == first
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            await client.put("before", "1")
            await cluster.node(first).kill()
            await client.put("after", "2")
            assert await cluster.leader(PATIENCE_S, other_than=first)
