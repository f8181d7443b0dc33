"""How long to wait before the next try. Seconds; chance is injected."""

from __future__ import annotations

from random import Random
from typing import Final

BACKOFF_MIN_S: Final = 0.010
BACKOFF_MAX_S: Final = 0.500
POLL_MIN_S: Final = 0.010
POLL_MAX_S: Final = 0.025


def backoff_s(failures: int, random: Random) -> float:
    """Return the wait after `failures` >= 1 failures in a row: exponential, with full jitter, 10 ms to 500 ms."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(failures, 16))
    return random.uniform(BACKOFF_MIN_S, ceiling)


def poll_s(random: Random) -> float:
    """Return the wait before asking reachable nodes again whether they have a leader: 10 ms to 25 ms.

    It does not grow: it is what a caller's pause is longer than the election by.
    """
    return random.uniform(POLL_MIN_S, POLL_MAX_S)
