"""How long each peer has been behind: since when its leader has had an entry that the peer has not confirmed.

Pure: indexes and times come from outside, once a tick. What is remembered is where the log ended when, for as long as a
peer may ask for it. With a peer that is down for days under load that would be a lot: then moments that lie close
together, measured by how long ago they are, become one. So a lag is never told too long, and too short by a tick and a
sixteenth of itself at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from raftkv.raft import Index, NodeId, Term

MOST_MOMENTS: Final = 1024
"""With more than that, they are thinned: to some 400, for lags of up to a week."""
SHARE: Final = 16
"""Two moments that remain are no further apart than this share of how long ago the later one is."""


class ReplicationLag:
    """As one leader sees its peers, in one term of leadership."""

    def __init__(self) -> None:
        self._term = Term(0)
        self._since_ms: dict[NodeId, float] = {}
        """When each peer was seen first. It has missed nothing before that."""
        self._ends: list[Index] = []
        """Where the log ended, growing."""
        self._times_ms: list[float] = []
        """And when it was seen to end there first."""

    def __len__(self) -> int:
        """How many moments are remembered."""
        return len(self._ends)

    def sample(self, now_ms: float, term: Term, last_index: Index, matches: Mapping[NodeId, Index]) -> None:
        """A tick of the leader of `term`: its log ends at `last_index`, and peers have confirmed up to `matches`."""
        if term != self._term:
            self.reset()
            self._term = term
        for peer in matches:
            self._since_ms.setdefault(peer, now_ms)
        if len(self._since_ms) > len(matches):
            self._since_ms = {peer: since_ms for peer, since_ms in self._since_ms.items() if peer in matches}
        least = min(matches.values(), default=last_index)
        if self._ends and self._ends[0] <= least:
            confirmed = bisect_right(self._ends, least)
            del self._ends[:confirmed], self._times_ms[:confirmed]
        if least < last_index and (not self._ends or self._ends[-1] < last_index):
            self._ends.append(last_index)
            self._times_ms.append(now_ms)
            if len(self._ends) > MOST_MOMENTS:
                self._thin(now_ms)

    def reset(self) -> None:
        """This node leads no more."""
        self._term = Term(0)
        self._since_ms.clear()
        self._ends.clear()
        self._times_ms.clear()

    def of(self, peer: NodeId, match: Index, now_ms: float) -> float:
        """Return how long, in milliseconds, `peer` has lacked an entry; 0: it lacks none, or for less than a tick."""
        since_ms = self._since_ms.get(peer)
        at = bisect_right(self._ends, match)
        if since_ms is None or at == len(self._ends):
            return 0.0
        return max(0.0, now_ms - max(self._times_ms[at], since_ms))

    def _thin(self, now_ms: float) -> None:
        """Forget moments whose neighbours are close enough. A log that ended at E then is taken to have come there at
        the next moment that remains: later than it did."""
        kept = [0]
        for at in range(1, len(self._ends) - 1):
            if self._times_ms[at + 1] - self._times_ms[kept[-1]] > (now_ms - self._times_ms[at + 1]) / SHARE:
                kept.append(at)
        kept.append(len(self._ends) - 1)
        self._ends = [self._ends[at] for at in kept]
        self._times_ms = [self._times_ms[at] for at in kept]
