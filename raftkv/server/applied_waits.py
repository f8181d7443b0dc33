"""Whoever waits for the state to come to a place in the log."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

from raftkv.errors import RaftKVError
from raftkv.quorum import LogEnd, is_rinsed

Reached = asyncio.Future[None]

FEW = 64
"""So many that were given up are not worth sweeping out."""


class AppliedWaits:
    """Heaps: by index, by the term above which the index does not matter any more, and by place for what is rinsed.

    A place may be one that the state never comes to, and whoever waited gives up: those are swept out once they are the
    greater part.
    """

    def __init__(self) -> None:
        self._number = count()
        self._by_index: list[tuple[int, int, Reached]] = []
        self._by_term: list[tuple[int, int, Reached]] = []
        self._by_place: list[tuple[LogEnd, int, Reached]] = []
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def add(self, target: LogEnd, *, or_later_term: bool) -> Reached:
        """Wait until the state has applied `target`'s index, or, if so asked, an entry of a later term than its."""
        reached = self._new()
        number = next(self._number)
        heapq.heappush(self._by_index, (target.last_index, number, reached))
        if or_later_term:
            heapq.heappush(self._by_term, (target.last_term, number, reached))
        return reached

    def add_rinse(self, target: LogEnd) -> Reached:
        """Wait until the state may answer a quorum read with this target: `raftkv.quorum.is_rinsed`."""
        reached = self._new()
        heapq.heappush(self._by_place, (target, next(self._number), reached))
        return reached

    def applied(self, term: int, index: int) -> None:
        """The state has applied the entry of `term` at `index`."""
        while self._by_index and self._by_index[0][0] <= index:
            _let_go(heapq.heappop(self._by_index)[2])
        while self._by_term and self._by_term[0][0] < term:
            _let_go(heapq.heappop(self._by_term)[2])
        while self._by_place and is_rinsed(self._by_place[0][0], term, index):
            _let_go(heapq.heappop(self._by_place)[2])

    def fail_all(self, error: RaftKVError) -> None:
        """The node stops."""
        waiting = [entry[2] for entry in self._by_index] + [entry[2] for entry in self._by_place]
        self._by_index, self._by_term, self._by_place = [], [], []
        for reached in waiting:
            if not reached.done():
                reached.set_exception(error)
                reached.exception()  # a caller that gave up never looks, and asyncio need not complain of that

    def _new(self) -> Reached:
        reached: Reached = asyncio.get_running_loop().create_future()
        reached.add_done_callback(self._done)
        self._waiting += 1
        return reached

    def _done(self, _: Reached) -> None:
        self._waiting -= 1
        if len(self._by_index) + len(self._by_term) + len(self._by_place) > FEW + 4 * self._waiting:
            self._by_index = [entry for entry in self._by_index if not entry[2].done()]
            self._by_term = [entry for entry in self._by_term if not entry[2].done()]
            self._by_place = [entry for entry in self._by_place if not entry[2].done()]
            heapq.heapify(self._by_place)
            heapq.heapify(self._by_index)
            heapq.heapify(self._by_term)


def _let_go(reached: Reached) -> None:
    if not reached.done():
        reached.set_result(None)
