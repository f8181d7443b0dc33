"""Running a command's coroutine: with a client, with errors as exit codes, and so that signals unwind it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer
import uvloop

from raftkv.cli.exits import exit_code, fail
from raftkv.cli.tls_flags import given_tls
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError

T = TypeVar("T")


def run_with_client(
    endpoints: str, timeout: float, work: Callable[[AsyncClient], Awaitable[T]], *, writes: bool = False
) -> T:
    """Return what `work` returns. An error ends the command; `writes` says that its outcome may matter."""

    async def connected() -> T:
        async with AsyncClient(endpoints, timeout=timeout, tls=given_tls()) as client:
            return await work(client)

    return run_to_end(connected(), writes=writes)


def run_to_end(work: Coroutine[Any, Any, T], *, writes: bool = False) -> T:
    """Return what `work` returns; an error ends the command. SIGTERM and SIGHUP cancel it, as Ctrl-C does."""
    try:
        return uvloop.run(cancelled_by_signals(work))
    except RaftKVError as error:
        fail(error, exit_code(error, writes=writes), writes=writes)


def catch_signals(handler: Callable[[int], object]) -> None:
    """From now until the end of the command, SIGINT, SIGTERM and SIGHUP cancel nothing: `handler` gets their numbers.

    Those that are ignored stay so. What is still done after that must be bounded in time.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handler, number)


async def cancelled_by_signals(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; SIGTERM and SIGHUP cancel it and end the command."""
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise typer.Exit(128 + received[0]) from None
        raise
