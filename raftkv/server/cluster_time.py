"""Cluster time: milliseconds that only the leader's clock moves, and that go on where the last leader's ended.

No clock is read when an entry is applied: sessions (and, later, leases) are judged by these stamps alone, so every node
judges alike, and a jump of a wall clock expires nothing.
"""

from __future__ import annotations

from raftkv.server.clock import Clock


class ClusterTime:
    """The stamps of one leader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._base_ms = 0
        self._since_ms = clock.now_ms()

    def take_over(self, applied_time_ms: int) -> None:
        """Begin a term of leadership: go on from the highest stamp that this node has applied."""
        self._base_ms = applied_time_ms
        self._since_ms = self._clock.now_ms()

    def stamp_ms(self) -> int:
        """Return the time to write into an entry. Entries not yet applied here may carry later stamps: apply clamps."""
        return self._base_ms + int(self._clock.now_ms() - self._since_ms)
