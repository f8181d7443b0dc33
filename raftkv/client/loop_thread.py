"""The event loop on which all synchronous clients of a process run: one daemon thread, begun by the first of them.

At exit the clients that are still open are closed before the loop stops.

A child forked before its parent made a client makes its own as usual. Forked later, it has neither this thread nor a
gRPC that works (grpcio's poller does not survive a fork; calls would hang until their deadline): it is told so at once.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

from raftkv.errors import ConfigurationError, ConnectionFailed, InvalidArgument

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    new_event_loop = asyncio.new_event_loop

T = TypeVar("T")

FORKED: Final = (
    "gRPC does not work in a child forked after its parent made a Client; "
    "make clients only after the fork, or start children by spawn or exec"
)

_EXIT_PATIENCE_S: Final = 2.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop: asyncio.AbstractEventLoop = new_event_loop()
        self._thread = threading.Thread(target=self._main, name="raftkv-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return what it returns. Whatever interrupts the wait cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidArgument("a synchronous client cannot be used on its own event loop; use AsyncClient there")
        if self.loop.is_closed():
            work.close()
            raise ConnectionFailed("the process is ending, and its clients are closed")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C in the caller: nobody waits any more. Without effect on one that is done.

    def stop(self, clients: list[Closable]) -> None:
        """Close what is open and end the thread; gives up after two seconds."""
        future = asyncio.run_coroutine_threadsafe(_close_all(clients), self.loop)
        with suppress(TimeoutError):
            future.result(_EXIT_PATIENCE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_EXIT_PATIENCE_S)

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


class Closable(Protocol):
    """What is closed at exit."""

    async def close(self) -> None:
        """End it. Idempotent."""


class _Process:
    """The thread of this process, and what runs on it."""

    def __init__(self, *, spoilt: bool = False) -> None:
        self.spoilt = spoilt
        """Forked from a process that had such a thread."""
        self.lock = threading.Lock()
        self.thread: LoopThread | None = None
        self.open: WeakSet[Closable] = WeakSet()


_process = _Process()


def shared(client: Closable) -> LoopThread:
    """Return the process's loop thread, on which `client` will be closed at exit.

    Raises ConfigurationError in a process that was forked too late.
    """
    if _process.spoilt:
        raise ConfigurationError(FORKED)
    with _process.lock:
        if _process.thread is None:
            _process.thread = LoopThread()
        _process.open.add(client)
        return _process.thread


async def _close_all(clients: list[Closable]) -> None:
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


def _at_exit() -> None:
    thread = _process.thread
    if thread is not None and thread.pid == os.getpid():
        thread.stop(list(_process.open))
        _process.thread = None


def _after_fork_in_child() -> None:
    global _process  # noqa: PLW0603 - the lock may be held by a thread that the child does not have
    _process = _Process(spoilt=_process.spoilt or _process.thread is not None)


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
