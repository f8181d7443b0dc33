"""How long writes to the log take, and when that is too long for a leader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

AVERAGE_S: Final = 10
"""The average is that of so many seconds."""

LONGEST_S: Final = 60
"""And the longest one of so many."""

LEAST_WRITES: Final = 5
"""Fewer writes count as if they were so many: one that took long makes no slow disk."""

HANGS_SHARE: Final = 5
"""One that is under way for so many times the limit, and longer than an election timeout, hangs."""

CALM_S: Final = 5.0
"""The disk must have been fast for so long until it counts as such again."""


@dataclass(slots=True)
class _Second:
    number: int
    writes: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0


class DiskPace:
    """The pace of one log."""

    def __init__(self, now_s: Callable[[], float], slow_s: float = 0.0, election_s: float = 0.0) -> None:
        """`now_s` gives seconds of a clock that never goes back. `slow_s` 0: no disk is too slow."""
        self._now_s = now_s
        self.slow_s = slow_s
        self.hangs_s = max(election_s, HANGS_SHARE * slow_s)
        self._began_s: float | None = None
        self._overdue = False
        """The last look saw a write that hangs. One look alone may have been late itself, and the write done."""
        self._calm_since_s: float | None = None
        self._seconds: deque[_Second] = deque()
        self.slow = False
        """As of the last look."""

    def begin(self) -> None:
        """A write begins."""
        self._began_s = self._now_s()

    def end(self) -> None:
        """It is over, well or not."""
        if self._began_s is None:
            return
        now_s = self._now_s()
        took_s, self._began_s = now_s - self._began_s, None
        second = self._second(int(now_s))
        second.writes += 1
        second.total_s += took_s
        second.longest_s = max(second.longest_s, took_s)

    @property
    def under_way_s(self) -> float:
        """For how long the write under way has been so; 0: there is none."""
        return 0.0 if self._began_s is None else self._now_s() - self._began_s

    @property
    def average_s(self) -> float:
        """Of the last seconds; 0: nothing was written."""
        recent = self._since(AVERAGE_S)
        writes = sum([second.writes for second in recent])
        return sum([second.total_s for second in recent]) / max(writes, LEAST_WRITES)

    @property
    def longest_s(self) -> float:
        """The longest write of the last minute, one that is under way included."""
        return max([self.under_way_s, *[second.longest_s for second in self._since(LONGEST_S)]])

    def look(self) -> None:
        """See whether the disk is too slow. Call it some times in an election timeout."""
        if not self.slow_s:
            return
        hangs = self.under_way_s > self.hangs_s
        hangs, self._overdue = hangs and self._overdue, hangs
        average_s = self.average_s
        if hangs or average_s > self.slow_s:
            self.slow = True
        if self._overdue or average_s > self.slow_s / 2:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = self._now_s()
        elif self._now_s() - self._calm_since_s >= CALM_S:
            self.slow = False

    @property
    def problem(self) -> str:
        """Say what is wrong, and the way out, while it is `slow`."""
        hanging = self._began_s is not None
        under_way = f", one has been under way for {self.under_way_s * 1000:.0f} ms" if hanging else ""
        return (
            f"writes to the log take {self.average_s * 1000:.0f} ms on average{under_way}, the longest of the last "
            f"minute took {self.longest_s * 1000:.0f} ms; the limit is {self.slow_s * 1000:.0f} ms (--slow-disk-ms). "
            "The node does not want to lead. The way out: look for what else keeps the disk busy, or replace it"
        )

    def _second(self, number: int) -> _Second:
        seconds = self._seconds
        if not seconds or seconds[-1].number != number:
            seconds.append(_Second(number))
            while seconds[0].number <= number - LONGEST_S:
                seconds.popleft()
        return seconds[-1]

    def _since(self, length_s: int) -> list[_Second]:
        first = int(self._now_s()) - length_s
        return [second for second in self._seconds if second.number > first]
