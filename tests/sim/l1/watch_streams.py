"""Streams of watches on a simulated node: the product's WatchService, behind calls.

The simulated network has no streams for clients. A watcher polls instead: a call carries its requests to the service
and brings back what the service has said since. One call is under way at a time, so what arrives is in order; a call
that is lost ends the stream for the watcher, as a connection that is lost would.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import msgpack
from google.rpc import status_pb2

from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.watch import WatchService
from raftkv.v1 import common_pb2, watch_pb2

WATCH_POLL = b"W"
"""First byte of a call that polls a stream."""

ABANDONED_S = 1.5
"""A stream that nobody polls is closed after this long."""

UNKNOWN = -1
"""Instead of an error's code: there is no such stream."""

_MOST_RESPONSES = 4
"""Taken from the service before they are fetched: it is pulled, like a real one."""


def encode_poll(stream: int, requests: list[watch_pb2.WatchRequest], wait_s: float, *, opens: bool) -> bytes:
    """Return a call that gives requests to a stream and fetches what it says within `wait_s`."""
    poll: bytes = msgpack.packb((stream, [request.SerializeToString() for request in requests], wait_s, opens))
    return WATCH_POLL + poll


def decode_answer(answer: bytes) -> tuple[list[watch_pb2.WatchResponse], int | None]:
    """Return (what the stream has said, the error's code that it has ended with or None)."""
    responses, end = msgpack.unpackb(answer)
    return [watch_pb2.WatchResponse.FromString(response) for response in responses], end


class _Ended(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Context:
    """What the service asks of gRPC."""

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def abort_with_status(self, status: Any) -> None:
        error = common_pb2.Error()
        for metadata in status.trailing_metadata:
            error.code = _code_in(metadata[1])
        raise _Ended(error.code)


def _code_in(status: bytes) -> common_pb2.ErrorCode.ValueType:
    error = common_pb2.Error()
    for detail in status_pb2.Status.FromString(status).details:
        detail.Unpack(error)
    return error.code


class _Stream:
    """One stream."""

    def __init__(self, service: WatchService) -> None:
        self.requests: asyncio.Queue[watch_pb2.WatchRequest] = asyncio.Queue()
        self.responses: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_RESPONSES)
        self.end: int | None = None
        self.polled = 0
        self.task = asyncio.get_running_loop().create_task(self._pump(service))

    async def _pump(self, service: WatchService) -> None:
        try:
            async with contextlib.aclosing(_served(service, self._requests())) as responses:
                async for response in responses:
                    await self.responses.put(response)
        except _Ended as ended:
            self.end = ended.code
        await self.responses.put(None)

    async def _requests(self) -> AsyncIterator[watch_pb2.WatchRequest]:
        while True:
            yield await self.requests.get()


def _served(service: WatchService, requests: AsyncIterator[watch_pb2.WatchRequest]) -> AsyncGenerator[bytes, None]:
    return cast(AsyncGenerator[bytes, None], service.Watch(requests, cast(Any, _Context())))


class WatchStreams:
    """The streams of one process."""

    def __init__(self, node: Node, requests: Requests) -> None:
        self.service = WatchService(node, requests.header)
        self._streams: dict[int, _Stream] = {}

    async def poll(self, request: bytes) -> bytes:
        """Answer a poll."""
        number, requests, wait_s, opens = msgpack.unpackb(request)
        stream = self._streams.get(number)
        if stream is None:
            if not opens:
                return _answer([], UNKNOWN)
            stream = self._streams[number] = _Stream(self.service)
        stream.polled += 1
        for encoded in requests:
            stream.requests.put_nowait(watch_pb2.WatchRequest.FromString(encoded))
        responses: list[bytes | None] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                responses.append(await stream.responses.get())
        while not stream.responses.empty():
            responses.append(stream.responses.get_nowait())
        if responses and responses[-1] is None:
            del self._streams[number]
            return _answer([one for one in responses if one is not None], stream.end or 0)
        loop = asyncio.get_running_loop()
        loop.call_later(ABANDONED_S, self._close_if_abandoned, number, stream, stream.polled)
        return _answer([one for one in responses if one is not None], None)

    def _close_if_abandoned(self, number: int, stream: _Stream, polled: int) -> None:
        if stream.polled == polled and self._streams.pop(number, None) is stream:
            stream.task.cancel()


def _answer(responses: list[bytes], end: int | None) -> bytes:
    answer: bytes = msgpack.packb((responses, end))
    return answer
