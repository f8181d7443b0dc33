"""Nodes that serve watches of one store, each as far behind as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from raftkv.client import AsyncClient
from raftkv.errors import ErrorCode
from raftkv.kv.commands import Command, Compact, Put, Sweep
from raftkv.server.watch_hub import WatchLimits
from raftkv.server.watch_sender import WatchSender
from raftkv.v1 import watch_pb2, watch_pb2_grpc
from tests.client.fake import FakeCluster, FakeNode, abort
from tests.server.watching import AT_ONCE, Watched


class WatchNode(FakeNode, watch_pb2_grpc.WatchServicer):
    """A node with a state machine of its own, which applies what the cluster's log holds when it is told to."""

    cluster: WatchCluster

    def __init__(self, cluster: WatchCluster, node_id: int) -> None:
        super().__init__(cluster, node_id)
        self.watched = Watched(cluster.limits)
        self.applied = 0
        self.requests: list[watch_pb2.WatchRequest] = []
        self.opened = 0
        """Streams of watches."""
        self.speaks = asyncio.Event()
        """While it is clear, nothing is said on streams of watches."""
        self.speaks.set()
        self.refusal: ErrorCode | None = None
        self.fragments_to_break = 0
        """The stream on which so many fragments have been sent breaks off."""
        self.tells_before_creating = False
        """Whenever a watch is created, an answer to an earlier question about progress is sent just before that."""
        self.fickle = False
        """Every stream breaks off as soon as anything was said on it."""

    @property
    def creates(self) -> list[watch_pb2.WatchCreate]:
        return [request.create for request in self.requests if request.HasField("create")]

    def add_to(self, server: grpc.aio.Server) -> None:
        super().add_to(server)
        watch_pb2_grpc.add_WatchServicer_to_server(self, server)

    def catch_up(self) -> None:
        while self.applied < len(self.cluster.log):
            self.watched.do(*self.cluster.log[self.applied])
            self.applied += 1

    async def Watch(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[watch_pb2.WatchResponse]:
        self.opened += 1
        if self.refusal is not None:
            await abort(context, self.refusal, "refused by the test")
        sender = WatchSender(self.watched.hub, lambda: self.watched.machine, self.watched.header)
        broken = asyncio.Event()
        self._breaks.add(broken)
        reader = asyncio.create_task(self._read(sender, request_iterator))
        breaker = asyncio.create_task(self._break(sender, broken))
        responses = sender.responses()
        try:
            async for response in responses:
                await self.speaks.wait()
                decoded = watch_pb2.WatchResponse.FromString(response)
                if decoded.created and self.tells_before_creating:
                    yield watch_pb2.WatchResponse(progress=True, revision=self.watched.revision)
                yield decoded
                if self.fickle:
                    break
                if decoded.fragment and self.fragments_to_break:
                    self.fragments_to_break -= 1
                    if not self.fragments_to_break:
                        break
            await context.abort(self.break_code, f"node {self.id} dropped the stream")
        finally:
            self._breaks.discard(broken)
            reader.cancel()
            breaker.cancel()
            sender.close()
            await responses.aclose()

    async def _read(self, sender: WatchSender, requests: Any) -> None:
        async for request in requests:
            self.requests.append(request)
            sender.handle(request)
            async with self.arrived:
                self.arrived.notify_all()

    @staticmethod
    async def _break(sender: WatchSender, broken: asyncio.Event) -> None:
        await broken.wait()
        sender.end()


class WatchCluster(FakeCluster):
    """Nodes that apply one log."""

    nodes: dict[int, WatchNode]  # type: ignore[assignment]

    def __init__(self, size: int, limits: WatchLimits) -> None:
        super().__init__(0)
        self.limits = limits
        self.log: list[tuple[Command, ...]] = []
        self.nodes = {node_id: WatchNode(self, node_id) for node_id in range(1, size + 1)}

    def __getitem__(self, node_id: int) -> WatchNode:
        return self.nodes[node_id]

    @property
    def revision(self) -> int:
        return max(node.watched.revision for node in self.nodes.values())

    def do(self, *commands: Command, on: tuple[int, ...] = ()) -> None:
        """Append an entry, and apply all there is on the nodes `on` (empty: all)."""
        self.log.append(commands)
        for node_id in on or tuple(self.nodes):
            self.nodes[node_id].catch_up()

    def put(self, key: bytes, value: bytes = b"v", on: tuple[int, ...] = ()) -> None:
        self.do(Put(0, key, value), on=on)

    def compact(self, revision: int) -> None:
        self.do(Compact(0, revision))
        self.do(Sweep(0))


@asynccontextmanager
async def watch_cluster(size: int, limits: WatchLimits = AT_ONCE) -> AsyncIterator[WatchCluster]:
    cluster = WatchCluster(size, limits)
    for node in cluster.nodes.values():
        await node.start()
    try:
        yield cluster
    finally:
        for node in cluster.nodes.values():
            await node.stop()


def client_of(cluster: FakeCluster, **settings: Any) -> AsyncClient:
    return AsyncClient(cluster.addresses, **settings)
