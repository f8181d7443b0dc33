"""SIGSTOP and SIGCONT: a leader that sleeps is replaced, and serves nothing stale when it wakes."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from raftkv.client import AsyncClient, Guarantee, ReadLevel, Role
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster
from raftkv.v1 import common_pb2, kv_pb2
from tests.integration.load import CounterLoad
from tests.integration.stubs import stubs

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def test_the_majority_goes_on_without_a_paused_leader(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    sleeper = cluster.node(await cluster.leader())
    term = (await client.status(sleeper.client_address)).term
    async with CounterLoad(client, prefix) as load:
        await load.progress()
        sleeper.pause()
        await load.progress()
        successor = await cluster.leader(other_than=sleeper.id)
        assert (await client.status(cluster.node(successor).client_address)).term > term
        sleeper.resume()
        await load.progress()
    await load.verify_on_every_node(cluster)
    woken = await client.status(sleeper.client_address)
    assert (woken.role, woken.leader_id) == (Role.FOLLOWER, await cluster.leader())


async def test_a_woken_leader_serves_nothing_stale(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    """The requests wait in its sockets when it wakes, and it believes that it leads and that no time has passed."""
    sleeper = cluster.node(await cluster.leader())
    key, requests = f"{prefix}key", 20
    await client.put(key, "old")
    async with stubs(sleeper.client_address) as pinned:
        await pinned.kv.Range(kv_pb2.RangeRequest(key=key.encode()), timeout=10.0)  # the connection is up
        sleeper.pause()
        newest = await client.put(key, "new")

        reads = [pinned.kv.Range(kv_pb2.RangeRequest(key=key.encode()), timeout=30.0) for _ in range(requests)]
        writes = {
            f"{prefix}pinned/{number}".encode(): pinned.kv.Put(
                kv_pb2.PutRequest(key=f"{prefix}pinned/{number}".encode(), value=b"from the past"), timeout=30.0
            )
            for number in range(requests)
        }
        sleeper.resume()
        answers = await asyncio.gather(*reads, return_exceptions=True)
        outcomes = dict(zip(writes, await asyncio.gather(*writes.values(), return_exceptions=True), strict=True))

    served = [answer for answer in answers if isinstance(answer, kv_pb2.RangeResponse)]
    assert all(isinstance(answer, kv_pb2.RangeResponse | grpc.aio.AioRpcError) for answer in answers)
    assert len(served) >= 1, "no read was answered: nothing is proven"
    for answer in served:
        assert answer.kvs[0].value == b"new"
        assert answer.kvs[0].mod_revision == newest.revision
        assert answer.receipt.guarantee == common_pb2.GUARANTEE_LINEARIZABLE

    acknowledged = {key for key, outcome in outcomes.items() if isinstance(outcome, kv_pb2.PutResponse)}
    await cluster.converged()
    for node in cluster.nodes:
        held = await cluster.contents(node.id, f"{prefix}pinned/")
        assert acknowledged <= set(held), "a write was acknowledged and lost"
        assert {pair.version for pair in held.values()} <= {1}, "a write without a session was applied twice"


async def test_a_majority_that_sleeps_leaves_nobody_to_answer_but_for_local_reads(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    leader = cluster.node(await cluster.leader())
    sleepers = [node for node in cluster.nodes if node is not leader]
    await client.put(f"{prefix}key", "value")
    for node in sleepers:
        node.pause()
    with pytest.raises(RaftKVError):
        await client.get(f"{prefix}key", endpoint=leader.client_address, timeout=2.0)
    with pytest.raises(RaftKVError):
        await client.put(f"{prefix}key", "unknown", timeout=2.0)
    held = await client.get(f"{prefix}key", level=ReadLevel.LOCAL, endpoint=leader.client_address)
    assert held is not None
    assert (held.value, held.guarantee) == (b"value", Guarantee.STALE_PREFIX)
    for node in sleepers:
        node.resume()
    await client.put(f"{prefix}key", "again")
    await cluster.converged()
