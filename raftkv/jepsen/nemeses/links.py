"""What nemeses have in common that break links: a layer of their own, its proof and its end."""

from __future__ import annotations

import random

from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed


class LinkNemesis(Nemesis):
    """Its `begin` adds faults to `self.layer`; the rest is here."""

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.layer = testbed.links.layer()

    async def prove(self) -> None:
        while True:
            down = frozenset(self.testbed.down)
            try:
                await self.layer.verify(down=down)
            except FaultNotProven:
                if self.testbed.down == down:
                    raise
                continue  # somebody has killed a node, or started it, while we looked
            return

    async def end(self) -> None:
        await self.layer.heal()
