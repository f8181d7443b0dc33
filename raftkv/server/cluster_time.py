"""Cluster time: milliseconds that only the leader's clock moves, and that go on where the last leader's ended.

No clock is read when an entry is applied: sessions and leases are judged by these stamps alone, so every node judges
alike.

It advances with the leader's ticks. What passes between two of them beyond `MAX_STEP_MS` is a process that was stopped,
a machine that was suspended, or a clock that jumped: whoever holds a lease could not renew it meanwhile, so it does not
count. Cluster time may thus be slower than the leader's clock, and never is faster: what ends by it ends late, or in
time by that clock. Each jump of it takes `MAX_STEP_MS` off a lease at most; one that runs fast shortens it in
proportion.
"""

from __future__ import annotations

from typing import Final

from raftkv.server.clock import Clock

MAX_STEP_MS: Final = 500
"""Most that counts of the time between two ticks. No longer than the shortest lease (limits.MIN_LEASE_TTL_MS)."""


class ClusterTime:
    """The stamps of one leader."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._time_ms = 0.0
        """At the last tick."""
        self._ticked_ms = clock.now_ms()

    def take_over(self, applied_time_ms: int) -> None:
        """Begin a term of leadership: go on from the highest stamp that this node has applied."""
        self._time_ms = applied_time_ms
        self._ticked_ms = self._clock.now_ms()

    def tick(self) -> None:
        """A tick has come. Call it at every one of the node's, leader or not."""
        now_ms = self._clock.now_ms()
        self._time_ms += self._step(now_ms)
        self._ticked_ms = now_ms

    def stamp_ms(self) -> int:
        """Return the time to write into an entry. It never goes back while this node leads.

        Entries not yet applied here may carry later stamps: apply clamps.
        """
        return int(self._time_ms + self._step(self._clock.now_ms()))

    def _step(self, now_ms: float) -> float:
        return min(now_ms - self._ticked_ms, MAX_STEP_MS)
