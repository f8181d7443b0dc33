"""Links fail without the leader: it stays, whoever was away comes back quietly, and reads are never stale."""

from __future__ import annotations

import asyncio
import time

import pytest

from raftkv.client import AsyncClient, Guarantee, KeyValue, ReadLevel
from raftkv.errors import DeadlineExceeded, LeaderChanged, NoLeader, RaftKVError
from raftkv.testing.links import How
from tests.integration.waiting import PATIENCE_S, until
from tests.partition.conftest import Network
from tests.partition.traffic import Traffic

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def term_of(network: Network, client: AsyncClient, node: int) -> int:
    return (await client.status(network.cluster.node(node).client_address)).term


@pytest.mark.parametrize("how", ["blackhole", "cut"])
async def test_an_isolated_follower_comes_back_without_an_election(
    network: Network, client: AsyncClient, prefix: str, how: How
) -> None:
    """It has campaigned all the while; PreVote kept it from raising its term, and the leader in office."""
    cluster = network.cluster
    leader = await cluster.leader()
    follower = network.others(leader)[0]
    term = await term_of(network, client, leader)
    async with Traffic(client, prefix) as traffic:
        await network.links.isolate(follower, how)
        await network.links.verify_isolated(follower)
        await _until_it_campaigns(network, client, follower)
        await traffic.progress(200)
        assert await term_of(network, client, follower) == term
        await network.links.verify_isolated(follower)
        await network.heal()
        await traffic.progress(200)
    await cluster.converged()
    await traffic.verify(cluster)
    assert await cluster.leader() == leader
    assert [await term_of(network, client, node) for node in network.links.nodes] == [term] * 3


async def test_a_follower_that_the_leader_cannot_reach_does_not_depose_it(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    """A bridge: the third node reaches both. It hears its leader, so it pre-votes for nobody else (stickiness)."""
    cluster = network.cluster
    leader = await cluster.leader()
    away, bridge = network.others(leader)
    term = await term_of(network, client, leader)
    async with Traffic(client, prefix) as traffic:
        await network.links.block(leader, away)
        await network.links.verify_blocked(leader, away)
        await network.links.verify_open(away, bridge)
        await _until_it_campaigns(network, client, away)
        await traffic.progress(200)
        await network.links.verify_blocked(leader, away)
        await network.heal()
        await traffic.progress(200)
    await cluster.converged()
    await traffic.verify(cluster)
    assert (await cluster.leader(), await term_of(network, client, leader)) == (leader, term)


async def test_a_flapping_link_does_not_keep_the_cluster_from_converging(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    cluster = network.cluster
    flaps: list[How] = ["blackhole", "cut", "reset", "blackhole", "cut"]
    async with Traffic(client, prefix) as traffic:
        for how in flaps:
            leader = await cluster.leader()
            follower = network.others(leader)[0]
            await network.links.block(leader, follower, how)
            await network.links.verify_blocked(leader, follower)
            await traffic.progress(60)
            await network.heal()
            await traffic.progress(60)
    await cluster.converged()
    await traffic.verify(cluster)


@pytest.mark.parametrize("one_way", [False, True], ids=["both-ways", "one-way"])
async def test_a_silent_link_is_noticed(network: Network, client: AsyncClient, one_way: bool) -> None:
    """Connections stay open in a black hole: only unanswered pings tell. Both ends must give them up.

    gRPC's keepalive options alone do not: what they forward to a node that is gone would hang until its deadline.
    """
    cluster, links = network.cluster, network.links
    leader = await cluster.leader()
    follower = network.others(leader)[0]
    marks = {node.id: len(node.log()) for node in cluster.nodes}
    if one_way:
        await links.block_one_way(follower, leader)
        await links.verify_blocked_one_way(follower, leader)
    else:
        await links.block(follower, leader)
        await links.verify_blocked(follower, leader)

    def noticed(this: int, other: int) -> bool:
        return _complains(cluster.node(this).log()[marks[this] :], other)

    # After some four seconds by the settings of the transport, after a minute by gRPC's own.
    await until("both have noticed", lambda: noticed(leader, follower) and noticed(follower, leader), 30.0)


async def test_reads_through_a_follower_are_never_stale_while_its_links_heal(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    cluster = network.cluster
    leader = await cluster.leader()
    follower = cluster.node(network.others(leader)[0])
    key = f"{prefix}key"
    first = await client.put(key, "0")
    acknowledged = [(time.monotonic(), first.revision)]
    answered: list[tuple[float, KeyValue]] = []
    refused: list[RaftKVError] = []
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            written = await client.put(key, str(number))
            acknowledged.append((time.monotonic(), written.revision))

    async def read() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                pair = await client.get(key, endpoint=follower.client_address, timeout=2.0)
            except RaftKVError as error:
                refused.append(error)
            else:
                assert pair is not None
                answered.append((began, pair))

    async with asyncio.TaskGroup() as tasks:
        await network.links.isolate(follower.id)
        await network.links.verify_isolated(follower.id)
        tasks.create_task(write())
        for _ in range(4):
            tasks.create_task(read())
        await until("reads fail, writes go on", lambda: len(refused) >= 8 and len(acknowledged) >= 100)
        assert not answered, "it answered a linearizable read out of its own, stale state"
        local = await client.get(key, level=ReadLevel.LOCAL, endpoint=follower.client_address)
        await network.links.verify_isolated(follower.id)
        await network.heal()
        await until("reads succeed again", lambda: len(answered) >= 100)
        stop.set()

    assert local is not None
    assert (local.mod_revision, local.guarantee) == (first.revision, Guarantee.STALE_PREFIX)
    # By the client's own clock a call may end ambiguous; by the node's account no read ever does.
    assert all(isinstance(error, NoLeader | LeaderChanged | DeadlineExceeded) for error in refused)
    assert not any(error.ambiguous for error in refused if not isinstance(error, DeadlineExceeded))
    for began, pair in answered:
        newest = max(revision for moment, revision in acknowledged if moment < began)
        assert pair.mod_revision >= newest, f"stale: {pair}, though {newest} was acknowledged before"
        assert pair.guarantee is Guarantee.LINEARIZABLE
    await cluster.converged()


def _complains(log: str, peer: int) -> bool:
    return any("no connection to peer" in line and f"peer={peer} " in line for line in log.splitlines())


async def _until_it_campaigns(network: Network, client: AsyncClient, node: int) -> None:
    """Wait until the node has given its leader up: it asks for votes, or has been refused."""
    address = network.cluster.node(node).client_address
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if (await client.status(address)).leader_id == 0:
                return
