"""Watches for asyncio: what a caller reads events from. How they come is the business of `watch_mux`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from raftkv.client.results import KeyValue
from raftkv.client.wire import to_key_value
from raftkv.errors import InvalidArgument, RaftKVError, WrongEventLoop
from raftkv.quorum import Guarantee
from raftkv.v1 import watch_pb2

MAX_QUEUED_EVENTS: Final = 10_000
MAX_QUEUED_BYTES: Final = 4 << 20
"""What waits for a consumer; with more than either the watch is given up until the consumer has read half of it."""


class EventKind(Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a key."""

    kind: EventKind
    key: bytes
    revision: int
    """The store's revision that made the change; changes made together share it."""
    pair: KeyValue | None
    """The new version; None where the key was deleted."""
    previous: KeyValue | None
    """The version before it, where that was asked for (`previous=True`) and there was one. Compaction may have removed
    it."""

    @property
    def value(self) -> bytes:
        """The new value; empty where the key was deleted."""
        return b"" if self.pair is None else self.pair.value


class Revised(Protocol):
    """Something that happened at a revision."""

    @property
    def revision(self) -> int: ...


R = TypeVar("R", bound=Revised)
Decode = Callable[[Iterable[watch_pb2.Event]], tuple[R, ...]]


class Host(Protocol):
    """Who keeps subscriptions alive (`watch_mux.WatchMux`). All methods return at once."""

    def add(self, subscription: Subscription[R]) -> None:
        """Open it, and open it again wherever it breaks off."""

    def remove(self, subscription: Subscription[R]) -> None:
        """Forget it."""

    def suspend(self, subscription: Subscription[R]) -> None:
        """Its consumer does not keep up: stop receiving."""

    def resume(self, subscription: Subscription[R]) -> None:
        """Its consumer has caught up."""


