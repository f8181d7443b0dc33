"""The driver's clock: injected, so that a simulator can own time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock that never goes back."""

    def now_ms(self) -> int:
        """Milliseconds since some fixed moment."""
        ...


class MonotonicClock:
    """The machine's monotonic clock: steps of the wall clock do not touch it."""

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
