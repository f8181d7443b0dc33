"""Linearizable reads on their way: waiting for a ReadIndex round, then for the state to have applied its index.

Everything that asks within one turn of the event loop shares one request to the core. Who means to read elsewhere, or
later, asks for the index alone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from itertools import count
from typing import Any

from raftkv.errors import RaftKVError

Barrier = asyncio.Future[None]
ReadIndex = asyncio.Future[int]


class Barriers:
    """Bookkeeping between the callers of `Node.read_barrier` and the core."""

    def __init__(self) -> None:
        self._next_request = count(1)
        self._open: list[Barrier] = []
        self._asked: dict[int, list[Barrier]] = {}
        self._open_indexes: list[ReadIndex] = []
        self._asked_indexes: dict[int, list[ReadIndex]] = {}
        self._confirmed: list[tuple[int, int, list[Barrier]]] = []
        """(index, request, barriers), a heap: confirmed, and waiting for the state to reach the index."""

        self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def add(self) -> Barrier:
        """Join the next request."""
        barrier = self._new()
        self._open.append(barrier)
        return barrier

    def add_index(self) -> ReadIndex:
        """Join the next request, and be told the index as soon as it is confirmed."""
        index: ReadIndex = asyncio.get_running_loop().create_future()
        self._open_indexes.append(index)
        return index

    def next_request(self) -> int | None:
        """Return the number of a new request for the core, for all who joined since the last one; None for nobody.

        A number is never used twice: a retry is a new request (raft-bugs 41).
        """
        if not self._open and not self._open_indexes:
            return None
        request = next(self._next_request)
        self._asked[request] = self._open
        self._open = []
        if self._open_indexes:
            self._asked_indexes[request] = self._open_indexes
            self._open_indexes = []
        return request

    def add_confirmed(self, index: int) -> Barrier:
        """Wait for the state to have applied `index`; nobody needs to confirm anything."""
        barrier = self._new()
        heapq.heappush(self._confirmed, (index, next(self._next_request), [barrier]))
        return barrier

    def confirmed(self, request: int, index: int) -> None:
        """The read may be served from any state that has applied `index`."""
        barriers = self._asked.pop(request)
        if barriers:
            heapq.heappush(self._confirmed, (index, request, barriers))
        for waiting in self._asked_indexes.pop(request, ()):
            if not waiting.done():
                waiting.set_result(index)

    def applied(self, index: int) -> None:
        """The state has applied `index`: let go whoever waited for no more than that."""
        while self._confirmed and self._confirmed[0][0] <= index:
            for barrier in heapq.heappop(self._confirmed)[2]:
                if not barrier.done():
                    barrier.set_result(None)

    def dropped(self, request: int, error: RaftKVError) -> None:
        """The core could not confirm the request."""
        _refuse(self._asked.pop(request), error)
        _refuse(self._asked_indexes.pop(request, ()), error)

    def _new(self) -> Barrier:
        barrier: Barrier = asyncio.get_running_loop().create_future()
        barrier.add_done_callback(self._done)
        self._waiting += 1
        return barrier

    def _done(self, _: Barrier) -> None:
        self._waiting -= 1

    def fail_all(self, error: RaftKVError) -> None:
        """The node stops."""
        _refuse(self._open, error)
        _refuse(self._open_indexes, error)
        for barriers in self._asked.values():
            _refuse(barriers, error)
        for indexes in self._asked_indexes.values():
            _refuse(indexes, error)
        for _, _, barriers in self._confirmed:
            _refuse(barriers, error)
        self._open, self._asked, self._confirmed = [], {}, []
        self._open_indexes, self._asked_indexes = [], {}


def _refuse(barriers: Iterable[asyncio.Future[Any]], error: RaftKVError) -> None:
    for barrier in barriers:
        if not barrier.done():
            barrier.set_exception(error)
            barrier.exception()  # a caller that gave up never looks, and asyncio need not complain of that
