"""How long a leader's lease lasts: the driver's half of `raft.lease`, which numbers rounds and knows no clock.

A round's lease begins when its heartbeats *left*, not when the answers came: a follower's promise may have begun at any
moment between. It ends before any of them can vote again, with the slowest clock here and the fastest one there.
"""

from __future__ import annotations

from collections import deque

PPM = 1_000_000


def lease_ms(election_ticks: int, tick_ms: int, drift_ppm: int) -> int:
    """Return how long a lease lasts, in milliseconds by the leader's clock, rounded down; 0: nothing is left.

    A follower keeps its promise for `election_ticks` ticks, of which the first may come at once. `drift_ppm` bounds, in
    millionths, by how much the speed of any node's clock differs from true time: one may run that much too fast there,
    and one that much too slow here.
    """
    return (election_ticks - 1) * tick_ms * (PPM - drift_ppm) // (PPM + drift_ppm)


def quarantine_ticks(promised_ms: int, tick_ms: int) -> int:
    """Return for how many ticks after its start a node keeps what it has promised in its last life; 0: nothing."""
    return -(-promised_ms // tick_ms) + 1 if promised_ms else 0  # the first tick may come at once


class Lease:
    """When the rounds of heartbeats began, and so until when the newest confirmed one is a lease."""

    def __init__(self, duration_ms: int) -> None:
        """`duration_ms`: see `lease_ms`."""
        self.duration_ms = duration_ms
        self._begun: deque[tuple[int, float]] = deque()
        """(round, not later than when it began in ms), of the newest confirmed round and all after it that can still
        become a lease."""

    def note(self, now_ms: float, rounds: tuple[int, int] | None) -> None:
        """Take down the rounds of `raft.rounds`. Call it before the messages of any Ready are sent."""
        if rounds is None:
            self._begun.clear()  # rounds of a leadership that is over
            return
        newest, leased = rounds
        if not self._begun or self._begun[-1][0] < newest:
            self._begun.append((newest, now_ms))
        too_old_ms = now_ms - self.duration_ms
        while len(self._begun) > 1 and (self._begun[1][0] <= leased or self._begun[1][1] <= too_old_ms):
            self._begun.popleft()

    def holds(self, now_ms: float, rounds: tuple[int, int] | None) -> bool:
        """Return whether this node is at `now_ms` the only leader, by the lease that `raft.rounds` speaks of."""
        leased = rounds[1] if rounds is not None else 0
        if leased == 0:
            return False
        began_ms = next((began for number, began in reversed(self._begun) if number <= leased), None)
        return began_ms is not None and now_ms < began_ms + self.duration_ms
