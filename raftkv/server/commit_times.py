"""How long entries take from the leader's log to their commit. One look at the clock for an entry, and one for a turn
that commits some."""

from __future__ import annotations

from collections import deque

from raftkv.server.tallies import Durations


class CommitTimes:
    """The entries of one leader that are not committed yet."""

    def __init__(self, durations: Durations) -> None:
        """`durations` is told of every commit."""
        self._durations = durations
        self._open: deque[tuple[int, float]] = deque()

    def placed(self, index: int, now_s: float) -> None:
        """This leader has put entry `index` into its log."""
        self._open.append((index, now_s))

    def waits_for(self, commit: int) -> bool:
        """Whether `committed` would have something to tell."""
        return bool(self._open) and self._open[0][0] <= commit

    def committed(self, commit: int, now_s: float) -> None:
        """Everything up to `commit` is known to be committed."""
        while self._open and self._open[0][0] <= commit:
            self._durations.observe(now_s - self._open.popleft()[1])

    def leadership_lost(self) -> None:
        """What becomes of the others is not known here."""
        self._open.clear()
