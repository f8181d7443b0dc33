"""Calls about watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from raftkv.client.core import ClientCore
from raftkv.client.spans import selected
from raftkv.client.turn import GONE, LineChange
from raftkv.client.watch import AsyncWatch, Decode, Event, Subscription, decode_events
from raftkv.client.wire import check_size, check_u64
from raftkv.client.wire_lock import to_contender
from raftkv.errors import InvalidArgument
from raftkv.v1 import watch_pb2


class WatchCalls(ClientCore):
    """Watches of keys, and of the lines for locks."""

    def watch(
        self,
        key: bytes | str | None = None,
        *,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        start_revision: int = 0,
        previous: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress: bool = False,
        timeout: float | None = None,
    ) -> AsyncWatch:
        """Make a watch of a key, of all keys that begin with `prefix` (empty: all), or of those in [start, end).

        `end` None: every key from `start` on. `start_revision`: the first revision of interest, past or to come; 0:
        whatever is written from now on. `previous`: events also carry the version before. `puts` and `deletes`: which
        kinds of events are wanted. `progress`: `AsyncWatch.batches` also says how far it is when nothing happens.

        Entering it waits for `timeout` seconds at most and may raise ConnectionFailed, Compacted, InvalidArgument; see
        AsyncWatch.

        Example::

            async with client.watch(prefix="jobs/") as events:
                await client.put("jobs/1", "new")
                async for event in events:
                    print(event.kind, event.key, event.value)
                    break
        """
        span = selected(key, prefix=prefix, start=start, end=end)
        check_size(len(span.key) + len(span.range_end))
        check_u64("start_revision", start_revision)
        if not (puts or deletes):
            raise InvalidArgument("puts and deletes are both False: nothing is left to watch")
        seconds = self._seconds(timeout)
        request = watch_pb2.WatchCreate(
            key=span.key,
            range_end=span.range_end,
            start_revision=start_revision,
            no_puts=not puts,
            no_deletes=not deletes,
            prev_kv=previous,
            progress_notify=progress,
            fragment=True,
        )

        def begin() -> Subscription[Event]:
            return self._subscribe(request, decode_events, notices=progress)

        return AsyncWatch(begin, lambda subscription: self._open().watches.opened(subscription, seconds))

    @asynccontextmanager
    async def _watch_place(
        self, lock: bytes, ticket: int, start_revision: int
    ) -> AsyncIterator[AsyncIterator[tuple[LineChange, ...]]]:
        """Yield what happens to one place in the line for a lock, or (`ticket` 0) to all: whole revisions at a time.

        For locks. Does not wait for the watch to be open. Iterating raises Compacted.
        """
        place = watch_pb2.LockPlace(lock=lock, ticket=ticket)
        request = watch_pb2.WatchCreate(place=place, start_revision=start_revision, fragment=True)
        subscription = self._subscribe(request, _decode_line, notices=False)
        try:
            yield _batches(subscription)
        finally:
            subscription.close()

    def _watch_line(
        self, lock: bytes, start_revision: int
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[LineChange, ...]]]:
        """Watch all places of a lock (`turn.WatchLine`)."""
        return self._watch_place(lock, 0, start_revision)

    async def _watch_turn(self, lock: bytes, ticket: int, start_revision: int) -> int:
        """Return the token once a place is granted, or GONE (`turn.WatchTurn`). Raises Compacted."""
        async with self._watch_place(lock, ticket, start_revision) as batches:
            async for batch in batches:
                for change in batch:
                    if change.contender is None:
                        return GONE
                    if change.contender.token:
                        return change.contender.token
        return GONE

    def _subscribe(self, request: watch_pb2.WatchCreate, decode: Decode[Any], *, notices: bool) -> Subscription[Any]:
        mux = self._open().watches
        subscription: Subscription[Any] = Subscription(mux, request, decode, notices=notices)
        mux.add(subscription)
        return subscription


async def _batches(subscription: Subscription[LineChange]) -> AsyncIterator[tuple[LineChange, ...]]:
    while (changes := await subscription.next()) is not None:
        yield changes


def _decode_line(events: Iterable[watch_pb2.Event]) -> tuple[LineChange, ...]:
    return tuple(
        [
            LineChange(
                event.contender.ticket,
                None if event.kind == watch_pb2.Event.DELETE else to_contender(event.contender),
                event.kv.mod_revision,
            )
            for event in events
        ]
    )
