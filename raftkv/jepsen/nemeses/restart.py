"""Nodes are ended gracefully and started again: what an upgrade does. All of it happens in `begin`."""

from __future__ import annotations

import random

from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.nemeses.process import ProcessNemesis
from raftkv.jepsen.nemeses.targets import leader_of, listed, running
from raftkv.jepsen.nemesis import FaultNotProven
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import ClusterError, NodeProcess
from raftkv.testing.gathering import all_of
from raftkv.testing.links import Probe, probe

ANSWER_S = 5.0


class Restart(ProcessNemesis):
    """It hands over, flushes and goes, and comes back on the same addresses."""

    name = "restart"
    help = NEMESES[name].help
    hold_s = (0.5, 1.5)

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.before: dict[NodeProcess, int] = {}
        """The processes that were ended."""

    async def begin(self) -> str:
        nodes, who = await self.one()
        await self.restart(nodes)
        return f"{who} is restarted"

    async def restart(self, nodes: list[NodeProcess]) -> None:
        """End all, then start all. Raises ClusterError when one has not ended as it should; `end` starts them then."""
        self.take(nodes)
        for node in nodes:
            self.before[node] = node.pid
        codes = await all_of(node.stop() for node in nodes)
        badly = [
            f"node {node.id} was told to end and did so with code {code}: {node.log_tail()}"
            for node, code in zip(nodes, codes, strict=True)
            if code
        ]
        if badly:
            raise ClusterError("; ".join(badly))
        await all_of(node.start() for node in nodes)
        for node in nodes:  # from here on others may have them
            self.struck.remove(node)
            self.testbed.down.discard(node.id)

    async def prove(self) -> None:
        if not self.before:
            raise FaultNotProven("no node was there to be restarted")
        await all_of(self.prove_restarted(node) for node in self.before)

    async def prove_restarted(self, node: NodeProcess) -> None:
        if node.pid == self.before[node]:
            raise FaultNotProven(f"node {node.id} is the process that it was")
        if node.id not in self.testbed.down and (seen := await probe(node.client_address, ANSWER_S)) is not Probe.ALIVE:
            raise FaultNotProven(f"node {node.id} was restarted, but {seen.value}")

    async def end(self) -> None:
        self.before.clear()
        await super().end()


class RestartAll(Restart):
    """All hand over to nobody."""

    name = "restart-all"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes = running(self.testbed)
        await self.restart(nodes)
        return f"nodes {listed([node.id for node in nodes])} are restarted"


class RollingRestart(Restart):
    """Each waits for the one before to answer, and for a leader."""

    name = "rolling-restart"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes = running(self.testbed)
        self.rng.shuffle(nodes)
        for node in nodes:
            await self.restart([node])
            await leader_of(self.testbed)
        return f"nodes {listed([node.id for node in nodes])} are restarted one by one"
