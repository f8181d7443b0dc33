from __future__ import annotations

import asyncio

import grpc
import pytest

from raftkv.client import AsyncClient
from raftkv.client.batches import MAX_BATCH_OPERATIONS
from raftkv.client.dispatcher import POLL_CALLS
from raftkv.errors import ConnectionFailed, DeadlineExceeded, ErrorCode
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, execute, fake_cluster, ignore, refusal


async def put_until(client: AsyncClient, node: FakeNode) -> None:
    """Write until a write arrives at `node` itself: the client has learned to go there."""
    async with asyncio.timeout(60):
        while not node.ids("put"):
            await client.put("probing", "v")


async def test_the_client_goes_to_the_leader_directly(cluster: FakeCluster) -> None:
    cluster.leader_id = 3
    async with AsyncClient(cluster.addresses) as client:
        await put_until(client, cluster[3])
        before = [len(cluster[node_id].batches) for node_id in (1, 2)]
        await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(20)))
        assert [len(cluster[node_id].batches) for node_id in (1, 2)] == before
        cluster.elect(2)
        await put_until(client, cluster[2])


async def test_a_configured_endpoint_wins_over_the_address_that_the_leader_announces(cluster: FakeCluster) -> None:
    cluster.leader_id = 3
    async with fake_cluster(1) as elsewhere, AsyncClient(cluster.addresses) as client:
        cluster.announced[3] = elsewhere[1].address
        await put_until(client, cluster[3])
        assert elsewhere[1].batches == []


async def test_a_leader_that_is_not_configured_is_dialled_where_it_announces_itself(cluster: FakeCluster) -> None:
    async with AsyncClient([cluster[2].address]) as client:
        await put_until(client, cluster[1])
        await cluster[1].stop()
        cluster.elect(3)
        await put_until(client, cluster[3])
    async with AsyncClient([cluster[2].address], dial_learned=False) as client:
        before = len(cluster[3].batches)
        for number in range(5):
            await client.put(f"k{number}", "v")
        assert len(cluster[3].batches) == before


async def test_killing_the_leader_under_load_is_a_pause_and_not_an_error(cluster: FakeCluster) -> None:
    written = 0

    async def writer(client: AsyncClient, number: int) -> None:
        nonlocal written
        for turn in range(20):
            await client.put(f"k{number}", f"v{turn}")
            written += 1
            if written == 400:
                for node_id in (2, 3):
                    cluster[node_id].script = refusal(ErrorCode.NO_LEADER)
                await cluster[1].stop()
                asyncio.get_running_loop().call_later(0.1, elect_2)

    def elect_2() -> None:
        cluster.elect(2)
        for node_id in (2, 3):
            cluster[node_id].script = execute

    async with AsyncClient(cluster.addresses) as client:
        await asyncio.gather(*(writer(client, number) for number in range(50)))
    assert written == 1000
    assert len(cluster.store.applied) == len(set(cluster.store.applied)) == 1000


async def test_after_an_election_the_pause_ends_within_a_poll(cluster: FakeCluster) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncClient(cluster.addresses) as client:
        await client.put("warm", "up")
        for _ in range(20):  # a busy machine holds up some, and not all
            for node in cluster.nodes.values():
                node.script = refusal(ErrorCode.NO_LEADER)
            put = asyncio.ensure_future(client.put("k", "v"))
            polls = len(cluster[2].ids("put"))
            await cluster[2].wait_for(lambda polls=polls: len(cluster[2].ids("put")) >= polls + 3)  # type: ignore[misc]
            cluster.elect(2)
            for node in cluster.nodes.values():
                node.script = execute
            elected = loop.time()
            await put
            if loop.time() < elected + 0.25:  # 25 ms, and room for a busy machine
                break
        else:
            pytest.fail("no pause has ended within a poll")


