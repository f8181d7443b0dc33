"""Links between nodes pass everything, but badly."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from raftkv.jepsen.nemeses import NEMESES, drawing
from raftkv.jepsen.nemeses.links import LinkNemesis
from raftkv.jepsen.nemeses.targets import leader_of, reachable


class Pace(LinkNemesis):
    """Strikes one link of the leader, all of them, or those of everybody."""

    said: ClassVar[str]

    async def begin(self) -> str:
        span = drawing.option_or_any(self.rng, self.option, NEMESES[self.name].options)
        pairs = drawing.pairs(self.rng, span, reachable(self.testbed), await leader_of(self.testbed))
        amount = self.draw()
        for one, other in pairs:
            await self.strike(one, other, amount)
        return f"links {' '.join(f'{one}-{other}' for one, other in pairs)} {self.said.format(amount)}"

    @abstractmethod
    def draw(self) -> int:
        """Return how bad it is to be."""

    @abstractmethod
    async def strike(self, one: int, other: int, amount: int) -> None:
        """Break the link between two nodes."""


class SlowLink(Pace):
    """Longer ones than an election takes to be called are among them."""

    name = "slow-link"
    help = NEMESES[name].help
    said = "take {} ms each way"

    def draw(self) -> int:
        return self.rng.choice([30, 60, 120, 300])

    async def strike(self, one: int, other: int, amount: int) -> None:
        await self.layer.slow(one, other, latency_ms=amount)


class Jitter(Pace):
    """Heartbeats come in clusters, and now and then too late."""

    name = "jitter"
    help = NEMESES[name].help
    said = "take up to {} ms each way"

    def draw(self) -> int:
        return self.rng.choice([60, 120, 240])

    async def strike(self, one: int, other: int, amount: int) -> None:
        await self.layer.slow(one, other, latency_ms=amount // 2, jitter_ms=amount // 2)


class Bandwidth(Pace):
    """A follower falls behind, and heartbeats queue behind entries."""

    name = "bandwidth"
    help = NEMESES[name].help
    said = "pass {} kB a second"

    def draw(self) -> int:
        return self.rng.choice([16, 32, 64])

    async def strike(self, one: int, other: int, amount: int) -> None:
        await self.layer.narrow(one, other, kilobytes_per_s=amount)


class Slicer(Pace):
    """No message comes in one piece."""

    name = "slicer"
    help = NEMESES[name].help
    said = "pass pieces of {} bytes"

    def draw(self) -> int:
        return self.rng.choice([16, 32, 64])

    async def strike(self, one: int, other: int, amount: int) -> None:
        await self.layer.slice(one, other, average_bytes=amount, variation_bytes=amount // 2, pause_us=100)
