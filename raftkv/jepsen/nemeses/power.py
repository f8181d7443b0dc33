"""Machines lose their power: the processes are gone, and what they had not synced."""

from __future__ import annotations

from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.nemeses.process import Kill
from raftkv.jepsen.nemeses.targets import listed, running
from raftkv.jepsen.nemesis import FaultNotProven
from raftkv.testing.cluster import NodeProcess


class Power(Kill):
    """All nodes at once, or a majority of them. They start as after a boot: without their state stores."""

    name = "power"
    help = NEMESES[name].help
    hold_s = (0.2, 1.5)
    lossy_disks = True

    async def begin(self) -> str:
        nodes = running(self.testbed)
        majority = len(self.testbed.cluster.nodes) // 2 + 1
        if len(nodes) > majority and self.rng.random() < 0.5:
            nodes = self.rng.sample(nodes, majority)
        await self.kill(nodes)
        lost = sum(self.testbed.levers[node.id].unsynced_bytes for node in nodes)
        who = listed(sorted(node.id for node in nodes))
        return f"nodes {who} lose their power, and {lost} bytes that were not synced"

    async def prove_down(self, node: NodeProcess) -> None:
        if not self.testbed.levers[node.id].lossy:
            raise FaultNotProven(f"node {node.id} keeps what it has not synced: its disk is not lossy")
        await super().prove_down(node)
