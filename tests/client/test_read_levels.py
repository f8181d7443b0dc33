"""Levels of reads: what is sent, where, and what the answer says; and that a client never goes back in time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.client import (
    AsyncClient,
    AtLeast,
    Bounded,
    BreakerState,
    Guarantee,
    Quorum,
    ReadFrom,
    ReadLevel,
    ReadToken,
)
from raftkv.client.breaker import FAILURES_TO_OPEN
from raftkv.errors import (
    ClusterMismatch,
    ErrorCode,
    InvalidArgument,
    QuorumUnavailable,
    TokenOutOfRange,
    TooStale,
)
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, execute, ignore, refusal


async def all_connected(client: AsyncClient) -> None:
    """Wait until every endpoint has answered. Every status call lets the loop turn."""
    async with asyncio.timeout(60):
        while not all(one.connected for one in client.endpoint_states()):
            await client.status()


def reads(cluster: FakeCluster) -> list[tuple[int, kv_pb2.RangeRequest]]:
    return [(node.id, one.range) for node in cluster.nodes.values() for one in node.operations if one.HasField("range")]


async def test_an_answer_says_what_it_is(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, monotonic=False) as client:
        await client.put("k", "v")
        found = await client.read("k")
        assert found.pair is not None
        assert (found.guarantee, found.pair.guarantee) == (Guarantee.LINEARIZABLE, Guarantee.LINEARIZABLE)
        assert found.receipt.token == client.token == ReadToken(7, 1, 1)
        cluster[1].staleness_ms = 250
        found = await client.read("absent", level=Bounded(0.5))
        assert (found.pair, found.guarantee, found.receipt.staleness) == (None, Guarantee.BOUNDED, 0.25)
        found = await client.read("k", level=Quorum(1))
        assert (found.guarantee, found.receipt.sees_writes_at) == (Guarantee.SEES_WRITES_AT_W_GE, 3)
        assert found.receipt.words == "sees every write acknowledged at W >= 3"
        found = await client.read("k", level=Quorum())
        assert (found.guarantee, found.receipt.replicas) == (Guarantee.LINEARIZABLE, 2)
        found = await client.read("k", level=AtLeast())
        assert (found.guarantee, found.receipt.served_by) == (Guarantee.AT_LEAST, 1)
        counted = await client.count("k", level=ReadLevel.LOCAL)
        assert (counted, counted.guarantee) == (1, Guarantee.STALE_PREFIX)
        page = await client.prefix("k", level=ReadLevel.LOCAL)
        assert page.guarantee is page.pairs[0].guarantee is page.receipt.guarantee is Guarantee.STALE_PREFIX


async def test_what_is_sent(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster[1].address, dial_learned=False) as client:
        await client.get("k", level=ReadLevel.LOCAL)
        await client.get("k", level=AtLeast())
        await client.put("k", "v")
        await client.get("k", level=ReadLevel.LOCAL)
        await client.get("k", level=Bounded(1.5))
        await client.get("k", level=Quorum(3))
        await client.get("k")
    levels = kv_pb2.ReadLevel
    sent = [request for _, request in reads(cluster)]
    assert [one.level for one in sent] == [
        levels.LOCAL,  # nothing was seen yet
        levels.LOCAL,
        levels.AT_LEAST,
        levels.BOUNDED,
        levels.QUORUM,
        levels.LINEARIZABLE,
    ]
    assert [one.at_least.index for one in sent] == [0, 0, 1, 1, 1, 0]
    assert sent[3].max_staleness_ms == 1500
    assert sent[4].replicas == 3


async def to_and_fro(cluster: FakeCluster, client: AsyncClient) -> list[bytes]:
    """Write, then read LOCAL where nothing newer has arrived: first of all at the node that lags."""
    await client.put("k", "old")
    cluster[2].freeze()
    await client.put("k", "new")
    await all_connected(client)
    await cluster[1].stop()
    found = []
    for _ in range(6):
        pair = await client.get("k", level=ReadLevel.LOCAL)
        assert pair is not None
        found.append(pair.value)
    return found


async def test_a_client_sees_its_own_writes_on_any_node(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        assert await to_and_fro(cluster, client) == [b"new"] * 6


async def test_control_without_the_token_a_client_goes_back_in_time(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, monotonic=False) as client:
        assert b"old" in await to_and_fro(cluster, client)


async def test_what_a_client_has_read_it_does_not_unsee(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as writer, AsyncClient(cluster.addresses) as client:
        await writer.put("k", "old")
        cluster[2].freeze()
        await writer.put("k", "new")
        await client.get("k")
        await all_connected(client)
        await cluster[1].stop()
        for level in (ReadLevel.LOCAL, AtLeast(), Quorum(1), Bounded(60)):
            pair = await client.get("k", level=level)
            assert pair is not None
            assert pair.value == b"new"


async def test_another_clients_token_is_taken_over(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as writer, AsyncClient(cluster[2].address, dial_learned=False) as client:
        await writer.put("k", "old")
        cluster[2].freeze()
        await writer.put("k", "new")
        assert (await client.read("k", level=ReadLevel.LOCAL)).receipt.applied_index == 1
        assert writer.token is not None
        with pytest.raises(TooStale, match="node 2 has applied 1, not 2"):
            await client.get("k", level=AtLeast(writer.token), timeout=0.3)
        client.seen(writer.token)
        with pytest.raises(TooStale, match="node 2 has applied 1, not 2"):
            await client.get("k", level=ReadLevel.LOCAL, timeout=0.3)
        pair = await client.get("k", level=ReadLevel.LOCAL, endpoint=cluster[2].address)
        assert pair is not None
        assert pair.value == b"old", "who asks one node wants to know what that one holds"


async def test_one_node_shows_no_less_than_its_client_has_seen_whatever_the_token_says(cluster: FakeCluster) -> None:
    """Found by the Jepsen workload `quorum`: AT_LEAST, said the answer, and was older than what the client had read."""
    async with AsyncClient(cluster.addresses) as client, AsyncClient(cluster.addresses, monotonic=False) as other:
        token = (await client.put("k", "old")).receipt.token
        cluster[2].freeze()
        await client.put("k", "new")
        pair = await other.get("k", level=AtLeast(token), endpoint=cluster[2].address)
        assert pair is not None
        assert pair.value == b"old"
        with pytest.raises(TooStale, match="node 2 has applied 1, not 2"):
            await client.get("k", level=AtLeast(token), endpoint=cluster[2].address)
        pair = await client.get("k", level=AtLeast(token), endpoint=cluster[3].address)
        assert pair is not None
        assert pair.value == b"new"


@pytest.mark.parametrize("code", [ErrorCode.TOO_STALE, ErrorCode.QUORUM_UNAVAILABLE])
async def test_a_node_that_says_that_it_cannot_answer_is_passed_over_and_in_health(
    cluster: FakeCluster, code: ErrorCode
) -> None:
    level = Bounded(0.5) if code is ErrorCode.TOO_STALE else Quorum()

    def unable(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        weaker = operation.HasField("range") and operation.range.level != kv_pb2.ReadLevel.LOCAL
        return (refusal(code) if weaker else execute)(node, batch, operation)

    async with AsyncClient(cluster.addresses, monotonic=False) as client:
        await client.put("k", "v")
        await all_connected(client)
        cluster[1].script = unable
        for _ in range(FAILURES_TO_OPEN + 2):
            assert (await client.read("k", level=level)).receipt.served_by != 1
        state = client.endpoint_states()[0]
        assert (state.breaker, state.failures, state.connected) == (BreakerState.CLOSED, 0, True)
        assert (await client.read("k", level=ReadLevel.LOCAL)).receipt.served_by == 1


async def test_a_node_that_stays_silent_to_reads_is_passed_over_and_its_breaker_opens(cluster: FakeCluster) -> None:
    def stuck(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        mine = operation.HasField("range") and operation.range.level == kv_pb2.ReadLevel.BOUNDED
        return ignore(node, batch, operation) if mine else execute(node, batch, operation)

    async with AsyncClient(cluster.addresses, monotonic=False, attempt_timeout=0.1) as client:
        await client.put("k", "v")
        await all_connected(client)
        cluster[1].script = stuck
        await asyncio.gather(*(client.get("k", level=Bounded(0.5)) for _ in range(FAILURES_TO_OPEN)))
        state = client.endpoint_states()[0]
        assert state.failures >= FAILURES_TO_OPEN
        assert "no answer to a read" in state.last_error
        assert (await client.put("k", "w")).committed, "writes are another matter"
        cluster[1].script = execute
        async with asyncio.timeout(60):
            while client.endpoint_states()[0].breaker is not BreakerState.CLOSED:
                await client.get("k", level=Bounded(0.5))


async def test_a_node_that_comes_to_no_answer_is_not_waited_for(cluster: FakeCluster) -> None:
    def stuck(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        mine = operation.HasField("range") and operation.range.level == kv_pb2.ReadLevel.QUORUM
        return ignore(node, batch, operation) if mine else execute(node, batch, operation)

    async with AsyncClient(cluster.addresses, attempt_timeout=0.2) as client:
        await client.put("k", "v")
        await all_connected(client)
        cluster[1].script = stuck
        found = await client.read("k", level=Quorum())
        assert found.receipt.served_by != 1
        assert len(cluster[1].ids("range")) == 1, "it was asked first"


async def test_a_client_of_one_node_that_comes_to_no_answer_waits_for_it(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses, attempt_timeout=0.1) as client:
        await client.put("k", "v")
        begun, release = asyncio.Event(), asyncio.Event()

        async def late(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
            begun.set()
            await release.wait()
            return execute(node, batch, operation)

        single[1].script = late
        reading = asyncio.ensure_future(client.get("k", level=Quorum(), timeout=30))
        await begun.wait()
        release.set()
        assert await reading is not None
    assert len(single[1].ids("range")) == 1


async def test_when_no_node_can_answer_the_error_says_why(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        for node in cluster.nodes.values():
            node.freeze()
        with pytest.raises(TooStale, match=r"no result after .*knows of nothing newer"):
            await client.get("k", level=Bounded(0.5), timeout=0.3)
        for node in cluster.nodes.values():
            node.script = refusal(ErrorCode.QUORUM_UNAVAILABLE)
        with pytest.raises(QuorumUnavailable, match="scripted QUORUM_UNAVAILABLE"):
            await client.get("k", level=Quorum(), timeout=0.3)


async def test_a_read_goes_on_when_its_answer_comes_late(cluster: FakeCluster) -> None:
    """Refused by all of them, it is asked again until there is an answer."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        for node in cluster.nodes.values():
            node.freeze()
        reading = asyncio.ensure_future(client.get("k", level=Bounded(0.5)))
        await cluster[3].wait_for(lambda: len(cluster[3].ids("range")) >= 2)
        cluster[2].staleness_ms = 1
        pair = await reading
        assert pair is not None
        assert pair.guarantee is Guarantee.BOUNDED


