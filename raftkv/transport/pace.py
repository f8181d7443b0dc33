"""How fast what can wait may go, so that what cannot does not have to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pace:
    """A rate that several senders share. Who has sent waits until as much would have passed at that rate.

    Time that nobody used is not saved up.
    """

    def __init__(self, bytes_per_s: float, now: Callable[[], float] | None = None) -> None:
        """0: as fast as it goes. `now` is the event loop's time unless given."""
        self._bytes_per_s = bytes_per_s
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._free_at = 0.0

    def begin(self) -> None:
        """Something is about to be sent: its time begins."""
        self._free_at = max(self._free_at, self._now())

    def spent_s(self, size_bytes: int) -> float:
        """`size_bytes` were sent. Return for how long to wait before more is."""
        if not self._bytes_per_s:
            return 0.0
        self._free_at += size_bytes / self._bytes_per_s
        return max(0.0, self._free_at - self._now())
