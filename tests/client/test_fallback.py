"""fallback="stale": the best weaker answer, when no other comes, labelled, and never unless it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.client import AsyncClient, AtLeast, Client, Guarantee, KeyValue, Quorum, ReadLevel
from raftkv.client.reading import FALLBACK_SHARE
from raftkv.errors import (
    Compacted,
    ConnectionFailed,
    DeadlineExceeded,
    ErrorCode,
    InvalidArgument,
    NoLeader,
    TokenOutOfRange,
)
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, execute, fake_cluster, refusal


def without_leader(cluster: FakeCluster) -> None:
    """From now on no node answers more than what it holds itself."""
    for node in cluster.nodes.values():
        node.script = refusal(ErrorCode.NO_LEADER)
        node.freeze()


async def test_by_default_there_is_none(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        without_leader(cluster)
        with pytest.raises(NoLeader):
            await client.get("k", timeout=0.8)
    assert not any(node.ranges for node in cluster.nodes.values())


async def test_the_freshest_answer_is_taken_and_labelled(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, timeout=0.8) as client:
        await client.put("k", "old")
        cluster[1].freeze()
        cluster[3].freeze()
        await client.put("k", "new")
        without_leader(cluster)
        found = await client.read("k", fallback="stale")
        assert found.pair is not None
        assert found.pair.value == b"new"
        assert found.receipt.served_by == 2
        assert found.guarantee is Guarantee.AT_LEAST, "all that this client has seen is in it"
        assert found.receipt.words == "not older than what this client has seen"
        pair = await client.get("k", fallback="stale")
        assert pair is not None
        assert pair.guarantee is Guarantee.AT_LEAST
        page = await client.prefix("k", fallback="stale")
        assert page.guarantee is page.pairs[0].guarantee is Guarantee.AT_LEAST
        page = await client.range("a", None, fallback="stale")
        assert page.guarantee is Guarantee.AT_LEAST
        assert (await client.count("k", fallback="stale")).guarantee is Guarantee.AT_LEAST


async def test_what_is_older_than_what_was_seen_is_called_stale(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, timeout=0.8) as client:
        await client.put("k", "old")
        cluster[2].freeze()
        cluster[3].freeze()
        await client.put("k", "new")
        without_leader(cluster)
        await cluster[1].stop()
        for level in (ReadLevel.LINEARIZABLE, ReadLevel.LOCAL, AtLeast()):
            found = await client.read("k", level=level, fallback="stale")
            assert found.pair is not None
            assert (found.pair.value, found.guarantee) == (b"old", Guarantee.STALE_PREFIX)


async def test_who_has_seen_nothing_is_told_no_more_than_stale(cluster: FakeCluster) -> None:
    without_leader(cluster)
    async with AsyncClient(cluster.addresses) as client:
        assert (await client.read("k", fallback="stale", timeout=1.0)).guarantee is Guarantee.STALE_PREFIX


async def test_what_lacks_the_token_that_was_asked_for_is_not_called_at_least(cluster: FakeCluster) -> None:
    """Whatever the client has seen itself: it is another client's token."""
    async with AsyncClient(cluster.addresses) as writer, AsyncClient(cluster.addresses, timeout=0.8) as client:
        await writer.put("k", "old")
        await client.get("k")
        old = client.token
        without_leader(cluster)
        for node in cluster.nodes.values():
            node.script = execute
        await writer.put("k", "new")
        token = writer.token
        assert old is not None
        assert token is not None
        assert token.index > old.index
        found = await client.read("k", level=AtLeast(token), fallback="stale")
        assert found.pair is not None
        assert (found.pair.value, found.guarantee) == (b"old", Guarantee.STALE_PREFIX)


async def test_an_answer_in_time_is_not_weakened(cluster: FakeCluster) -> None:
    """The level asked for has three quarters of the time, not just one attempt."""
    asked = 0

    def at_last(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        nonlocal asked
        asked += operation.HasField("range")
        return (execute if asked > 8 else refusal(ErrorCode.NO_LEADER))(node, batch, operation)

    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        for node in cluster.nodes.values():
            node.script = at_last
        assert (await client.read("k", fallback="stale")).guarantee is Guarantee.LINEARIZABLE
    assert asked > 8
    assert FALLBACK_SHARE == 0.25


async def test_errors_that_waiting_cannot_cure_are_raised(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        token = client.token
        assert token is not None
        with pytest.raises(TokenOutOfRange):
            await client.get("k", level=AtLeast(type(token)(7, 1, 99)), fallback="stale")
        with pytest.raises(InvalidArgument, match="1 to 3 voters"):
            await client.get("k", level=Quorum(4), fallback="stale")
        for node in cluster.nodes.values():
            node.script = refusal(ErrorCode.COMPACTED)
        with pytest.raises(Compacted):
            await client.get("k", fallback="stale")
    assert not any(node.ranges for node in cluster.nodes.values())


async def test_with_no_node_left_the_first_error_is_raised() -> None:
    async with fake_cluster(1) as cluster, AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        await cluster[1].stop()
        with pytest.raises((ConnectionFailed, DeadlineExceeded)):
            await client.get("k", fallback="stale", timeout=0.8)


async def test_a_silent_node_does_not_keep_the_others_from_answering(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        without_leader(cluster)
        cluster[3].silent = True
        found = await client.read("k", fallback="stale", timeout=0.8)
        assert found.receipt.served_by in (1, 2)


@pytest.mark.parametrize("fallback", ["local", "", True, ReadLevel.LOCAL])
async def test_what_is_no_fallback(cluster: FakeCluster, fallback: Any) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(InvalidArgument, match='neither "stale" nor None'):
            await client.get("k", fallback=fallback)
        with pytest.raises(InvalidArgument, match="give one of them"):
            await client.get("k", fallback="stale", endpoint=cluster[1].address)


async def test_the_twin(cluster: FakeCluster) -> None:
    def read() -> KeyValue | None:
        with Client(cluster.addresses, timeout=0.8) as client:
            return client.get("k", fallback="stale")

    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
    without_leader(cluster)
    pair = await asyncio.to_thread(read)
    assert pair is not None
    assert pair.guarantee is Guarantee.STALE_PREFIX
