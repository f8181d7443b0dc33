"""Several faults at once, others each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from raftkv.jepsen.nemeses import NEMESES, create, find
from raftkv.jepsen.nemeses.apart import why_apart
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed

FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "membership": ("membership", "wipe", "install"),
    "checkpoint": ("checkpoint",),
    "process": ("kill", "pause", "restart", "rolling-restart"),
    "clock": ("clock-jump", "clock-strobe"),
    "partition": (
        "isolate-leader",
        "isolate-random",
        "majority-minority",
        "minority-third",
        "bridge",
        "ring",
        "one-way",
        "flapping",
        "clients",
    ),
    "pace": ("slow-link:all", "jitter:all", "bandwidth:all", "slicer:all"),
}
"""One of each at most, begun in this order: what takes a working cluster to begin comes first, and what strikes those
who are up comes after what takes some down. They are ended in reverse."""
KINDS: Final[list[type[Nemesis]]] = [find(name)[0].load() for names in FAMILIES.values() for name in names]
"""What it may draw."""


def draw(rng: random.Random, nodes: int, refuses: Callable[[str], str]) -> list[str]:
    """Return two or three nemeses that go together. `refuses` says why one cannot be used; empty: it can."""
    asked = {family: [name for name in names if not refuses(name)] for family, names in FAMILIES.items()}
    usable = {family: names for family, names in asked.items() if names}
    while True:
        families = set(rng.sample(list(usable), rng.choice((2, 3))))
        drawn = [rng.choice(names) for family, names in usable.items() if family in families]
        if not why_apart([name.partition(":")[0] for name in drawn], nodes, proven_in_between=False):
            return drawn


class Combination(Nemesis):
    """All of them are proven, or it is not."""

    name = "random"
    help = NEMESES[name].help
    hold_s = (4.0, 8.0)
    lease_margin_ms = max(one.lease_margin_ms for one in KINDS)
    clock_slack_ms = max(one.clock_slack_ms for one in KINDS)
    members_change = any(one.members_change for one in KINDS)

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.on: list[Nemesis] = []
        self._made: dict[str, Nemesis] = {}

    async def begin(self) -> str:
        nodes = len(self.testbed.voters)
        said = []
        for name in draw(self.rng, nodes, lambda name: _refuses(name, nodes)):
            if name not in self._made:
                self._made[name] = create(name, self.testbed, self.rng)
            self.on.append(nemesis := self._made[name])
            said.append(f"{nemesis.name}: {await nemesis.begin()}")
        return "; ".join(said)

    async def prove(self) -> None:
        if not self.on:
            raise FaultNotProven("nothing was begun")
        for nemesis in self.on:
            try:
                await nemesis.prove()
            except FaultNotProven as error:
                raise FaultNotProven(f"{nemesis.name}: {error.message}") from error

    async def end(self) -> None:
        async with AsyncExitStack() as ends:  # all of them, in reverse, whichever fails
            for nemesis in self.on:
                ends.push_async_callback(nemesis.end)
        self.on.clear()

    def abandon(self) -> None:
        for nemesis in self.on:
            nemesis.abandon()


def _refuses(name: str, nodes: int) -> str:
    nemesis = find(name)[0].load()
    if nemesis.lossy_disks or nemesis.failing_disks:
        return "it takes nodes on disks of another kind"
    return nemesis.refuses(nodes)
