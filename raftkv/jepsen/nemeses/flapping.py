"""Links go off and on quickly, so that connections and elections are begun and given up over and over."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from raftkv.jepsen.nemeses import NEMESES, drawing
from raftkv.jepsen.nemeses.links import LinkNemesis
from raftkv.jepsen.nemeses.targets import called, leader_of, listed, reachable
from raftkv.jepsen.nemesis import FaultNotProven
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.link_faults import How

PROOF_S = 15.0
OFF_S = (0.0, 0.5)
"""After it was proven to be off, which takes a while itself."""
ON_S = (0.1, 0.6)


class Flapping(LinkNemesis):
    """Each time off is proven by a probe, and counts only then."""

    name = "flapping"
    help = NEMESES[name].help

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._flapped = asyncio.Event()
        self._why = "it was not seen to be off"

    async def begin(self) -> str:
        leader = await leader_of(self.testbed)
        nodes = reachable(self.testbed)
        node = drawing.aim(self.rng, "leader", nodes, leader)
        others = sorted({other for pair in self._pairs(nodes, node) for other in pair} - {node})
        how = drawing.how(self.rng, self.option)
        self._stop.clear()
        # A stream of chance of its own: the task draws at moments that nobody can repeat.
        rhythm = random.Random(self.rng.random())
        self._task = asyncio.create_task(self._flap(node, others, how, rhythm), name="flapping")
        return f"links of {called(node, leader)} to {listed(others)} go off and on ({how})"

    def _pairs(self, nodes: list[int], node: int) -> list[tuple[int, int]]:
        return drawing.pairs(self.rng, self.rng.choice(("link", "leader")), nodes, node)

    async def _flap(self, node: int, others: list[int], how: How, rhythm: random.Random) -> None:
        while not self._stop.is_set():
            for other in others:
                await self.layer.block(node, other, how)
            try:
                await super().prove()
            except FaultNotProven as error:
                self._why = error.message
            else:
                self._flapped.set()
            await self._rest(rhythm.uniform(*OFF_S))
            await self.layer.heal()
            await self._rest(rhythm.uniform(*ON_S))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def prove(self) -> None:
        """Wait until it is off once more."""
        if self._task is None:
            raise FaultNotProven("it was not begun")
        self._flapped.clear()
        flapped = asyncio.create_task(self._flapped.wait())
        ended, _ = await asyncio.wait({flapped, self._task}, timeout=PROOF_S, return_when=asyncio.FIRST_COMPLETED)
        flapped.cancel()
        if flapped not in ended:
            raise FaultNotProven(f"it flaps no more: {self._task if self._task in ended else self._why}")

    async def end(self) -> None:
        if self._task is not None:
            # Not by cancelling it: a change of a proxy that is cancelled may still be made later.
            self._stop.set()
            task, self._task = self._task, None
            try:
                await asyncio.wait({task})
            finally:
                await super().end()
            if not task.cancelled():
                task.result()  # links went off and on no more when it failed: whoever has ended it is told
        else:
            await super().end()

    def abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
