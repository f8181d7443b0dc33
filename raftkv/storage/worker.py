"""One thread for blocking disk work, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_Job = Callable[[], None]


class Runner(Protocol):
    """Where blocking disk work is done: in production a `Worker`; a simulator does it in virtual time, without threads.

    Jobs run one after the other, in the order of submission.
    """

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job`; the future, of the calling loop, gets its result or exception. Cancelling it stops no job."""
        ...

    async def stop(self) -> None:
        """Finish everything submitted so far and release the means to do more. Idempotent."""
        ...


class Inline:
    """A `Runner` in the event loop, after a time that `seconds` says: no threads, and the clock is the loop's."""

    def __init__(self, seconds: Callable[[], float] | None = None) -> None:
        self._seconds = seconds

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """See `Runner.run`."""
        return asyncio.ensure_future(self._run(job))

    async def stop(self) -> None:
        """Do nothing: nothing goes on by itself."""

    async def _run(self, job: Callable[[], T]) -> T:
        await asyncio.sleep(self._seconds() if self._seconds else 0)
        return job()


class Worker:
    """The `Runner` of production: a thread of its own.

    A plain thread and a SimpleQueue rather than an executor: submit and hand-back are all that it adds to a flush.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job` in the thread; the future, of the calling loop, gets its result or exception.

        Cancelling the future does not stop the job.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - not swallowed: handed to the caller
                _hand_over(loop, _fail, future, error)
            else:
                _hand_over(loop, _succeed, future, result)

        self._jobs.put(work)
        return future

    async def stop(self) -> None:
        """Finish everything submitted so far and end the thread. Idempotent."""
        if self._thread.is_alive():
            await self.run(_nothing)
            self._jobs.put(None)
            # The queue is drained: the thread is on its way out, and this does not block.
            self._thread.join()

    def dismiss(self) -> None:
        """End the thread once it has done what was submitted, and wait for nothing."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _nothing() -> None:
    pass


def _hand_over(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        # The loop was closed meanwhile. Whoever waited is gone; the work is done all the same.
        if not loop.is_closed():
            raise


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
