"""Who waits for copies: writes that are acknowledged by the number of voters that have them on disk.

Two kinds, in one queue for each number of voters:
  - fewer than a majority: acknowledged before the entry is committed, once so many voters *and this leader* have it on
    disk. That is claimed only while this node leads in the term of the entry: what the followers acknowledged is known
    for that term alone, and another leader may put another entry at the same index.
  - more: the entry is committed and applied already, and somebody waits for further copies. It stays at its index for
    ever, so losing leadership only means that nobody counts here any more.

Nothing is looked at while nobody waits, and nothing is polled: the driver calls `check` whenever its own log or an
answer of a follower may have moved something.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import NamedTuple

from raftkv.raft import Raft
from raftkv.server.proposals import Decided, Outcome

FEW = 64
"""So many that nobody waits for any more may lie around."""


_Waiter = tuple[int, int, int, Outcome]
"""(index, number, term, outcome). No two have the same number, so that outcomes are never compared."""


class Copies(NamedTuple):
    """How many voters of which configuration have an entry on disk. Others may be the members when that is told."""

    voters: int
    configuration_index: int


class _Queue(NamedTuple):
    voters: int
    early: bool


class Durability:
    """Bookkeeping between those who wait for copies and the core."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._numbers = count(1)
        self._queues: dict[_Queue, list[_Waiter]] = {}
        """Heaps. None is empty."""
        self._gone = 0
        """How many of those in the heaps are answered: by being applied, or because their deadline has passed. Out by
        those that `check` has answered in this turn of the event loop."""

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._queues)

    def copies(self, index: int) -> Copies:
        """Return how many voters are known to have entry `index` on disk; 0 where this node does not lead.

        The entry is committed, or of the term that this node leads in.
        """
        voters = sum([durable >= index for durable in self._raft.durable_on()])
        return Copies(voters, self._raft.configuration_index)

    def acknowledge(self, outcome: Outcome, term: int, index: int, voters: int) -> None:
        """Let `outcome` be done, without results, when this node and so many voters have the entry on disk.

        The entry was placed by this node, which leads in `term`.
        """
        self._add(_Queue(voters, early=True), index, term, outcome)

    async def reached(self, index: int, voters: int) -> Copies:
        """Wait until so many voters have the committed entry `index` on disk, or leadership is lost.

        Return how many have it; 0: leadership was lost, and it is not known.
        """
        outcome: Outcome = asyncio.get_running_loop().create_future()
        self._add(_Queue(voters, early=False), index, 0, outcome)
        decided = await outcome
        return Copies(decided.copies, decided.configuration_index)

    def check(self) -> None:
        """Answer those whose number is reached. This node leads, or was told `leadership_lost`."""
        durable = self._raft.durable_on()
        if not durable:
            return
        own, configuration_index = self._raft.log.durable, self._raft.configuration_index
        for queue in tuple(self._queues):
            if queue.voters > len(durable):
                continue  # the members have become fewer: it is not reached, whatever happens
            limit = durable[queue.voters - 1]
            if queue.early:
                limit = min(limit, own)  # not only followers: the leader counts itself, when its own disk has it
            waiters = self._queues[queue]
            while waiters and waiters[0][0] <= limit:
                index, _, term, outcome = heapq.heappop(waiters)
                self._gone -= 1
                if not outcome.done():
                    copies = sum([one >= index for one in durable])
                    outcome.set_result(Decided(None, term, index, copies, configuration_index))
            if not waiters:
                del self._queues[queue]

    def leadership_lost(self) -> None:
        """Nobody counts any more. What became of early ones is for `Proposals` to tell."""
        queues, self._queues = self._queues, {}
        for queue, waiters in queues.items():
            self._gone -= len(waiters)
            if queue.early:
                continue
            for index, _, term, outcome in waiters:
                if not outcome.done():
                    outcome.set_result(Decided(None, term, index, 0, self._raft.configuration_index))

    def _add(self, queue: _Queue, index: int, term: int, outcome: Outcome) -> None:
        outcome.add_done_callback(self._done)
        heapq.heappush(self._queues.setdefault(queue, []), (index, next(self._numbers), term, outcome))

    def _done(self, _: Outcome) -> None:
        """One is answered. With a voter down for days, those who gave up waiting for it must not pile up."""
        self._gone += 1
        if self._gone > FEW and 2 * self._gone > sum([len(waiters) for waiters in self._queues.values()]):
            self._gone = 0
            kept = {
                queue: [waiter for waiter in waiters if not waiter[3].done()] for queue, waiters in self._queues.items()
            }
            self._queues = {queue: waiters for queue, waiters in kept.items() if waiters}
            for waiters in self._queues.values():
                heapq.heapify(waiters)
