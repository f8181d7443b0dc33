"""Waiting for what other faults may delay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from raftkv.errors import RaftKVError
from raftkv.testing.links import FaultNotProven

T = TypeVar("T")

POLL_S = 0.05


async def seen(what: str, look: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Wait until `look` says yes. Raises FaultNotProven after `timeout_s`: `what` was not seen."""
    problem = ""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    if await look():
                        return
                except RaftKVError as error:
                    problem = f": {error.message}"
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise FaultNotProven(f"not seen within {timeout_s:g} s: {what}{problem}") from None


def told(task: asyncio.Task[None]) -> None:
    """Raise FaultNotProven if a task that has ended did so by failing: what it did was not done to the end."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise FaultNotProven(f"{task.get_name()} has failed meanwhile: {error!r}") from error


async def allowed(change: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    """Try `change` until it succeeds. Raises what it raised last, after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await change()
        except RaftKVError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(POLL_S)
