"""Watches without an event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeVar

from raftkv.client.blocking import Run
from raftkv.client.sync_core import SyncCore
from raftkv.client.watch import AsyncWatch, Event
from raftkv.errors import RaftKVError

T = TypeVar("T")


class Watch:
    """The synchronous twin of AsyncWatch: `Client.watch` makes one. Everything is as described there, but blocks.

        with client.watch(prefix="jobs/") as events:
            for event in events:
                print(event.kind, event.key, event.value)

    One thread reads at a time; any thread may `close` it, which ends the iteration.
    """

    def __init__(self, run: Run, watch: AsyncWatch) -> None:
        """For the client."""
        self._watch = watch
        self._run = run
        self._batch: deque[Event] = deque()
        self._closed = False

    def __enter__(self) -> Self:
        try:
            self._run(self._watch.__aenter__())
        except RaftKVError:
            raise
        except BaseException:
            self.close()  # an interrupt may come when it is open already: it would go on for nobody
            raise
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
        return self._run(_call(lambda: self._watch.revision))

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

    def batches(self) -> Generator[tuple[Event, ...], None, None]:
        """See AsyncWatch.batches."""
        while (events := self.next_batch()) is not None:
            yield events

    def next_batch(self) -> tuple[Event, ...] | None:
        """See AsyncWatch.next_batch."""
        rest = tuple(self._batch)
        self._batch.clear()
        return rest or self._next()

    def _next(self) -> tuple[Event, ...] | None:
        return None if self._closed else self._run(self._watch.next_batch())


class SyncWatchCalls(SyncCore):
    """Watches."""

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
    ) -> Watch:
        """See AsyncClient.watch."""
        watch = self._async.watch(
            key,
            prefix=prefix,
            start=start,
            end=end,
            start_revision=start_revision,
            previous=previous,
            puts=puts,
            deletes=deletes,
            progress=progress,
            timeout=timeout,
        )
        return Watch(self._run, watch)


async def _call(function: Callable[[], T]) -> T:
    return function()
