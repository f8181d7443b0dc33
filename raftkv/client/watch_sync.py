"""Watches without an event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self

from raftkv.client.watch import AsyncWatch, Event


class Watch:
    """The synchronous twin of AsyncWatch: `Client.watch` makes one. Everything is as described there, but blocks.

        with client.watch(prefix="jobs/") as events:
            for event in events:
                print(event.kind, event.key, event.value)

    One thread reads at a time; any thread may `close` it, which ends the iteration.
    """

    def __init__(self, watch: AsyncWatch, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """For the client: `run` runs a coroutine on its loop."""
        self._watch = watch
        self._run = run
        self._batch: deque[Event] = deque()
        self._closed = False

    def __enter__(self) -> Self:
        self._run(self._watch.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch: whoever iterates is done. Idempotent."""
        self._closed = True
        self._run(_call(self._watch.close))

    @property
    def revision(self) -> int:
        """See AsyncWatch.revision."""
        batch = self._batch
        if batch:
            return batch[0].revision - 1
        revision: int = self._run(_call(lambda: self._watch.revision))
        return revision

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._batch:
            events = self._next()
            if events is None:
                raise StopIteration
            self._batch.extend(events)
        if self._closed:
            raise StopIteration
        return self._batch.popleft()

    def batches(self) -> Iterator[tuple[Event, ...]]:
        """See AsyncWatch.batches."""
        while True:
            rest = tuple(self._batch)
            self._batch.clear()
            events = rest or self._next()
            if events is None:
                return
            yield events

    def _next(self) -> tuple[Event, ...] | None:
        events: tuple[Event, ...] | None = None if self._closed else self._run(self._watch.next_batch())
        return events


async def _call(function: Callable[[], Any]) -> Any:
    return function()