class Subscription(Generic[R]):
    """One watch, over all the streams that it lives on: what has come, in order, and where to go on.

    `take`, `open` and `fail` are called by the host, `next` by one consumer.
    """

    def __init__(self, host: Host, request: watch_pb2.WatchCreate, decode: Decode[R], *, notices: bool) -> None:
        """`notices`: progress without events is handed out as well, as an empty batch."""
        self.request = request
        """Without watch_id; its start_revision is the first one wanted."""
        self.decode = decode
        self.next_revision = request.start_revision
        """Everything before it has been taken. 0: whatever comes after now."""
        self.watch_id = 0
        """On the stream at hand; 0: it is not on it."""
        self.created = False
        """The node has opened it there: what the stream says of all its watches is said of this one from then on."""
        self.suspended = False
        self.attempts = 0
        """How often it was refused in a row."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it was opened for the first time, or has failed."""
        self.consumed = max(request.start_revision - 1, 0)
        """Everything up to it has been handed to the consumer."""
        self._host = host
        self._notices = notices
        self._queue: deque[tuple[tuple[R, ...], int, int]] = deque()
        """(events, bytes, last revision)."""
        self._queued_events = 0
        self._queued_bytes = 0
        self._part: list[R] = []
        """The beginning of a revision whose rest has not come yet."""
        self._part_bytes = 0
        self._failure: RaftKVError | None = None
        self._closed = False
        self._reader: asyncio.Future[None] | None = None

    # --- the host's side ----------------------------------------------------------------------------------------------

    def open(self, revision: int) -> None:
        """The watch exists on the stream at hand, and will not be told of anything up to `revision`."""
        self.attempts = 0
        self.created = True
        if self.next_revision == 0:
            self.next_revision = revision + 1
            self.consumed = revision
        if not self.opened.done():
            self.opened.set_result(None)

    def take(self, events: tuple[R, ...], size_bytes: int, *, fragment: bool) -> None:
        """Events have come; `fragment`: the rest of the last revision comes next."""
        if events and events[0].revision < self.next_revision:
            events = tuple([event for event in events if event.revision >= self.next_revision])
        if fragment or self._part:
            # Handed out only as a whole: what breaks off in the middle of a revision begins anew with all of it.
            self._part += events
            self._part_bytes += size_bytes
            if fragment:
                return
            events, size_bytes = tuple(self._part), self._part_bytes
            self._forget_part()
        if not events:
            return
        last = events[-1].revision
        self.next_revision = last + 1
        self._queue.append((events, size_bytes, last))
        self._queued_events += len(events)
        self._queued_bytes += size_bytes
        self._wake()
        if self._queued_events > MAX_QUEUED_EVENTS or self._queued_bytes > MAX_QUEUED_BYTES:
            self._host.suspend(self)

    def progress(self, revision: int) -> None:
        """Everything up to `revision` has been told."""
        if revision < self.next_revision or self._part:
            return
        self.next_revision = revision + 1
        if self._queue and not self._queue[-1][0]:
            self._queue.pop()  # one notice says as much as two
        self._queue.append(((), 0, revision))
        if self._notices:
            self._wake()

    def broken(self) -> None:
        """It is on no stream any more."""
        self.watch_id = 0
        self.created = False
        self._forget_part()

    def fail(self, error: RaftKVError) -> None:
        """It has ended, after what is queued."""
        if self._failure is None:
            self._failure = error
            self._wake()
            if not self.opened.done():
                self.opened.set_exception(error)
                self.opened.exception()  # not everybody waits for it

    # --- the consumer's side ------------------------------------------------------------------------------------------

    async def next(self) -> tuple[R, ...] | None:
        """Return what has come next, whole revisions; None once closed. Raises the error that ended it."""
        while True:
            while self._queue and not self._closed:
                events, size_bytes, self.consumed = self._queue.popleft()
                self._queued_events -= len(events)
                self._queued_bytes -= size_bytes
                if (
                    self.suspended
                    and self._queued_events <= MAX_QUEUED_EVENTS // 2
                    and self._queued_bytes <= MAX_QUEUED_BYTES // 2
                ):
                    self._host.resume(self)
                if events or self._notices:
                    return events
            if self._closed:
                return None
            if self._failure is not None:
                raise self._failure
            if self.opened.get_loop() is not asyncio.get_running_loop():
                raise WrongEventLoop("a watch belongs to the event loop that it was opened on, and this is another one")
            if self._reader is not None:
                raise InvalidArgument("two tasks read from one watch at a time: each event goes to one reader only")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def close(self) -> None:
        """End it. Idempotent."""
        if not self._closed:
            self._closed = True
            self._host.remove(self)
            self._wake()
            self._queue.clear()

    @property
    def settled(self) -> int:
        """Everything up to this revision has been handed to the consumer, or there was nothing to hand."""
        while self._queue and not self._queue[0][0]:
            self.consumed = self._queue.popleft()[2]
        return self.consumed

    def _forget_part(self) -> None:
        self._part, self._part_bytes = [], 0

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class AsyncWatch:
    """The changes of some keys, as they are committed: `client.watch` makes one.

    Entering waits until the watch is open: whatever is written from then on is seen. Every change is handed out once,
    in the order of revisions; neither a change of leader nor the loss of a node leaves a gap. While no node can be
    reached, iterating waits.

    A consumer may be as slow as it likes. No more than 10,000 events or 4 MiB wait for it in memory (or one revision,
    if that is larger); the rest stays in the store, until it is compacted.

    One task reads at a time. Iterating ends when the watch is closed, and raises
    - Compacted: changes that have not been handed out are gone. Its `compacted_revision` is where history begins: read
      the keys as they are now, and watch on from there.
    - LimitExceeded, InvalidArgument: the nodes refuse the watch.
    - ConnectionFailed: the client was closed.

    Example::

        async with client.watch(prefix="jobs/") as events:
            await client.put("jobs/1", "new")
            async for event in events:
                print(event.kind, event.key, event.value)
                break
    """

    def __init__(
        self, begin: Callable[[], Subscription[Event]], opened: Callable[[Subscription[Event]], Awaitable[None]]
    ) -> None:
        """For the client: `begin` makes the subscription, `opened` waits until it is open."""
        self._begin = begin
        self._opened = opened
        self._subscription: Subscription[Event] | None = None
        self._batch: deque[Event] = deque()

    async def __aenter__(self) -> Self:
        if self._subscription is not None:
            raise InvalidArgument("a watch can be entered once")
        self._subscription = self._begin()
        await self._opened(self._subscription)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch: whoever iterates is done. Idempotent; does not wait.

        Example::

            async with client.watch(prefix="jobs/") as events:
                asyncio.get_running_loop().call_later(0.01, events.close)
                async for event in events:
                    print(event.key)
        """
        if self._subscription is not None:
            self._subscription.close()
            self._batch.clear()

    @property
    def revision(self) -> int:
        """Every change up to this revision of the store has been handed out.

        It also grows when nothing happens to the keys, at least every second or so: a later watch that begins at
        the revision behind it misses nothing.
        """
        if self._batch:
            return self._batch[0].revision - 1
        return self._entered().settled

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._batch:
            events = await self._entered().next()
            if events is None:
                raise StopAsyncIteration
            self._batch.extend(events)
        return self._batch.popleft()

    async def batches(self) -> AsyncGenerator[tuple[Event, ...], None]:
        """Yield events many at a time: all those of one or more revisions.

        With `progress=True` also an empty tuple now and then while nothing happens: look at `revision`. Raises as
        AsyncWatch says.

        Example::

            async with client.watch(prefix="jobs/") as events:
                await client.put("jobs/1", "new")
                async for batch in events.batches():
                    print(len(batch), events.revision)
                    break
        """
        while (events := await self.next_batch()) is not None:
            yield events

    async def next_batch(self) -> tuple[Event, ...] | None:
        """Return the next of `batches`; None once closed. Raises as AsyncWatch says.

        Example::

            async with client.watch("color") as events:
                await client.put("color", "red")
                print(await events.next_batch())
        """
        if self._batch:
            rest = tuple(self._batch)
            self._batch.clear()
            return rest
        return await self._entered().next()

    def _entered(self) -> Subscription[Event]:
        if self._subscription is None:
            raise InvalidArgument("enter the watch first: async with client.watch(...) as events")
        return self._subscription


def decode_events(events: Iterable[watch_pb2.Event]) -> tuple[Event, ...]:
    """Decode changes of keys."""
    return tuple([_event(event) for event in events])


def _event(event: watch_pb2.Event) -> Event:
    pair = event.kv
    previous = to_key_value(event.prev_kv, Guarantee.STALE_PREFIX) if event.HasField("prev_kv") else None
    if event.kind == watch_pb2.Event.PUT:
        return Event(EventKind.PUT, pair.key, pair.mod_revision, to_key_value(pair, Guarantee.STALE_PREFIX), previous)
    return Event(EventKind.DELETE, pair.key, pair.mod_revision, None, previous)
