"""An asyncio event loop without a clock, a socket or a thread: time jumps to the next timer when nothing is ready.

What runs on it is deterministic: the ready queue is first in, first out, as in asyncio's own loops, and timers that are
due at the same moment run in an order drawn from a seed. Real I/O and threads are refused with an error that says so.

The loop knows processes. A callback or task belongs to the process in whose context (`contextvars`) it was made, and so
does all that it makes in turn. A paused process keeps its callbacks to itself until it goes on, as after SIGSTOP.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, NoReturn, TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: nothing would ever happen again."""


class RealWorld(RuntimeError):
    """Something that runs under virtual time asked for a thread, a socket or a child process."""


class Process:
    """One incarnation of an operating system process: what it runs, and whether it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.dead = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """All that are not done, in the order in which they were made (a dict: sets have no stable order)."""
        self.backlog: deque[asyncio.Handle] = deque()
        """What became due while it was paused."""
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("PROCESS", default=None)
"""Whose code is running; None: the simulator's own."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """See the module's docstring."""

    def __init__(self, random: Random, *, max_steps: int = 10_000_000) -> None:
        super().__init__()
        self.steps = 0
        """Callbacks run so far."""
        self._now = 0.0
        self._random = random
        self._max_steps = max_steps
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._runnable: deque[asyncio.Handle] = deque()
        self._timer_count = 0

    # --- time and order -----------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined] # what asyncio's loops do; a cancelled handle asks for it
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._random.random(), self._timer_count, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._runnable.append(handle)
        return handle

    def create_task(self, coro: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:  # type: ignore[override]
        task: asyncio.Task[T] = super().create_task(coro, **options)
        context = options.get("context")
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is dropped when it comes up

    def _run_once(self) -> None:
        runnable, timers = self._runnable, self._timers
        if not runnable:
            while timers and timers[0][3].cancelled():
                heapq.heappop(timers)
            if not timers:
                if self._stopping:  # type: ignore[attr-defined] # base loop's own flag, set by stop()
                    return
                raise Deadlock(f"nothing is ready and no timer is set at {self._now:.6f} s of virtual time")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            runnable.append(heapq.heappop(timers)[3])
        for _ in range(len(runnable)):
            handle = runnable.popleft()
            if handle.cancelled():
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and process.paused:
                process.backlog.append(handle)
                continue
            self.steps += 1
            handle._run()
        if self.steps > self._max_steps:
            raise Deadlock(f"{self.steps} steps have not led to an end: something turns in circles")

    # --- processes ----------------------------------------------------------------------------------------------------

    def pause(self, process: Process) -> None:
        """SIGSTOP."""
        process.paused = True

    def go_on(self, process: Process) -> None:
        """SIGCONT: everything that became due meanwhile happens now, in order."""
        process.paused = False
        self._runnable.extend(process.backlog)
        process.backlog.clear()

    def kill(self, process: Process) -> None:
        """End a process: its tasks are cancelled where they wait. What they reach then is for others to cut off."""
        process.dead = True
        self.go_on(process)
        for task in list(process.tasks):
            task.cancel()

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """There is none."""


def _refuse_threads(*args: Any, **kwargs: Any) -> NoReturn:
    raise RealWorld("there are no threads under virtual time")


def _refuse_io(*args: Any, **kwargs: Any) -> NoReturn:
    raise RealWorld("there are no files, sockets, signals or child processes under virtual time")


for _name in ("call_soon_threadsafe", "run_in_executor"):
    setattr(VirtualTimeLoop, _name, _refuse_threads)
for _name in (
    *("add_reader", "add_writer", "remove_reader", "remove_writer", "add_signal_handler", "remove_signal_handler"),
    *("sock_recv", "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept", "sock_sendfile"),
    *("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection"),
    *("create_unix_server", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe"),
    *("subprocess_exec", "subprocess_shell", "getaddrinfo", "getnameinfo", "start_tls", "sendfile"),
):
    setattr(VirtualTimeLoop, _name, _refuse_io)
