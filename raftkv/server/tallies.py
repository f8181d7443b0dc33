"""What a node counts of its own work, in plain numbers: once for a batch, an entry or a flush, never for an operation.

Nothing here knows how the numbers are told (`metrics`), nor reads a clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from typing import Final

READ: Final = "read"
WRITE: Final = "write"
OK: Final = "ok"

DURATIONS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets: a fast flush takes 0.1 ms, and after an election timeout somebody else leads."""

RECENT_S: Final = 60
"""The longest delay is that of so many seconds."""


class Durations:
    """A histogram. One thread observes; any may look."""

    def __init__(self, bounds_s: tuple[float, ...] = DURATIONS_S) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        """By bucket, not cumulative; the last one has what is above all bounds."""
        self.sum_s = 0.0

    def observe(self, took_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, took_s)] += 1
        self.sum_s += took_s


class RecentLongest:
    """The longest of the last minute. One number a second is kept."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, float]] = deque()

    def observe(self, now_s: float, took_s: float) -> None:
        """`now_s`: of a clock that never goes back."""
        second = int(now_s)
        seconds = self._seconds
        if seconds and seconds[-1][0] == second:
            if took_s > seconds[-1][1]:
                seconds[-1] = second, took_s
            return
        seconds.append((second, took_s))
        while seconds[0][0] <= second - RECENT_S:
            seconds.popleft()

    def at(self, now_s: float) -> float:
        """Return the longest; 0: nothing was observed."""
        return max((took_s for second, took_s in self._seconds if second > int(now_s) - RECENT_S), default=0.0)


class Tallies:
    """Those of one node, since it started."""

    def __init__(self) -> None:
        self.leader_changes = 0
        self.answered: Counter[tuple[str, str]] = Counter()
        """Operations, by kind (read, write) and outcome (ok, or the code of the error)."""
        self.failed_writes: Counter[str] = Counter()
        """Writes that were proposed here and failed, or were given up, by the code of the error."""
        self.commits = Durations()
        """From an entry's place in the leader's log to its commit."""
        self.flushes = Durations()
        """Of the log."""
        self.delays = RecentLongest()
        """How late ticks came."""