async def test_clients_that_wait_for_a_leader_do_not_flood_the_nodes_that_elect_one(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("warm", "up")
        for node in cluster.nodes.values():
            node.script = refusal(ErrorCode.NO_LEADER)
        puts = [asyncio.ensure_future(client.put(f"k{number}", "v")) for number in range(500)]
        await cluster[3].wait_for(lambda: len(cluster[3].ids("put")) >= 500)
        before = {node_id: len(node.batches) for node_id, node in cluster.nodes.items()}
        await cluster[3].wait_for(lambda: len(cluster[3].batches) >= before[3] + 5)
        later = [batch for node_id, node in cluster.nodes.items() for batch in node.batches[before[node_id] :]]
        # On a busy machine some polls may share a message; a flood would come in full messages.
        assert 0 < sum(len(batch.operations) for batch in later) / len(later) <= 1.5 * POLL_CALLS
        before = {node_id: len(node.batches) for node_id, node in cluster.nodes.items()}
        for node in cluster.nodes.values():
            node.script = execute
        await asyncio.gather(*puts)
        later = [batch for node_id, node in cluster.nodes.items() for batch in node.batches[before[node_id] :]]
        full = [batch for batch in later if len(batch.operations) == MAX_BATCH_OPERATIONS]
        assert len(full) >= 2, "the first success lets all others go"


async def test_a_black_hole_is_left_with_the_same_session_and_sequence(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, attempt_timeout=0.2) as client:
        await client.put("warm", "up")
        await put_until(client, cluster[1])
        cluster[1].silent = True
        cluster[1].script = ignore
        seen = len(cluster[1].operations)
        await asyncio.gather(*(client.put(f"k{number}", "v", timeout=60) for number in range(10)))
        moved = set(cluster[1].ids("put")[-10:])
        assert moved <= set(cluster[2].ids("put") + cluster[3].ids("put"))
        sent_there = len(cluster[1].operations)
        assert sent_there == seen + 10
        await client.put("k", "v")
        assert len(cluster[1].operations) == sent_there, "it still names itself the leader, but is not trusted"
    assert len(cluster.store.applied) == len(set(cluster.store.applied))


async def test_a_node_that_is_only_slow_keeps_its_calls(cluster: FakeCluster) -> None:
    def slow(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        return ignore(node, batch, operation) if operation.HasField("put") else execute(node, batch, operation)

    async with AsyncClient(cluster.addresses, attempt_timeout=1.0) as client:
        await put_until(client, cluster[1])
        cluster[1].script = slow
        with pytest.raises(DeadlineExceeded):
            await client.put("slow", "v", timeout=2.5)
        slow_ones = [
            (node.id, operation.id)
            for node in cluster.nodes.values()
            for operation in node.operations
            if operation.put.key == b"slow"
        ]
    assert len(slow_ones) == 1, "it answered a sign of life, so there was no reason to send the write elsewhere"


async def test_a_node_that_comes_back_is_found(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("a", "v")
        await single[1].stop()
        put = asyncio.ensure_future(client.put("b", "v"))
        await single[1].restart()
        await put
    assert len(single.store.applied) == 2


async def test_a_stream_that_the_server_cancels_is_a_broken_stream_and_cancels_no_caller(single: FakeCluster) -> None:
    single[1].break_code = grpc.StatusCode.CANCELLED
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        single[1].script = ignore
        put = asyncio.ensure_future(client.put("k", "v"))
        await single[1].wait_for(lambda: len(single[1].ids("put")) == 2)
        single[1].script = execute
        single[1].break_streams()
        assert (await put).revision == 2


async def test_giving_up_a_connection_fails_single_calls_on_it_and_cancels_no_caller(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, attempt_timeout=0.2) as client:
        await put_until(client, cluster[1])
        cluster[1].silent = True
        cluster[1].script = ignore
        status = asyncio.ensure_future(client.status(cluster[1].address))
        await client.put("k", "v")
        with pytest.raises(ConnectionFailed, match="given up") as raised:
            await status
        assert raised.value.ambiguous
