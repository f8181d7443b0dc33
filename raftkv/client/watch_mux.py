"""All watches of a client on one stream to one node, and on the next one when that breaks.

Every watch knows the revision that it goes on from, so a stream may end at any moment: the watches are opened anew on
another node, each behind what it was told last. A stream on which nothing comes is asked for progress; that tells a
quiet store from a dead node, and brings every watch forward, so that there is little to catch up on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from typing import Any, Final, Protocol

from grpc.aio import AioRpcError

from raftkv.client.backoff import backoff_s
from raftkv.client.channels import Connections
from raftkv.client.routing import Router
from raftkv.client.watch import Subscription
from raftkv.client.wire import to_error, to_rpc_error
from raftkv.errors import ConnectionFailed, RaftKVError
from raftkv.v1 import watch_pb2

LOOKS_PER_TIMEOUT: Final = 4
"""How exactly silence is timed."""

LASTING_S: Final = 1.0
"""A stream that breaks sooner is a failure though its node has answered: the next ones are opened after a pause."""

_PATIENCE_S: Final = 3600.0


class Ways(Protocol):
    """What the mux needs to reach nodes (`dispatcher.Dispatcher`)."""

    loop: asyncio.AbstractEventLoop
    connections: Connections
    router: Router
    random: Random
    revision: int
    """The highest revision of the store that this client knows of."""

    async def wait_ready(self, deadline: float) -> str: ...


class _Stream:
    """One stream, from its opening to its end."""

    def __init__(self, rpc: Any, now: float) -> None:
        self.rpc = rpc
        self.began_at = now
        self.outgoing: deque[watch_pb2.WatchRequest] = deque()
        self.sleeping: asyncio.Future[None] | None = None
        self.heard_at = now
        self.told_at = now
        """When it last said how far all of its watches are."""
        self.asked_at: float | None = None
        """When it was asked for progress that has not come."""
        self.healthy = False
        """The node has said something of use."""
        self.silent = False
        """It was given up because nothing came."""

    def send(self, request: watch_pb2.WatchRequest) -> None:
        self.outgoing.append(request)
        if self.sleeping is not None and not self.sleeping.done():
            self.sleeping.set_result(None)


class WatchMux:
    """The watches of one client (`watch.Host`). All methods are to be called on its loop."""

    def __init__(self, ways: Ways, attempt_timeout: float) -> None:
        self._ways = ways
        self._attempt_timeout = attempt_timeout
        self._subscriptions: dict[Subscription[Any], None] = {}
        self._by_id: dict[int, Subscription[Any]] = {}
        """Those on the stream at hand."""
        self._last_id = 0
        self._stream: _Stream | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._problem = ""
        """What broke the last stream."""

    # --- what subscriptions ask for (watch.Host) ----------------------------------------------------------------------

    def add(self, subscription: Subscription[Any]) -> None:
        if self._closed:
            raise ConnectionFailed("the client is closed")
        self._subscriptions[subscription] = None
        self._wanted.set()
        if self._task is None:
            self._task = self._ways.loop.create_task(self._run(), name="raftkv-watch")
        self._open(subscription)

    def remove(self, subscription: Subscription[Any]) -> None:
        self._subscriptions.pop(subscription, None)
        self._withdraw(subscription)
        if not self._subscriptions:
            self._wanted.clear()

    def suspend(self, subscription: Subscription[Any]) -> None:
        subscription.suspended = True
        self._withdraw(subscription)

    def resume(self, subscription: Subscription[Any]) -> None:
        subscription.suspended = False
        self._open(subscription)

    async def opened(self, subscription: Subscription[Any], timeout: float) -> None:
        """Wait until it is open. Raises what refused it, ConnectionFailed when no node has opened it in time."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(subscription.opened)
        except TimeoutError:
            subscription.close()
            why = self._problem or self._ways.router.why_unreachable()
            raise ConnectionFailed(
                f"no node has opened the watch within {timeout:g} s{': ' if why else ''}{why}"
            ) from None
        except BaseException:
            subscription.close()
            raise

    async def close(self) -> None:
        """End all watches with ConnectionFailed. Idempotent."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.fail(ConnectionFailed("the client is closed"))
        self._subscriptions.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _open(self, subscription: Subscription[Any]) -> None:
        """Ask for it on the stream at hand, if there is one; else that is done when there is one."""
        stream = self._stream
        if stream is None or subscription.suspended or subscription.watch_id or subscription not in self._subscriptions:
            return
        self._last_id += 1
        request = watch_pb2.WatchRequest(create=subscription.request)
        create = request.create
        create.watch_id = subscription.watch_id = self._last_id
        create.start_revision = subscription.next_revision
        if not create.start_revision:
            create.min_revision = self._ways.revision
        self._by_id[self._last_id] = subscription
        stream.send(request)

    def _withdraw(self, subscription: Subscription[Any]) -> None:
        watch_id = subscription.watch_id
        subscription.broken()
        if self._by_id.pop(watch_id, None) is not None and self._stream is not None:
            self._stream.send(watch_pb2.WatchRequest(cancel=watch_pb2.WatchCancel(watch_id=watch_id)))

    # --- streams ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        tried: set[str] = set()
        failures = 0
        while True:
            await self._wanted.wait()
            address = self._ways.router.choose(tried)
            if address is None:
                tried.clear()
                try:
                    address = await self._ways.wait_ready(self._ways.loop.time() + _PATIENCE_S)
                except ConnectionFailed:
                    continue  # not for an hour; or the client is being closed, and cancels this task
            stream = _Stream(self._ways.connections.get(address).watch.Watch(), self._ways.loop.time())
            self._problem = await self._serve(address, stream)
            if stream.healthy:
                tried.clear()
                if self._ways.loop.time() - stream.began_at >= LASTING_S:
                    failures = 0
            if stream.silent:
                self._ways.connections.discard(address)
            tried.add(address)
            failures += 1
            if failures > 1:
                await asyncio.sleep(backoff_s(failures, self._ways.random))

    async def _serve(self, address: str, stream: _Stream) -> str:
        """Use a stream until it ends; return why it did."""
        self._stream = stream
        for subscription in self._subscriptions:
            self._open(subscription)
        writer = self._ways.loop.create_task(_write(stream))
        timer = self._look_later(stream)
        try:
            while True:
                response = await stream.rpc.read()
                if not isinstance(response, watch_pb2.WatchResponse):
                    return f"{address}: the node ended the stream"
                self._heard(stream, response)
        except AioRpcError as error:
            return to_rpc_error(address, error).message
        except asyncio.CancelledError:
            # gRPC raises it too where the call or its connection was given up.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return f"{address}: no answer for {self._attempt_timeout:g} s"
        finally:
            timer[0].cancel()
            self._stream = None
            stream.rpc.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            for subscription in self._by_id.values():
                subscription.broken()
            self._by_id.clear()

    def _look_later(self, stream: _Stream) -> list[asyncio.TimerHandle]:
        """Look after silence until the handle in the list that is returned is cancelled."""
        loop, interval = self._ways.loop, self._attempt_timeout / LOOKS_PER_TIMEOUT

        def look() -> None:
            self._watch_silence(stream)
            handle[0] = loop.call_later(interval, look)

        handle = [loop.call_later(interval, look)]
        return handle

    def _watch_silence(self, stream: _Stream) -> None:
        now = self._ways.loop.time()
        if stream.asked_at is not None:
            if now - max(stream.asked_at, stream.heard_at) > self._attempt_timeout:
                stream.silent = True
                stream.rpc.cancel()
        elif self._subscriptions and now - stream.told_at >= self._attempt_timeout:
            # However much is heard of some watches: it brings forward those of which nothing is.
            stream.asked_at = now
            stream.send(watch_pb2.WatchRequest(progress=watch_pb2.WatchProgress()))

    def _heard(self, stream: _Stream, response: watch_pb2.WatchResponse) -> None:
        stream.heard_at = self._ways.loop.time()
        stream.healthy = True
        if not response.watch_ids:
            if response.progress:
                stream.told_at, stream.asked_at = stream.heard_at, None
                for subscription in tuple(self._by_id.values()):
                    if subscription.created:  # else this was said before the node knew of it
                        subscription.progress(response.revision)
            return
        canceled = to_error(response.canceled) if response.HasField("canceled") else None
        created, progress, fragment = response.created, response.progress, response.fragment
        size_bytes = response.ByteSize() if response.events else 0
        events: tuple[Any, ...] | None = None
        for watch_id in response.watch_ids:
            if watch_id not in self._by_id:
                continue  # withdrawn while this was on its way
            subscription = self._by_id[watch_id]
            if canceled is not None:
                self._canceled(subscription, canceled)
            elif created:
                subscription.open(response.revision)
            elif progress:
                subscription.progress(response.revision)
            else:
                if events is None:
                    events = subscription.decode(response.events)
                subscription.take(events, size_bytes, fragment=fragment)

    def _canceled(self, subscription: Subscription[Any], error: RaftKVError) -> None:
        del self._by_id[subscription.watch_id]
        subscription.broken()
        if error.retryable:
            subscription.attempts += 1
            pause_s = backoff_s(subscription.attempts, self._ways.random)
            self._problem = error.message
            self._ways.loop.call_later(pause_s, self._open, subscription)
        else:
            self._subscriptions.pop(subscription, None)
            subscription.fail(error)


async def _write(stream: _Stream) -> None:
    while True:
        while not stream.outgoing:
            stream.sleeping = asyncio.get_running_loop().create_future()
            await stream.sleeping
        await stream.rpc.write(stream.outgoing.popleft())
