"""SIGKILL under load: callers see a pause, not an error; nothing acknowledged is lost; nothing is applied twice."""

from __future__ import annotations

import asyncio

import pytest

from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster
from tests.integration.load import CounterLoad

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def test_the_leader_is_killed_under_load(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    victim = await cluster.leader()
    term = (await client.status(cluster.node(victim).client_address)).term
    async with CounterLoad(client, prefix) as load:
        await load.progress()
        await cluster.node(victim).kill()
        await load.progress()
        successor = await cluster.leader(other_than=victim)
        assert (await client.status(cluster.node(successor).client_address)).term > term
        await cluster.node(victim).start()
        await load.progress()
    await load.verify_on_every_node(cluster)


@pytest.mark.slow
async def test_leader_after_leader_is_killed_under_load(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    terms = []
    async with CounterLoad(client, prefix) as load:
        for _ in range(3):
            await load.progress()
            victim = cluster.node(await cluster.leader())
            terms.append((await client.status(victim.client_address)).term)
            await victim.kill()
            await load.progress()
            await victim.start()
    assert terms == sorted(set(terms)), "two leaders in one term"
    await load.verify_on_every_node(cluster)


async def test_all_nodes_are_killed_at_once_under_load(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    async with CounterLoad(client, prefix) as load:
        await load.progress()
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        before = load.acknowledged
        await asyncio.gather(*(node.start() for node in cluster.nodes))
        await load.progress()
    assert load.acknowledged > before
    await load.verify_on_every_node(cluster)


async def test_bug_32_ack_only_after_durable(cluster: LocalCluster, prefix: str) -> None:
    """A write is acknowledged once a majority has it on disk, so it survives SIGKILL of all nodes at once.

    SIGKILL is not a power loss: what was written, but not synced, is safe with the kernel, so this shows only that
    nothing is acknowledged from a process's memory. That it was synced is shown where the disk is simulated:
    tests/storage/test_wal_crash.py for the log, tests/raft/test_persistence.py for the order of sync and answer.
    """
    acknowledged: dict[bytes, bytes] = {}
    proposed: dict[bytes, bytes] = {}
    enough = asyncio.Event()

    async def write(client: AsyncClient, task: int) -> None:
        for number in range(1_000_000):
            key = f"{prefix}{task}/{number}".encode()
            proposed[key] = value = f"value of {task}/{number}".encode()
            await client.put(key, value)
            acknowledged[key] = value
            if len(acknowledged) >= 500:
                enough.set()

    async with AsyncClient(cluster.url, timeout=60.0) as client, asyncio.timeout(60.0):
        writers = [asyncio.create_task(write(client, task)) for task in range(32)]
        await enough.wait()
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
    # The client is closed, so nothing is sent again: what is there now was there when the nodes died.
    ends = await asyncio.gather(*writers, return_exceptions=True)
    assert all(isinstance(end, RaftKVError) for end in ends)

    await asyncio.gather(*(node.start() for node in cluster.nodes))
    await cluster.converged()
    assert len(acknowledged) >= 500
    for node in cluster.nodes:
        held = {key: pair.value for key, pair in (await cluster.contents(node.id, prefix)).items()}
        assert acknowledged.items() <= held.items(), f"node {node.id} lost acknowledged writes"
        assert held.items() <= proposed.items(), f"node {node.id} holds what nobody wrote"


async def test_a_follower_that_was_down_catches_up(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    leader = await cluster.leader()
    follower = next(node for node in cluster.nodes if node.id != leader)
    await client.put(f"{prefix}before", "old")
    await follower.kill()
    async with CounterLoad(client, prefix + "while-down/") as load:
        await load.progress(1000)
    await client.put(f"{prefix}before", "new")
    mark = len(follower.log())
    await follower.start()
    assert "clean_shutdown=False" in follower.log()[mark:]
    await load.verify_on_every_node(cluster, at_least=1000)
    assert (await cluster.contents(follower.id, f"{prefix}before"))[f"{prefix}before".encode()].value == b"new"


@pytest.mark.slow
async def test_a_node_killed_alone_replays_its_log_to_the_same_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cluster of one: there is no peer from which it could get back what its own disk does not hold."""
    async with (
        LocalCluster(1, directory=tmp_path_factory.mktemp("one")) as cluster,
        AsyncClient(cluster.url, timeout=60.0) as client,
    ):
        node = cluster.node(1)
        assert await cluster.leader() == 1
        async with CounterLoad(client, "count/") as load:
            await load.progress(300)
            await node.kill()
            await node.start()
            await load.progress(300)
        await load.verify_on_every_node(cluster)
        before = await cluster.converged()
        contents = await cluster.contents(1)

        await node.kill()
        await node.start()
        assert await cluster.leader() == 1
        after = await cluster.converged()
        assert after.applied_index == before.applied_index + 1, "not just the empty entry of the new term"
        assert await cluster.contents(1) == contents

        assert await node.stop() == 0
        mark = len(node.log())
        await node.start()
        assert "clean_shutdown=True" in node.log()[mark:]
        assert await cluster.contents(1) == contents
