"""ReadIndex requests on their way to confirmation (thesis 6.4). Pure bookkeeping; the rules are in read_index.py."""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft.ready import ReadState
from raftkv.raft.types import Index


@dataclass(frozen=True, slots=True)
class Round:
    """Requests that one round of heartbeats confirms."""

    sequence: int
    index: Index
    requests: tuple[int, ...]


class ReadQueue:
    """Requests that wait for a round, the round under way, and what came of earlier ones."""

    __slots__ = ("confirmed", "dropped", "round", "sequence", "waiting")

    def __init__(self) -> None:
        self.sequence = 0
        """Number of the newest round. It only grows: no confirmation is taken for another round's (raft-bugs 41)."""
        self.waiting: list[int] = []
        self.round: Round | None = None
        self.confirmed: list[ReadState] = []
        self.dropped: list[int] = []

    def open_round(self, index: Index) -> Round:
        """Put all waiting requests into a new round that reads at `index`."""
        self.sequence += 1
        self.round = Round(self.sequence, index, tuple(self.waiting))
        self.waiting.clear()
        return self.round

    def close_round(self) -> None:
        """The round under way is confirmed."""
        if self.round is not None:
            self.confirmed.extend(ReadState(request, self.round.index) for request in self.round.requests)
            self.round = None

    def drop_all(self) -> None:
        """Leadership is gone: nothing that waits can be confirmed."""
        if self.round is not None:
            self.dropped.extend(self.round.requests)
            self.round = None
        self.dropped.extend(self.waiting)
        self.waiting.clear()
