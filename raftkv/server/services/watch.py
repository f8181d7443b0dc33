"""raftkv.v1.Watch: streams of changes, from this node's applied state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from raftkv.errors import FailedPrecondition, InvalidArgument, NoLeader, RaftKVError, ShuttingDown
from raftkv.server import wire
from raftkv.server.node import Node
from raftkv.server.services.kv import MEMBER_ID_METADATA
from raftkv.server.services.status import abort
from raftkv.server.watch_sender import WatchSender
from raftkv.v1 import common_pb2, watch_pb2

WATCH_SERVICE = watch_pb2.DESCRIPTOR.services_by_name["Watch"].full_name


class WatchService:
    """What clients call. `run` must run beside it."""

    def __init__(self, node: Node, header: Callable[[], common_pb2.ResponseHeader]) -> None:
        self._node = node
        self._header = header
        self._senders: dict[WatchSender, asyncio.Future[None]] = {}
        """Of the streams that are open, and what is done when they have ended."""
        self._refusal: RaftKVError | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on `server`. Responses are encoded already, since many streams are told the same."""
        method = grpc.stream_stream_rpc_method_handler(
            self.Watch, request_deserializer=watch_pb2.WatchRequest.FromString, response_serializer=bytes
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WATCH_SERVICE, {"Watch": method}),))

    async def run(self) -> None:
        """End the streams whenever the node has lost its leader for too long. Ends with the node."""
        node = self._node
        with contextlib.suppress(ShuttingDown):
            while True:
                changed = node.leadership_changed()
                reason = self._misfit()
                if reason is not None:
                    self._end_all(reason)
                elif node.leader is not None:
                    if isinstance(self._refusal, NoLeader):
                        self._refusal = None
                elif self._refusal is None and not await self._leader_returns():
                    self._refusal = NoLeader("this node has lost its leader: another one may be up to date")
                    self._end_all(self._refusal)
                await changed

    async def drain(self) -> None:
        """Send clients elsewhere, for good; return when their streams have ended."""
        self._refusal = ShuttingDown("the node is shutting down")
        self._end_all(self._refusal)
        if self._senders:
            await asyncio.wait(list(self._senders.values()))

    async def Watch(  # noqa: N802 - the name in the proto
        self, request_iterator: AsyncIterator[watch_pb2.WatchRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(((MEMBER_ID_METADATA, str(self._node.raft.node_id)),))
        refusal = self._misfit() or self._refusal
        if refusal is not None:
            await abort(context, wire.to_error(refusal))
        sender = WatchSender(self._node.hub, lambda: self._node.machine, self._header)
        ended = self._senders[sender] = asyncio.get_running_loop().create_future()
        reader = asyncio.create_task(_read(sender, request_iterator))
        reader.add_done_callback(lambda task: None if task.cancelled() else sender.end(task.exception()))
        responses = sender.responses()
        try:
            async for response in responses:
                yield response
        except RaftKVError as error:
            await abort(context, wire.to_error(error))
        finally:
            reader.cancel()
            sender.close()
            del self._senders[sender]
            ended.set_result(None)
            await responses.aclose()

    async def _leader_returns(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._node.hub.limits.leaderless_s):
                while self._node.leader is None:
                    await self._node.leadership_changed()
                return True
        return False

    def _misfit(self) -> RaftKVError | None:
        """Say why this node cannot serve watches, whoever leads."""
        node = self._node
        if node.corruption is not None:
            return node.corruption
        if node.raft.is_witness:
            return FailedPrecondition(f"node {node.raft.node_id} is a witness: it holds no data to watch")
        if node.was_removed:
            return FailedPrecondition(f"node {node.raft.node_id} is not a member of the cluster any more")
        return None

    def _end_all(self, reason: RaftKVError) -> None:
        for sender in tuple(self._senders):
            sender.end(reason)


async def _read(sender: WatchSender, requests: AsyncIterator[watch_pb2.WatchRequest]) -> None:
    """Hand requests to the sender until the client sends no more. Raises InvalidArgument."""
    try:
        async for request in requests:
            sender.handle(request)
            await sender.room()
    except DecodeError:
        raise InvalidArgument("the stream holds bytes that are no WatchRequest") from None
