"""A connection that ends is a hint, not a proof: whoever still hears the leader keeps it."""

from __future__ import annotations

import pytest

from raftkv.client import AsyncClient
from tests.partition.conftest import Network
from tests.partition.traffic import Traffic

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def test_a_follower_that_loses_its_leader_alone_deposes_nobody(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    """Its link to the leader is refused, both ways, again and again: it asks for pre-votes, and is refused."""
    cluster = network.cluster
    leader = await cluster.leader()
    other, follower = network.others(leader)
    address = cluster.node(leader).client_address
    term = (await client.status(address)).term
    async with Traffic(client, prefix) as traffic:
        await traffic.progress()
        await network.links.block(leader, follower, "cut")
        await network.links.verify_blocked(leader, follower)
        asked = "no leader"
        for _ in range(3):
            await traffic.progress()
            asked = str((await client.status(cluster.node(follower).client_address)).leader_id)
        status = await client.status(address)
        assert (status.leader_id, status.term) == (leader, term)
        assert (await client.status(cluster.node(other).client_address)).leader_id == leader
        assert asked == "0", "the follower did not take the hint, so it was not refused either"
        await network.heal()
        await traffic.progress()
    await cluster.converged()
    await traffic.verify(cluster)
    assert (await client.status(address)).term == term
