"""Checkpoints are made, and installed, when it suits nobody."""

from __future__ import annotations

import asyncio
import random
import re
from functools import partial

from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.nemeses.patience import allowed, seen
from raftkv.jepsen.nemeses.process import ProcessNemesis
from raftkv.jepsen.nemeses.targets import leader_of, listed, running
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import NodeProcess
from raftkv.testing.gathering import all_of

KEY = "jepsen-nemesis/checkpoint"
"""Written so that there is something to make a checkpoint of."""
MAKE_S = 10.0
LEFT_BEHIND_S = 20.0
INSTALL_S = 20.0
PAUSE_S = 0.3
INSTALLED = "installed a snapshot"


class Checkpoint(Nemesis):
    """Some nodes copy their state and drop what it has of their logs, all at once."""

    name = "checkpoint"
    help = NEMESES[name].help
    hold_s = (0.2, 1.0)

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.before: dict[NodeProcess, int] = {}
        """How many each had made, by its log."""

    async def begin(self) -> str:
        up = running(self.testbed)
        drawn = self.rng.sample(up, self.rng.randint(1, len(up))) if up else []
        self.before = {node: made(node) for node in drawn}
        await self.testbed.admin.put(KEY, str(self.rng.random()))
        # A node that has just come up may be refused for a while by a channel that knows it as dead.
        await all_of(
            allowed(partial(self.testbed.admin.checkpoint, node.client_address, timeout=MAKE_S), MAKE_S)
            for node in drawn
        )
        return f"nodes {listed(sorted(node.id for node in drawn))} make checkpoints"

    async def prove(self) -> None:
        if not self.before:
            raise FaultNotProven("no node was there to make a checkpoint")

        async def look() -> bool:
            done = {node for node, count in self.before.items() if made(node) > count}
            up = {node for node in self.before if node.id not in self.testbed.down}
            return bool(done) and done >= up  # one that is down meanwhile may have made its own before, or not

        await seen("the checkpoints in the logs of the nodes", look, MAKE_S)

    async def end(self) -> None:
        self.before.clear()


class Install(ProcessNemesis):
    """A follower is away until no log of the others reaches back to its end, and comes back: all of it in `begin`."""

    name = "install"
    help = NEMESES[name].help
    hold_s = (0.5, 2.0)

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.layer = testbed.links.layer()
        self.behind: NodeProcess | None = None
        self.installs = 0
        """How many the node had made before."""

    async def begin(self) -> str:
        leader = await leader_of(self.testbed)
        followers = [node for node in running(self.testbed) if node.id != leader]
        if leader is None or len(followers) < 2:
            return "nobody is left behind: too few nodes are up, or nobody leads"
        victim = self.rng.choice(followers)
        others = [node for node in running(self.testbed) if node is not victim]
        self.installs = victim.log().count(INSTALLED)
        if self.rng.random() < 0.5:
            away = "killed"
            end = (await self.testbed.admin.status(victim.client_address)).last_index
            self.take([victim])
            await victim.kill()
        else:
            away = "cut off"
            await self.layer.isolate(victim.id)
            end = (await self.testbed.admin.status(victim.client_address)).last_index
        await self._outrun(end, others)
        self.behind = victim
        await self._come_back()
        return f"node {victim.id} is {away} until the others have forgotten what it needs next, entry {end + 1}"

    async def prove(self) -> None:
        """By its own log, it has installed what it was sent."""
        node = self.behind
        if node is None:
            raise FaultNotProven("no node was left behind")

        async def look() -> bool:
            return node.log().count(INSTALLED) > self.installs

        await seen(f"node {node.id} installs a checkpoint", look, INSTALL_S)

    async def end(self) -> None:
        self.behind = None
        await self._come_back()

    async def _come_back(self) -> None:
        await self.layer.heal()
        await super().end()

    async def _outrun(self, end: int, others: list[NodeProcess]) -> None:
        """Have the others make checkpoints until their logs begin behind entry `end`, and the next."""

        async def look() -> bool:
            if all(log_begins(node) > end + 1 for node in others):
                return True
            await self.testbed.admin.put(KEY, str(self.rng.random()))
            await asyncio.sleep(PAUSE_S)  # the log is kept for whoever has answered in an election timeout
            await all_of(self.testbed.admin.checkpoint(node.client_address, timeout=MAKE_S) for node in others)
            return False

        await seen(f"logs that begin behind entry {end + 1}", look, LEFT_BEHIND_S)


def made(node: NodeProcess) -> int:
    """Return how many checkpoints a node has made, over all its lives."""
    return node.log().count("checkpoint made, log compacted")


def log_begins(node: NodeProcess) -> int:
    """Return the first entry that a node has kept, by what it said of its last checkpoint; 0: it has made none."""
    found = re.findall(r"first_kept=(\d+)", node.log())
    return int(found[-1]) if found else 0
