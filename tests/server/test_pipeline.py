"""The pipeline: what bounds it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from raftkv.errors import InvalidArgument
from raftkv.kv.limits import MAX_REQUEST_BYTES
from raftkv.server.services import kv
from raftkv.server.services.single import SingleCalls
from raftkv.v1 import kv_pb2
from tests.server.memory_cluster import MemoryCluster


class Client:
    """Sends batches for as long as it is asked, and counts them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.sent = 0

    async def batches(self) -> AsyncIterator[kv_pb2.BatchRequest]:
        while self.sent < self.total:
            self.sent += 1
            batch = kv_pb2.BatchRequest()
            batch.operations.add(id=self.sent, range=kv_pb2.RangeRequest(key=b"k"))
            yield batch


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Else its answers pile up in the node's memory: a gigabyte in seconds, with pages of a megabyte."""
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        client = Client(5 * kv.MAX_BATCHES_PER_STREAM)
        pipeline = kv._Pipeline(member.requests, client.batches())
        answers = pipeline.run()
        first = await anext(answers)
        assert first.results[0].id >= 1
        for _ in range(200):
            await member.get(b"k")  # whatever could run has run
        assert client.sent == kv.MAX_BATCHES_PER_STREAM
        count = 1
        async for _ in answers:
            count += 1
        assert count == client.sent == client.total


async def test_what_was_read_is_answered_when_the_node_stops_reading() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        client = Client(1_000_000)
        pipeline = kv._Pipeline(member.requests, client.batches())
        answered = []
        async with asyncio.timeout(60):
            async for answer in pipeline.run():
                answered.append(answer.results[0].id)
                if len(answered) == 10:
                    pipeline.stop_reading()
        assert sorted(answered) == list(range(1, client.sent + 1))


async def test_a_stream_that_is_stopped_before_it_began_ends() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        pipeline = kv._Pipeline(member.requests, Client(10).batches())
        answers = pipeline.run()
        first = asyncio.ensure_future(anext(answers, None))
        while pipeline._reader is None:  # noqa: ASYNC110 - it is a field, not an event
            await asyncio.sleep(0)
        pipeline.stop_reading()
        async with asyncio.timeout(60):
            await first
            async for _ in answers:
                pass


class Context:
    """What a single call that is refused sees of gRPC."""

    async def abort_with_status(self, _: object) -> None:
        raise InvalidArgument("the call was ended")


async def test_what_is_too_large_to_be_run_is_counted_too() -> None:
    operation = kv_pb2.Operation(range=kv_pb2.RangeRequest(key=b"k"))
    batch = kv_pb2.BatchRequest(operations=[operation] * (kv.MAX_OPERATIONS_PER_BATCH + 1))
    large = kv_pb2.PutRequest(key=b"k", value=bytes(MAX_REQUEST_BYTES + 1))

    async def once() -> AsyncIterator[kv_pb2.BatchRequest]:
        yield batch

    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        (answer,) = [answer async for answer in kv._Pipeline(member.requests, once()).run()]
        assert len(answer.results) == len(batch.operations)
        with pytest.raises(InvalidArgument, match="the call was ended"):
            await SingleCalls(member.requests).run("put", large, cast(Any, Context()))
        assert member.node.tallies.answered == {
            ("read", "invalid_argument"): len(batch.operations),
            ("write", "invalid_argument"): 1,
        }
