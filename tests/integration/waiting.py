"""Waiting for something to become true, and no longer than is reasonable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 60.0
"""For what takes a second or two on a machine with nothing else to do."""
POLL_S: Final = 0.01


async def until(what: str, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Return once `condition` holds. Fails, saying `what` was waited for, after `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if condition():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not after {timeout_s} s: {what}") from None
