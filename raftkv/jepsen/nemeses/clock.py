"""Clocks go wrong: those that nodes measure time with, and the time of day. See `raftkv.jepsen.node`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random

from raftkv.jepsen.levers import Levers
from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.nemeses.patience import seen
from raftkv.jepsen.nemeses.targets import listed, running
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.server.cluster_time import MAX_STEP_MS

SHORTEST_JUMP_MS, LONGEST_JUMP_MS = 50, 3_600_000
RATES = (0.0, 0.2, 1.0, 3.0, 10.0)
"""How fast a clock of a strobe runs. How long leases last depends on it, and how old an answer may be: nothing else,
unless nodes hold leader leases (see ClockStrobe)."""
LEAP_MS = 200
NOTHING_IS_CLAIMED_MS = 60_000.0
"""More than any lease of a workload lasts, and more than any answer may be old."""
PROOF_S = 5.0
SAMPLE_S = 0.02
PPM = 1_000_000


class ClockNemesis(Nemesis):
    """Strikes the clocks of some nodes that run."""

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.struck: dict[int, int] = {}
        """The nodes, and how often each had been started."""

    def strike(self) -> list[int]:
        """Draw the nodes: some, or all."""
        up = [node.id for node in running(self.testbed)]
        drawn = sorted(self.rng.sample(up, self.rng.randint(1, len(up)))) if up else []
        self.struck = {node: self.testbed.levers[node].starts for node in drawn}
        return drawn

    def provable(self) -> list[Levers]:
        """Return the levers of those that still run, and are the processes that were struck."""
        up = {node.id for node in running(self.testbed)}
        levers = [
            self.testbed.levers[node]
            for node, starts in self.struck.items()
            if node in up and self.testbed.levers[node].starts == starts
        ]
        if not levers:
            raise FaultNotProven("no node runs whose clock was struck")
        return levers

    def wall(self) -> int:
        """Draw how far a wall clock is to be off: forth or back, by seconds or by years."""
        far: int = 10 ** self.rng.randint(3, 11)
        return self.rng.choice((-far, far))

    async def end(self) -> None:
        for node in self.struck:
            self.testbed.levers[node].set_clock_rate(1.0)
            self.testbed.levers[node].set_wall_clock(0)
        self.struck.clear()


class ClockJump(ClockNemesis):
    """Put forward, by a blink or by an hour: it goes on from there. The time of day goes forth or back."""

    name = "clock-jump"
    help = NEMESES[name].help
    hold_s = (0.5, 3.0)
    lease_margin_ms = 2.0 * MAX_STEP_MS
    """A jump takes one step off, and two at most fall into a lease of 3 s: from one to the next it is the shortest hold
    and the shortest rest (`raftkv.jepsen.schedule`), 2 s together."""

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.ahead_ms: dict[Levers, float] = {}
        """How far ahead each must be afterwards."""

    async def begin(self) -> str:
        said = []
        for node in self.strike():
            levers = self.testbed.levers[node]
            jump_ms = math.exp(self.rng.uniform(math.log(SHORTEST_JUMP_MS), math.log(LONGEST_JUMP_MS)))
            self.ahead_ms[levers] = levers.clock_ahead_ms + jump_ms
            levers.jump_clock(jump_ms)
            levers.set_wall_clock(self.wall())
            said.append(f"{node} by {jump_ms / 1000:.2f} s")
        return f"clocks jump: of nodes {', '.join(said) or 'none'}"

    async def prove(self) -> None:
        self.provable()

        async def look() -> bool:
            return all(one.clock_ahead_ms > self.ahead_ms[one] - 1 for one in self.provable())

        await seen("nodes that have read their clocks since these jumped", look, PROOF_S)

    async def end(self) -> None:
        self.ahead_ms.clear()
        await super().end()


class ClockStrobe(ClockNemesis):
    """It runs too fast, too slowly, leaps and stands still, and changes its mind many times a second.

    Where nodes hold leases, no clock is slower than `--lease-drift-ppm` allows: with one that is, LEASE reads promise
    nothing. It may still leap, and run too fast, which ends leases early.
    """

    name = "clock-strobe"
    help = NEMESES[name].help
    lease_margin_ms = NOTHING_IS_CLAIMED_MS
    clock_slack_ms = NOTHING_IS_CLAIMED_MS

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self._strobe: asyncio.Task[None] | None = None
        self._slowest = 0.0

    async def begin(self) -> str:
        struck = self.strike()
        self._slowest = max(
            (1 - ppm / PPM for node in running(self.testbed) if (ppm := lease_drift_ppm(node.command()))), default=0.0
        )
        self._strobe = asyncio.create_task(self._run([self.testbed.levers[node] for node in struck]))
        return f"clocks go now fast, now slowly: of nodes {listed(struck)}"

    async def prove(self) -> None:
        """Each clock must be seen to gain, and, where it may, to lose."""
        for levers in self.provable():
            gained = lost = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROOF_S):
                    before = levers.clock_ahead_ms
                    while not (gained and (lost or self._slowest > 0)):
                        await asyncio.sleep(SAMPLE_S)
                        now = levers.clock_ahead_ms
                        gained, lost = gained or now > before + 1, lost or now < before - 1
                        before = now
                    continue
            raise FaultNotProven(f"a clock does not go to and fro (gained: {gained}, lost: {lost})")

    async def end(self) -> None:
        if self._strobe is not None:
            strobe, self._strobe = self._strobe, None
            strobe.cancel()
            await asyncio.wait([strobe])
            await super().end()
            if not strobe.cancelled():
                strobe.result()  # it had failed
        else:
            await super().end()

    def abandon(self) -> None:
        if self._strobe is not None:
            self._strobe.cancel()
            self._strobe = None

    async def _run(self, struck: list[Levers]) -> None:
        while True:
            for levers in struck:
                levers.set_clock_rate(max(self.rng.choice(RATES), self._slowest))
                levers.jump_clock(self.rng.choice((0, 0, 0, self.rng.uniform(0, LEAP_MS))))
                levers.set_wall_clock(self.wall())
            await asyncio.sleep(self.rng.uniform(0.02, 0.1))


def lease_drift_ppm(command: list[str]) -> int:
    """Return what the command line of a node says of `--lease-drift-ppm`; 0: nothing, there are no leases."""
    for place, word in enumerate(command):
        name, _, value = word.partition("=")
        if name == "--lease-drift-ppm":
            return int(value or command[place + 1])
    return 0
