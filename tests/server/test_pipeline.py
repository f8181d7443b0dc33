"""The pipeline: what bounds it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from raftkv.server.services import kv
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
