"""What the leader proposes by itself: ending leases that are due, and giving up history and removing it.

Everything here is a command like any other, judged where it is applied and the same on every node; a leader that has
been replaced without knowing proposes in vain, and what comes too early does nothing. So none of it needs care about
who leads: only about how much of it there is. Each kind has at most one command under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import structlog

from raftkv.errors import RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.kv.commands import Command, Compact, Compacted, Expire, Expired, Group, Result, Sweep
from raftkv.kv.machine import StateMachine
from raftkv.server.proposals import Outcome

log = structlog.get_logger("raftkv.upkeep")

EXPIRE_S: Final = 0.05
"""How often leases are looked at: one that is due lasts so much longer, at most."""

SWEEP_S: Final = 0.5
"""How often to look whether there is something to sweep, while there was nothing."""

SWEEP_REST: Final = 3.0
"""After each sweep, rest so many times as long as it took from proposal to answer: a quarter of the time at most goes
into sweeping, less when the node has much else to do. A million versions take about a minute."""

SHORTEST_REST_S: Final = 0.005

COMPACT_S: Final = 30.0
"""How often to look whether history is to be given up, at least."""

SAMPLES: Final = 60
"""By age, history is given up in steps of a sixtieth of the age: so many moments of the past are remembered."""

SHORTEST_COMPACT_S: Final = 0.1

WORTHWHILE_SHARE: Final = 10
"""By number of revisions, compact only once there is a tenth more than is kept."""

PATIENCE_S: Final = 5.0
"""A proposal that finds no entry for so long is given up, and made again later."""

SIZE_BYTES: Final = 32


class CompactionMode(StrEnum):
    """What decides how much history is kept."""

    OFF = "off"
    REVISIONS = "revisions"
    AGE = "age"


@dataclass(frozen=True, slots=True)
class AutoCompaction:
    """How much history is kept."""

    mode: CompactionMode = CompactionMode.OFF
    retention: int = 0
    """Revisions, or milliseconds."""


class Host(Protocol):
    """What upkeep needs of a node."""

    @property
    def machine(self) -> StateMachine: ...

    @property
    def may_propose(self) -> bool:
        """Whether it leads, and has applied what leaders before it committed."""
        ...

    def cluster_time_ms(self) -> int: ...

    def propose(self, group: Group, size_bytes: int, deadline: float, *, alone: bool = False) -> Outcome: ...


class Upkeep:
    """The tasks of one node; they do nothing but look while it does not lead."""

    def __init__(self, host: Host, compaction: AutoCompaction) -> None:
        self._host = host
        self._compaction = compaction
        self._samples: deque[tuple[int, int]] = deque()
        """(cluster time, revision), oldest first. Every node takes them, so that any may become leader."""

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what is to be run for as long as the node runs, by name."""
        tasks = [("expire", self._expire()), ("sweep", self._sweep())]
        if self._compaction.mode is not CompactionMode.OFF:
            tasks.append(("compact", self._compact()))
        return tasks

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            while self._due():
                result = await self._propose(Expire(0))
                if not isinstance(result, Expired) or not result.leases:
                    break

    def _due(self) -> bool:
        if not self._host.may_propose:
            return False
        deadline_ms = self._host.machine.leases.next_deadline_ms()
        return deadline_ms is not None and deadline_ms <= self._host.cluster_time_ms()

    async def _sweep(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP_S)
            while self._host.may_propose and self._host.machine.unswept:
                began_s = clock()
                if await self._propose(Sweep(0)) is None:
                    break
                await asyncio.sleep(max(SHORTEST_REST_S, SWEEP_REST * (clock() - began_s)))

    async def _compact(self) -> None:
        interval_s = COMPACT_S
        if self._compaction.mode is CompactionMode.AGE:
            interval_s = max(SHORTEST_COMPACT_S, min(interval_s, self._compaction.retention / 1000 / SAMPLES))
        while True:
            await asyncio.sleep(interval_s)
            revision = self._compact_to()
            if revision > self._host.machine.compacted_revision and self._host.may_propose:
                result = await self._propose(Compact(0, revision))
                if isinstance(result, Compacted):
                    log.info("history compacted", revision=result.revision, mode=self._compaction.mode.value)

    def _compact_to(self) -> int:
        """Return the revision at which history may begin, by the setting; 0: nothing is too old."""
        machine, retention = self._host.machine, self._compaction.retention
        if self._compaction.mode is CompactionMode.REVISIONS:
            begins_at = machine.revision - retention
            too_many = begins_at - machine.compacted_revision
            return begins_at if too_many * WORTHWHILE_SHARE >= retention else 0
        now_ms, samples = self._host.cluster_time_ms(), self._samples
        if not samples or samples[-1][0] + retention // SAMPLES <= now_ms:
            samples.append((now_ms, machine.revision))
        while len(samples) > 1 and samples[1][0] <= now_ms - retention:
            samples.popleft()
        sampled_ms, revision = samples[0]
        return revision if sampled_ms <= now_ms - retention else 0

    async def _propose(self, command: Command) -> Result | None:
        """Have a command applied, alone in its entry; None: it was not, or nobody knows. It is of no session."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        try:
            decided = await self._host.propose(Group(0, 0, (command,)), SIZE_BYTES, deadline, alone=True)
        except RaftKVError as error:
            log.debug("upkeep was put off", command=type(command).__name__, reason=error.message)
            return None
        if decided.results is None:
            raise InvariantViolation("upkeep asks for no early acknowledgement")
        return decided.results[0]
