"""Cluster time against virtual time: see "cluster time" in `oracle`."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.server.cluster_time import MAX_STEP_MS

Report = Callable[[str], None]

TOLERANCE_MS = 2.0
"""Stamps are whole milliseconds."""


class ClusterTimes:
    """What leaders stamp, and when."""

    def __init__(self, report: Report, now: Callable[[], float], drift: float) -> None:
        self._report = report
        self._now = now
        self._pace = 1000 * (1 + drift)
        """Milliseconds of the fastest clock to a second."""
        self._stamped_at: dict[tuple[int, int], float] = {}
        """By term and index."""
        self._newest: dict[int, tuple[float, int]] = {}
        """By term: when the leader stamped last, and what."""
        self._stood_still: dict[int, list[tuple[float, float]]] = {}
        """By node: since when, and how long."""
        self._lag_ms = float("-inf")
        """How far cluster time lies behind the fastest clock, at least: it only ever grows."""

    def stood_still(self, node: int, began: float) -> None:
        """A node's process was stopped at a moment, and goes on now."""
        self._stood_still.setdefault(node, []).append((began, self._now() - began))

    def stamped(self, node: int, term: int, index: int, time_ms: int) -> None:
        """A leader has put an entry into its log."""
        now = self._now()
        self._stamped_at[term, index] = now
        before, before_ms = self._newest.get(term, (now, time_ms))
        self._newest[term] = now, time_ms
        pauses = [seconds for began, seconds in self._stood_still.get(node, []) if began >= before]
        uncounted_ms = sum(max(0.0, seconds * self._pace - MAX_STEP_MS) for seconds in pauses)
        most_ms = (now - before) * self._pace - uncounted_ms
        if time_ms - before_ms > most_ms + TOLERANCE_MS:
            self._report(
                f"cluster time: node {node} stamps {time_ms} ms after {before_ms} ms, {now - before:.3f} s later, of "
                f"which it stood still for {sum(pauses):.3f} s"
            )

    def applied(self, term: int, index: int, time_ms: int) -> None:
        """The first node has applied an entry; cluster time is now `time_ms`."""
        stamped_at = self._stamped_at.get((term, index))
        if stamped_at is None:
            return  # a test's
        lag_ms = stamped_at * self._pace - time_ms
        if lag_ms < self._lag_ms - TOLERANCE_MS:
            self._report(
                f"cluster time: entry {index} of term {term} brings it to {time_ms} ms at {stamped_at:.3f} s, "
                f"{self._lag_ms - lag_ms:.0f} ms more than clocks allow"
            )
        self._lag_ms = max(self._lag_ms, lag_ms)
