"""Clients that choose how many voters their writes wait for, and what their reads promise: every concern, every level.

Each writes and then reads what it wrote, at some node. It counts which writes and later reads of its own were answered
with which fault between the beginning of the one and the end of the other: "W majority, R QUORUM(2), partition".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol

from raftkv.quorum import ALL, LEADER, MAJORITY, concern_name
from raftkv.v1 import kv_pb2
from tests.sim.l1 import caller
from tests.sim.l1.caller import EVERYTHING, Habits, Operation, Read, Session
from tests.sim.l1.claims import Asked, Token
from tests.sim.l1.client import Client
from tests.sim.l1.oracle import Write

LEVELS = ("LOCAL", "AT_LEAST", "BOUNDED", "LINEARIZABLE", "HERE")
FELT = ("leader crash", "partition", "restart")
"""Faults under which every concern and every level must have been answered."""

_RECENT = 12
_TOKENS = 8
"""A client remembers so many places in the log."""


class World(caller.World, Protocol):
    """What such a client stands in."""

    @property
    def founders(self) -> int:
        """How many voters there were in the beginning."""
        ...

    def felt(self, since: float) -> set[str]:
        """Return which of `FELT` went on at some time since."""
        ...


class Chooser(Client):
    """See the module's docstring."""

    def __init__(self, world: World, number: int, habits: Habits, random: Random) -> None:
        super().__init__(world, number, habits, random)
        self._surroundings = world
        self._tokens: deque[Token] = deque(maxlen=_TOKENS)
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        """Concerns of writes that were answered, and when they began."""
        self._concerns = [LEADER, MAJORITY, ALL, *range(2, world.founders + 1)]
        self._levels = [*LEVELS, *(f"QUORUM({replicas})" for replicas in range(world.founders + 1))]

    async def _work(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0, 2 * self._habits.think_s))
            session = await self._open_session()
            if session is not None:
                await self._write_and_read(session)

    async def _write_and_read(self, session: Session) -> None:
        began = self._now()
        writes = [self._draw_write(session) for _ in range(self._random.choice([1, 1, 1, 3]))]
        await self._run(session, list[Operation](writes))
        told = [write for write in writes if write.token is not None]
        if not told or self._session is not session:
            return
        self._tokens.extend(write.token for write in told if write.token is not None)
        self._recent.extend((write.concern, began) for write in told)
        for _ in range(self._random.choice([1, 2])):
            self._node = self._random.choice(self._world.nodes)
            reads = [self._draw_read(session, told[-1]) for _ in range(self._random.choice([1, 1, 3]))]
            await self._run(session, list[Operation](reads))
            done = [str(read.asked) for read in reads if read.done]
            for concern, since in self._recent:
                self.counts.update(cells([concern], done, self._surroundings.felt(since)))
            if self._session is not session:
                return

    def _draw_write(self, session: Session) -> Write:
        deletes = self._random.random() < self._habits.deletes / 2
        write = Write(self._key(), None if deletes else self._value(), concern=self._random.choice(self._concerns))
        write.sequence, write.session = session.take(), session.number
        return write

    def _draw_read(self, session: Session, write: Write) -> Read:
        key = EVERYTHING if self._random.random() < self._habits.scans / 2 else write.key
        read = Read(key, self._draw_level(write.token))
        read.sequence = session.take()
        return read

    def _draw_level(self, newest: Token | None) -> Asked:
        random, level = self._random, self._random.choice(self._levels)
        token = newest if random.random() < 0.7 else random.choice(self._tokens)
        also = token if random.random() < 0.2 else None
        match level:
            case "HERE":
                return Asked(kv_pb2.LINEARIZABLE, here=True)
            case "AT_LEAST":
                return Asked(kv_pb2.AT_LEAST, token=token)
            case "BOUNDED":
                return Asked(kv_pb2.BOUNDED, bound_ms=random.choice([20, 100, 500, 2000]), token=also)
            case "LOCAL" | "LINEARIZABLE":
                return Asked(kv_pb2.ReadLevel.Value(level))
        return Asked(kv_pb2.QUORUM, replicas=int(level[len("QUORUM(") : -1]), token=also)


def cells(concerns: Sequence[int], levels: Sequence[str], felt: set[str]) -> Iterator[str]:
    """Yield what is counted of writes at these concerns and reads at these levels."""
    for concern in concerns:
        for level in levels:
            for fault in felt:
                yield f"W {concern_name(concern)}, R {level}, {fault}"


def all_cells(voters: int) -> set[str]:
    """Return what must be counted in clusters of so many voters."""
    concerns = [LEADER, MAJORITY, ALL, *range(2, voters + 1)]
    levels = [*LEVELS, *(f"QUORUM({replicas})" for replicas in range(1, voters + 1))]
    return set(cells(concerns, levels, set(FELT)))
