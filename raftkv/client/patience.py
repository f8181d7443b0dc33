"""Reading what an observation begins with, however long the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from raftkv.client.backoff import backoff_s
from raftkv.errors import DeadlineExceeded, RaftKVError

T = TypeVar("T")


async def answered(
    read: Callable[[float | None], Awaitable[T]], closed: Callable[[], bool], timeout: float | None
) -> T:
    """Return what `read(timeout)` returns: once it does, or (with a `timeout` in seconds) at the first attempt.

    Raises what cannot be helped by waiting, and anything once the client is `closed`.
    """
    random = Random()
    failures = 0
    while True:
        try:
            return await read(timeout)
        except RaftKVError as error:
            # No answer in time is not retryable for a write; a read may always be repeated.
            if timeout is not None or closed() or not (error.retryable or isinstance(error, DeadlineExceeded)):
                raise
        failures += 1
        await asyncio.sleep(backoff_s(failures, random))
