from __future__ import annotations

import asyncio

import pytest

from raftkv.client import AsyncClient
from raftkv.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    ErrorCode,
    InvalidArgument,
    NoLeader,
    Overloaded,
    RaftKVError,
    SessionExpired,
)
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, apply_and_ignore, execute, ignore, refusal


def attempts(node: FakeNode, key: bytes) -> list[tuple[int, int]]:
    """Return (session, sequence) of every attempt to put a key."""
    return [
        (batch.session, operation.id)
        for batch in node.batches
        for operation in batch.operations
        if operation.HasField("put") and operation.put.key == key
    ]


async def test_bug_44_a_retry_never_applies_twice(single: FakeCluster) -> None:
    node = single[1]
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        for number in range(5):
            node.script = apply_and_ignore
            put = asyncio.ensure_future(client.put(f"k{number}", "v"))
            await node.wait_for(lambda number=number: bool(attempts(node, b"k%d" % number)))  # type: ignore[misc]
            node.script = execute
            node.break_streams()
            assert (await put).revision == number + 2
            sent = attempts(node, b"k%d" % number)
            assert len(sent) == 2
            assert len(set(sent)) == 1
    assert len(single.store.applied) == 6


async def test_bug_44_a_broken_connection_is_not_no_effect(single: FakeCluster) -> None:
    node = single[1]
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        node.script = apply_and_ignore
        put = asyncio.ensure_future(client.put("k", "v", timeout=0.4))
        await node.wait_for(lambda: bool(attempts(node, b"k")))
        await node.stop()
        with pytest.raises(DeadlineExceeded) as raised:
            await put
    assert raised.value.ambiguous
    assert "may have taken effect" in raised.value.message
    assert b"k" in single.store.pairs, "and indeed it had"


async def test_bug_41_a_retried_read_is_a_new_operation(single: FakeCluster) -> None:
    node = single[1]
    async with AsyncClient(single.addresses) as client:
        await client.put("k", "old")
        node.script = ignore
        read = asyncio.ensure_future(client.get("k"))
        await node.wait_for(lambda: len(node.ids("range")) == 1)
        node.script = refusal(ErrorCode.LEADER_CHANGED)
        node.break_streams()
        await node.wait_for(lambda: len(node.ids("range")) >= 3)
        node.script = execute
        assert await read is not None
        writes = set(node.ids("put"))
    ids = node.ids("range")
    assert len(ids) == len(set(ids)) >= 4
    assert not writes & set(ids)


async def test_a_session_that_expired_while_idle_is_replaced_unnoticed(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("a", "v")
        single.store.sessions.clear()
        await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(100)))
    assert single.store.registered == 2
    assert len(single.store.applied) == len(set(single.store.applied)) == 101
    assert len({attempt[1] for attempt in attempts(single[1], b"k7")}) == 1, "the sequence stays the write's name"


async def test_a_session_that_expired_under_a_doubtful_write_is_an_ambiguous_error(single: FakeCluster) -> None:
    node = single[1]
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        node.script = apply_and_ignore
        put = asyncio.ensure_future(client.put("k", "v"))
        await node.wait_for(lambda: bool(attempts(node, b"k")))
        single.store.sessions.clear()
        node.script = execute
        node.break_streams()
        with pytest.raises(SessionExpired) as raised:
            await put
        assert raised.value.ambiguous
        assert len(single.store.applied) == 2
        assert (await client.put("k", "again")).revision == 3, "the next write has a new session"


async def test_a_small_window_survives_the_loss_of_its_session(single: FakeCluster) -> None:
    single.store.window = 4
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        single.store.sessions.clear()
        await asyncio.gather(*(client.put(f"k{number}", "v", timeout=60) for number in range(30)))
    assert len(single.store.applied) == len(set(single.store.applied)) == 31


async def test_at_the_deadline_a_write_that_was_sent_is_ambiguous_and_a_read_is_not(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        single[1].script = ignore
        put, get = await asyncio.gather(
            client.put("k", "v", timeout=0.2), client.get("k", timeout=0.2), return_exceptions=True
        )
        assert isinstance(put, DeadlineExceeded)
        assert put.ambiguous
        assert isinstance(get, DeadlineExceeded)
        assert not get.ambiguous
        single[1].script = execute
        await client.put("other", "v")
        await client.put("other", "v")
    assert single[1].batches[-1].acknowledged_below == single[1].operations[-1].id


@pytest.mark.parametrize(("code", "expected"), [(ErrorCode.NO_LEADER, NoLeader), (ErrorCode.OVERLOADED, Overloaded)])
async def test_a_write_that_was_always_refused_had_no_effect(
    cluster: FakeCluster, code: ErrorCode, expected: type[RaftKVError]
) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("warm", "up")
        for node in cluster.nodes.values():
            node.script = refusal(code)
        with pytest.raises(expected, match="scripted") as raised:
            await client.put("k", "v", timeout=0.3)
        assert not raised.value.ambiguous
    assert len(cluster.store.applied) == 1


async def test_a_write_that_waits_for_a_session_without_a_leader_says_so(single: FakeCluster) -> None:
    single[1].script = refusal(ErrorCode.NO_LEADER)
    async with AsyncClient(single.addresses) as client:
        with pytest.raises(NoLeader, match="scripted NO_LEADER") as raised:
            await client.put("k", "v", timeout=0.3)
        assert not raised.value.ambiguous


async def test_one_ambiguous_answer_leaves_the_outcome_open_whatever_follows(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("warm", "up")
        for node in cluster.nodes.values():
            node.script = refusal(ErrorCode.NO_LEADER)
        cluster[1].script = refusal(ErrorCode.LEADER_CHANGED, ambiguous=True)
        with pytest.raises(DeadlineExceeded) as raised:
            await client.put("k", "v", timeout=0.3)
        assert raised.value.ambiguous


async def test_nothing_to_connect_to_is_a_failure_without_effect() -> None:
    async with AsyncClient(["127.0.0.1:1", "127.0.0.1:2"]) as client:
        with pytest.raises(ConnectionFailed) as raised:
            await client.put("k", "v", timeout=0.3)
        assert not raised.value.ambiguous
        assert "127.0.0.1:1: UNAVAILABLE" in raised.value.message
        assert "127.0.0.1:2: UNAVAILABLE" in raised.value.message
        with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1: UNAVAILABLE"):
            await client.status(timeout=0.3)


async def test_overload_is_waited_out(single: FakeCluster) -> None:
    seen = 0

    def overloaded_twice(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        nonlocal seen
        seen += operation.HasField("put")
        script = refusal(ErrorCode.OVERLOADED) if 0 < seen < 3 else execute
        result: Reply = script(node, batch, operation)
        return result

    single[1].script = overloaded_twice
    async with AsyncClient(single.addresses) as client:
        assert (await client.put("k", "v")).revision == 1
    assert len(set(attempts(single[1], b"k"))) == 1
    assert len(attempts(single[1], b"k")) == 3


async def test_what_makes_no_sense_is_not_retried(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        single[1].script = refusal(ErrorCode.INVALID_ARGUMENT)
        with pytest.raises(InvalidArgument, match="scripted"):
            await client.put("k", "v")
    assert len(attempts(single[1], b"k")) == 1
