"""raftkv.v1.Watch over gRPC, on nodes in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from raftkv.raft import NodeId
from raftkv.server.services.watch import WatchService
from raftkv.server.watch_hub import WatchLimits
from raftkv.v1 import common_pb2, watch_pb2, watch_pb2_grpc
from tests.integration.stubs import OPTIONS, detail_of
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until


class Client:
    """A client with raw messages."""

    def __init__(self, rpc: Any) -> None:
        self.rpc = rpc

    async def create(self, watch_id: int, key: bytes, **settings: Any) -> None:
        request = watch_pb2.WatchCreate(watch_id=watch_id, key=key, **settings)
        await self.rpc.write(watch_pb2.WatchRequest(create=request))

    async def read(self) -> watch_pb2.WatchResponse:
        async with asyncio.timeout(60):
            response = await self.rpc.read()
        if not isinstance(response, watch_pb2.WatchResponse):
            raise EOFError
        return response

    async def events(self, count: int) -> list[watch_pb2.Event]:
        found: list[watch_pb2.Event] = []
        while len(found) < count:
            found += (await self.read()).events
        return found

    async def end(self) -> common_pb2.Error:
        """Return what the stream ends with."""
        detail = None
        try:
            while True:
                await self.read()
        except grpc.aio.AioRpcError as error:
            detail = detail_of(error)
        assert detail is not None
        return detail


class Server:
    """The service of one node, and clients of it."""

    def __init__(self, member: MemoryNode, service: WatchService, channel: grpc.aio.Channel) -> None:
        self.member = member
        self.service = service
        self._stub: Any = watch_pb2_grpc.WatchStub(channel)

    def client(self) -> Client:
        return Client(self._stub.Watch())


@asynccontextmanager
async def serving(member: MemoryNode) -> AsyncIterator[Server]:
    service = WatchService(member.node, member.requests.header)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    service.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    watching = asyncio.create_task(service.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield Server(member, service, channel)
    finally:
        watching.cancel()
        await server.stop(None)


@asynccontextmanager
async def one_node(limits: WatchLimits | None = None) -> AsyncIterator[Server]:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        if limits is not None:
            member.node.hub.limits = limits
        async with serving(member) as server:
            yield server


async def test_many_watches_share_one_stream() -> None:
    async with one_node() as server:
        client = server.client()
        await client.create(1, b"a")
        await client.create(2, b"b")
        for number in (1, 2):
            response = await client.read()
            assert response.created
            assert list(response.watch_ids) == [number]
            assert response.header.member_id == 1
        await server.member.put(b"b", b"1")
        await server.member.put(b"a", b"2")
        told = [await client.read() for _ in range(2)]
        assert [(list(one.watch_ids), one.events[0].kv.key) for one in told] == [([2], b"b"), ([1], b"a")]
        assert told[0].header.revision >= 2


async def test_a_client_that_does_not_read_holds_nothing_up() -> None:
    """HTTP/2 holds its stream, and nothing is made for it meanwhile; the others go on, and it misses nothing."""
    limits = WatchLimits(ring_bytes=1 << 20, max_rest_s=0.0)
    async with one_node(limits) as server:
        slow, quick = server.client(), server.client()
        for client in (slow, quick):
            await client.create(1, b"k")
            assert (await client.read()).created
        value = b"v" * 50_000
        for _ in range(100):
            await server.member.put(b"k", value)
            await quick.events(1)
        hub = server.member.node.hub
        assert hub._ring_bytes <= limits.ring_bytes
        lagging = min(server.service._senders, key=lambda sender: sender._cohorts[0].cursor)
        assert hub.recent(lagging._cohorts[0].cursor.revision) is None, "it is behind the ring"
        events = await slow.events(100)
        assert [event.kv.mod_revision for event in events] == list(range(2, 102))


async def test_the_client_ends_the_stream() -> None:
    async with one_node() as server:
        client = server.client()
        await client.create(1, b"k")
        assert (await client.read()).created
        assert server.member.node.hub.watches == 1
        await client.rpc.done_writing()
        with pytest.raises(EOFError):
            await client.read()
        await until(lambda: not server.member.node.hub.watches)
        another = server.client()
        await another.create(1, b"k")
        assert (await another.read()).created
        another.rpc.cancel()
        await until(lambda: not server.member.node.hub.watches)


async def test_what_is_no_request_ends_the_stream() -> None:
    async with one_node() as server:
        client = server.client()
        await client.rpc.write(watch_pb2.WatchRequest())
        assert (await client.end()).code == common_pb2.INVALID_ARGUMENT


async def test_a_node_without_a_leader_sends_its_clients_elsewhere() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        member = cluster.follower(leader)
        member.node.hub.limits = WatchLimits(leaderless_s=0.05)
        async with serving(member) as server:
            client = server.client()
            await client.create(1, b"k")
            assert (await client.read()).created
            cluster.isolate(member.id)
            error = await client.end()
            assert error.code == common_pb2.NO_LEADER
            assert error.retryable
            refused = server.client()
            assert (await refused.end()).code == common_pb2.NO_LEADER
            cluster.heal()
            await until(lambda: member.node.leader is not None)
            again = server.client()
            await again.create(1, b"k")
            assert (await again.read()).created


async def test_a_short_election_ends_nothing() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        member = cluster.follower(leader)
        member.node.hub.limits = WatchLimits(leaderless_s=30.0)
        async with serving(member) as server:
            client = server.client()
            await client.create(1, b"k")
            assert (await client.read()).created
            await leader.node.stop()
            successor = await cluster.leader(other_than=leader.id)
            await successor.put(b"k", b"v")
            assert [event.kv.value for event in await client.events(1)] == [b"v"]


async def test_shutting_down_ends_the_streams() -> None:
    async with one_node() as server:
        client = server.client()
        await client.create(1, b"k")
        assert (await client.read()).created
        drained = asyncio.create_task(server.service.drain())
        assert (await client.end()).code == common_pb2.SHUTTING_DOWN
        await drained
        assert (await server.client().end()).code == common_pb2.SHUTTING_DOWN


@pytest.mark.parametrize(("what", "message"), [("is_witness", "witness"), ("was_removed", "not a member")])
async def test_a_node_that_holds_no_data_refuses(monkeypatch: pytest.MonkeyPatch, what: str, message: str) -> None:
    async with one_node() as server:
        node = server.member.node
        owner = type(node.raft) if what == "is_witness" else type(node)
        monkeypatch.setattr(owner, what, property(lambda _: True))
        error = await server.client().end()
        assert error.code == common_pb2.FAILED_PRECONDITION
        assert message in error.message


async def test_every_node_tells_the_same() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        told = []
        for number in range(20):
            await leader.put(b"k%d" % (number % 3), b"%d" % number)
        for node_id in cluster.ids:
            member = cluster[NodeId(node_id)]
            async with serving(member) as server:
                client = server.client()
                await client.create(1, b"k", range_end=b"l", start_revision=2, prev_kv=True)
                told.append([event.SerializeToString() for event in await client.events(20)])
        assert told[0] == told[1] == told[2]