async def test_reads_go_to_the_nearest_node(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, read_from=ReadFrom.NEAREST) as client:
        await client.put("k", "v")
        await all_connected(client)
        router = client._open().router
        near = cluster[3].address
        for node in cluster.nodes.values():  # far beyond what is measured in this test
            router.measured(node.address, 1.0 if node.address == near else 1000.0)
        for level in (ReadLevel.LINEARIZABLE, ReadLevel.LOCAL, AtLeast(), Quorum(2), Bounded(60)):
            assert (await client.read("k", level=level)).receipt.served_by == 3
        await client.get("k", level=ReadLevel.LEASE)
        sent = reads(cluster)
        assert [node_id for node_id, _ in sent] == [1, *[3] * 5]
        assert [request.here for _, request in sent] == [False, True, False, False, False, False]
        await cluster[3].stop()
        assert (await client.read("k")).receipt.served_by in (1, 2)


async def test_latencies_are_measured_where_they_are_of_use(cluster: FakeCluster) -> None:
    async with (
        AsyncClient(cluster.addresses, read_from=ReadFrom.NEAREST) as near,
        AsyncClient(cluster.addresses) as far,
    ):
        for client in (near, far):
            await client.put("k", "v")
            await all_connected(client)
        async with asyncio.timeout(60):
            while any(one.latency is None for one in near.endpoint_states()):
                await near.status()
        assert all(one.latency is None for one in far.endpoint_states())


