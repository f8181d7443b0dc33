from __future__ import annotations

import asyncio
import math

import pytest

from raftkv.client import AsyncClient, DeleteResult, EndpointFailure, Guarantee, ReadLevel, Role, Status
from raftkv.client.batches import MAX_BATCH_OPERATIONS
from raftkv.errors import ConnectionFailed, ErrorCode, FailedPrecondition, InvalidArgument
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, execute, fake_cluster, ignore, is_probe, refusal


async def test_concurrent_puts_share_messages(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        before = len(single[1].batches)
        results = await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(1000)))
    assert len({result.revision for result in results}) == 1000
    assert len(single[1].batches) - before == math.ceil(1000 / MAX_BATCH_OPERATIONS)


async def test_large_values_travel_in_messages_of_about_a_mebibyte(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        before = len(single[1].batches)
        await asyncio.gather(*(client.put(f"k{number}", bytes(600_000)) for number in range(4)))
    assert [len(batch.operations) for batch in single[1].batches[before:]] == [1, 1, 1, 1]


async def test_what_cannot_be_sent_does_not_break_the_stream_for_others(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        with pytest.raises(InvalidArgument, match="too large"):
            await client.put("k", bytes(9 << 20))
        with pytest.raises(InvalidArgument, match="limit is -1"):
            await client.range("a", None, limit=-1)
        with pytest.raises(InvalidArgument, match="timeout"):
            await client.put("k", "v", timeout=0)
        assert (await client.put("k", "v")).revision == 1


async def test_results(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        assert (await client.put("a/1", "one")).revision == 1
        for key in ("a/2", "a/3", "b"):
            await client.put(key, key)
        found = await client.get(b"a/1")
        assert found is not None
        assert (found.key, found.value, found.guarantee) == (b"a/1", b"one", Guarantee.LINEARIZABLE)
        assert await client.get("none") is None
        page = await client.prefix("a/", limit=2)
        assert ([pair.key for pair in page.pairs], page.more, page.count) == ([b"a/1", b"a/2"], True, 2)
        assert page.guarantee is Guarantee.LINEARIZABLE
        assert [pair.key for pair in (await client.range("a/2", "b")).pairs] == [b"a/2", b"a/3"]
        assert [pair.key for pair in (await client.range("a/3", None)).pairs] == [b"a/3", b"b"]
        assert await client.count("a/") == 3
        assert await client.delete("none") == DeleteResult(5, 0)
        assert (await client.delete("a/1")).deleted == 1
        assert (await client.delete_range("a/2", "a/3")).deleted == 1
        assert (await client.delete_prefix("")).deleted == 2
        assert await client.count() == 0


async def test_a_scan_asks_page_by_page_at_one_revision(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(7)))
        await client.put("other", "v")
        keys = []
        async for pair in client.scan("k", page=3):
            keys.append(pair.key)
            if len(keys) == 1:
                await client.put("a-write", "in between")
    assert keys == [b"k%d" % number for number in range(7)]
    pages = [one.range for one in single[1].operations if one.HasField("range")]
    assert [page.limit for page in pages] == [3, 3, 3]
    assert [page.revision for page in pages] == [0, 8, 8]
    assert [page.cursor for page in pages] == [b"", b"3", b"6"]


async def test_a_chosen_node_answers_itself(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        for node in cluster.nodes.values():
            pair = await client.get("k", level=ReadLevel.LOCAL, endpoint=node.address)
            assert pair is not None
            assert pair.guarantee is Guarantee.STALE_PREFIX
            assert (await client.state_hash(node.address)).member_id == node.id
            assert (await client.status(node.address)).member_id == node.id
        await cluster[3].stop()
        with pytest.raises(ConnectionFailed) as raised:
            await client.get("k", level=ReadLevel.LOCAL, endpoint=cluster[3].address)
        assert cluster[3].address in raised.value.message


async def test_statuses_name_every_endpoint_also_the_unreachable_ones(cluster: FakeCluster) -> None:
    await cluster[3].stop()
    async with AsyncClient([cluster[1].address, "127.0.0.1:1"]) as client:
        answers = {one.endpoint: one for one in await client.statuses()}
    assert set(answers) == {*cluster.addresses, "127.0.0.1:1"}
    leader = answers[cluster[1].address]
    assert isinstance(leader, Status)
    assert (leader.role, leader.leader_id, leader.version) == (Role.LEADER, 1, "fake")
    follower = answers[cluster[2].address]
    assert isinstance(follower, Status), "one endpoint is enough for a view of the cluster"
    assert follower.role is Role.FOLLOWER
    for dead in (cluster[3].address, "127.0.0.1:1"):
        failure = answers[dead]
        assert isinstance(failure, EndpointFailure)
        assert isinstance(failure.error, ConnectionFailed)


async def test_transfer_and_members(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.transfer_leader(2)
        assert (await client.status()).leader_id == 2
        with pytest.raises(FailedPrecondition, match="9 is no voter"):
            await client.transfer_leader(9)
        assert [member.id for member in await client.members()] == [1, 2, 3]


def ignore_puts(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
    return ignore(node, batch, operation) if operation.HasField("put") else execute(node, batch, operation)


async def test_writes_beyond_the_window_wait(single: FakeCluster) -> None:
    single.store.window = 8
    single[1].script = ignore_puts
    async with AsyncClient(single.addresses) as client:
        puts = [asyncio.ensure_future(client.put(f"k{number}", "v")) for number in range(20)]
        await single[1].wait_for(lambda: len(single[1].ids("put")) >= 7)
        await client.get("barrier")  # on the same stream: what was sent before it has arrived when it is answered
        sent = single[1].ids("put")
        assert max(sent) - min(sent) < 8
        single[1].script = execute
        single[1].break_streams()
        await asyncio.gather(*puts)
    assert len(single.store.applied) == len(set(single.store.applied)) == 20


@pytest.mark.parametrize("window", [64, 16_384], ids=["waiting for the window", "queued on the stream"])
async def test_renewals_of_leases_overtake_a_backlog_of_writes(single: FakeCluster, window: int) -> None:
    """Else whoever writes a lot under a lock loses it, though nothing is wrong with the store."""
    single.store.window = window
    async with AsyncClient(single.addresses) as client:
        granted = await client.grant_lease(10.0)
        puts = [asyncio.ensure_future(client.put(f"k{number}", "v")) for number in range(3_000)]
        await asyncio.sleep(0)
        await client.renew_leases(granted.id)
        assert sum(put.done() for put in puts) < 1_500
        await asyncio.gather(*puts)


async def test_a_cancelled_write_neither_blocks_the_window_nor_is_sent_again(single: FakeCluster) -> None:
    single.store.window = 4
    single[1].script = ignore_puts
    async with AsyncClient(single.addresses) as client:
        stuck = asyncio.ensure_future(client.put("stuck", "v"))
        await single[1].wait_for(lambda: bool(single[1].ids("put")))
        sequence = single[1].ids("put")[0]
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        single[1].script = execute
        single[1].break_streams()
        for number in range(10):
            await client.put(f"k{number}", "v")
    assert single[1].batches[-1].acknowledged_below > sequence
    assert single[1].ids("put").count(sequence) == 1


async def test_a_write_that_is_cancelled_while_it_waits_is_never_sent(single: FakeCluster) -> None:
    single[1].script = ignore
    async with AsyncClient(single.addresses) as client:
        waiting = asyncio.ensure_future(client.put("waiting", "for a session"))
        await single[1].wait_for(lambda: bool(single[1].ids("register_session")))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        single[1].script = execute
        single[1].break_streams()
        await client.put("other", "v")
    assert [one.put.key for one in single[1].operations if one.HasField("put")] == [b"other"]


async def test_closing_fails_what_is_under_way_and_says_what_is_in_doubt(single: FakeCluster) -> None:
    client = AsyncClient(single.addresses)
    await client.put("warm", "up")
    single[1].script = ignore
    sent = asyncio.ensure_future(client.put("sent", "v"))
    read = asyncio.ensure_future(client.get("k"))
    await single[1].wait_for(lambda: len(single[1].operations) == 4)
    await client.close()
    await client.close()
    with pytest.raises(ConnectionFailed, match="closed") as raised:
        await sent
    assert raised.value.ambiguous
    with pytest.raises(ConnectionFailed, match="closed") as raised:
        await read
    assert not raised.value.ambiguous
    for late in (client.put("k", "v"), client.status()):
        with pytest.raises(ConnectionFailed, match="the client is closed"):
            await late


async def test_closing_while_nothing_can_be_reached() -> None:
    client = AsyncClient(["127.0.0.1:1"])
    put = asyncio.ensure_future(client.put("k", "v"))
    status = asyncio.ensure_future(client.status())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ConnectionFailed) as raised:
        await put
    assert not raised.value.ambiguous
    with pytest.raises(ConnectionFailed):
        await status


async def test_a_client_that_was_not_closed_is_reported(single: FakeCluster) -> None:
    client = AsyncClient(single.addresses)
    await client.put("k", "v")
    dispatcher = client._dispatcher
    assert dispatcher is not None
    with pytest.warns(ResourceWarning, match="was not closed"):
        del client
    await dispatcher.close()


async def test_a_refused_registration_fails_the_writes_that_wait_for_it() -> None:
    async with fake_cluster(1) as cluster, AsyncClient(cluster.addresses) as client:
        cluster[1].script = refusal(ErrorCode.FAILED_PRECONDITION)
        with pytest.raises(FailedPrecondition, match="no session could be registered"):
            await client.put("k", "v")
        cluster[1].script = execute
        assert (await client.put("k", "v")).revision == 1


async def test_a_backlog_waits_in_the_client_where_renewals_overtake_it(
    single: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written waits for all that was written before it, at the node and on the way back."""
    on_the_way = 2 * MAX_BATCH_OPERATIONS
    monkeypatch.setattr("raftkv.client.pipeline.MAX_OUTSTANDING", on_the_way)
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        before = len(single[1].ids("put"))
        single[1].script = ignore_puts
        backlog = asyncio.gather(*(client.put(f"k{number}", "v") for number in range(1000)))
        await single[1].wait_for(lambda: len(single[1].ids("put")) - before >= on_the_way)
        assert await client.renew_leases(7) == (0.0,)
        assert len(single[1].ids("put")) - before == on_the_way
        backlog.cancel()
        await asyncio.wait({backlog})


async def test_answers_make_room_for_a_backlog(single: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.client.pipeline.MAX_OUTSTANDING", 2 * MAX_BATCH_OPERATIONS)
    async with AsyncClient(single.addresses) as client:
        results = await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(1000)))
    assert len({result.revision for result in results}) == 1000


async def test_a_sign_of_life_is_asked_for_however_much_is_on_its_way(
    single: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node that is slow would be taken for one that is gone."""
    monkeypatch.setattr("raftkv.client.pipeline.MAX_OUTSTANDING", 1)
    async with AsyncClient(single.addresses, attempt_timeout=0.2) as client:
        await client.put("warm", "up")
        single[1].script = ignore_puts
        backlog = asyncio.gather(*(client.put(f"k{number}", "v") for number in range(300)))
        await single[1].wait_for(lambda: any(is_probe(one) for batch in single[1].batches for one in batch.operations))
        backlog.cancel()
        await asyncio.wait({backlog})
