"""The driver's clock: injected, so that a simulator can own time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back."""

    def now_ms(self) -> float:
        """Milliseconds, and parts of them, since some fixed moment."""
        ...


class MonotonicClock:
    """The machine's monotonic clock: steps of the wall clock do not touch it.

    On Linux it goes on while the machine is suspended: a leader that wakes up must know that its lease is over.
    """

    def __init__(self) -> None:
        self._id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_ms(self) -> float:
        return time.clock_gettime_ns(self._id) / 1e6