async def test_who_has_only_heard_signs_of_life_has_seen_nothing(cluster: FakeCluster) -> None:
    async with (
        AsyncClient(cluster.addresses) as writer,
        AsyncClient(cluster.addresses, read_from=ReadFrom.NEAREST) as client,
    ):
        await writer.put("k", "v")
        async with asyncio.timeout(60):
            while len(client.endpoint_states()) < 3 or any(one.latency is None for one in client.endpoint_states()):
                await client.status()
        assert client.token is None
        await client.get("k", level=ReadLevel.LOCAL)
        assert client.token == writer.token


async def test_a_witness_is_not_asked(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        await all_connected(client)
        cluster[1].witness = True  # and this client has not heard of it
        assert (await client.read("k", level=ReadLevel.LOCAL)).receipt.served_by != 1


async def test_tokens_that_no_read_can_carry(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(ClusterMismatch, match="is of cluster 99, this is 7"):
            await client.get("k", level=AtLeast(ReadToken(99, 1, 1)))
        await client.put("k", "v")
        with pytest.raises(ClusterMismatch, match="cluster 0000000000000063; this client talks to 0000000000000007"):
            await client.get("k", level=AtLeast(ReadToken(99, 1, 1)))
        with pytest.raises(TokenOutOfRange, match="index 9 is not among 0 to 1"):
            await client.get("k", level=AtLeast(ReadToken(7, 1, 9)))
        with pytest.raises(InvalidArgument, match=r"QUORUM\(4\) is not possible: 1 to 3 voters"):
            await client.get("k", level=Quorum(4))


@pytest.mark.parametrize("level", [7, 0, "LOCAL", None, kv_pb2.ReadLevel.QUORUM, ReadToken(7, 1, 1)])
async def test_what_is_no_level(cluster: FakeCluster, level: Any) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(InvalidArgument, match="not one of ReadLevel"):
            await client.get("k", level=level)


def test_levels_out_of_range() -> None:
    wrong: Any
    for wrong in (0, -1, True, 1.5, "2", 2**32):
        with pytest.raises(
            InvalidArgument, match="not a number from 1 to the number of voters, or None for a majority"
        ):
            Quorum(wrong)
    with pytest.raises(InvalidArgument, match='neither "node" nor "client"'):
        Quorum(2, coordinator="leader")  # type: ignore[arg-type]
    for wrong in (0, 0.0009, -1, 2**32, "1", None, True, float("nan")):
        with pytest.raises(InvalidArgument, match=r"not seconds from 0\.001 to 4\.29497e\+06"):
            Bounded(wrong)
    with pytest.raises(InvalidArgument, match="not a ReadToken"):
        AtLeast("00-1-1")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not one of ReadFrom"):
        AsyncClient("h:1", read_from="nearest")  # type: ignore[arg-type]


def test_a_bound_is_never_laxer_than_was_asked_for() -> None:
    assert [Bounded(one).milliseconds for one in (0.001, 0.0019, 0.3, 0.5, 1)] == [1, 1, 300, 500, 1000]
