"""Changes of leaders, as one node saw them: how long it was without one that commits (RTO).

From when the node heard the old leader last, to when it knows an entry of the new one's term to be committed. A leader
that was elected and never committed anything is no leader to whoever waits: the time goes on. The first election after
a start is no failover: nothing was there that could fail over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from raftkv.raft import NodeId, Term


class Reign(NamedTuple):
    """A leader, in one term."""

    leader: NodeId
    term: Term


@dataclass(frozen=True, slots=True)
class Failover:
    """One that is over."""

    reign: Reign
    """Who leads since."""
    duration_ms: float
    ended_at_s: float
    """Seconds since 1970."""
    planned: bool
    """The old leader handed over."""


class Failovers:
    """Those of one node since it started."""

    def __init__(self, wall_s: Callable[[], float]) -> None:
        """`wall_s` gives seconds since 1970, for people to read."""
        self._wall_s = wall_s
        self._old: Reign | None = None
        """The newest whose term was known here to have a committed entry."""
        self._heard_ms = 0.0
        self._handed_over = Term(0)
        """The newest term whose election a leader asked for."""
        self.newest: Failover | None = None
        self.counts: Counter[bool] = Counter()
        """How many were planned, and how many were not."""

    def heard(self, reign: Reign, now_ms: float) -> None:
        """A leader has spoken; one that leads hears itself."""
        if reign == self._old:
            self._heard_ms = now_ms

    def handed_over(self, term: Term) -> None:
        """The election of `term` was asked for by the leader before it."""
        self._handed_over = max(self._handed_over, term)

    def committed(self, reign: Reign, now_ms: float) -> None:
        """An entry of this leader's term is known to be committed. Say so again as often as you like."""
        if reign == self._old:
            return
        if self._old is not None:
            planned = reign.term == self._handed_over
            self.newest = Failover(reign, max(0.0, now_ms - self._heard_ms), self._wall_s(), planned)
            self.counts[planned] += 1
        self._old, self._heard_ms = reign, now_ms
