"""Nodes are killed or stopped, and put to work again at the end."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path

from raftkv.jepsen.nemeses import NEMESES, drawing
from raftkv.jepsen.nemeses.targets import called, leader_of, listed, running
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import POLL_S, NodeProcess
from raftkv.testing.gathering import all_of
from raftkv.testing.links import Probe, probe

OBEY_S = 5.0


class ProcessNemesis(Nemesis):
    """Takes nodes down that nobody else has taken down, and brings back those that it has."""

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.struck: list[NodeProcess] = []

    async def one(self) -> tuple[list[NodeProcess], str]:
        """Draw the node to be struck, and what to call it. Nobody, if all are down."""
        leader = await leader_of(self.testbed)
        up = {node.id: node for node in running(self.testbed)}
        if not up:
            return [], "nobody, as all are down,"
        node = drawing.aim(self.rng, self.option, sorted(up), leader)
        return [up[node]], called(node, leader)

    def take(self, nodes: list[NodeProcess]) -> None:
        """Make them ours before anything is done to them, so that `end` brings them back whatever happens."""
        self.struck += nodes
        self.testbed.down |= {node.id for node in nodes}

    async def end(self) -> None:
        await all_of(self._bring_back(node) for node in tuple(self.struck))

    async def _bring_back(self, node: NodeProcess) -> None:
        if node in self.testbed.cluster.nodes:  # it may have been removed from the cluster meanwhile
            self.revive(node)
            await node.answers()
        self.struck.remove(node)
        self.testbed.down.discard(node.id)

    def revive(self, node: NodeProcess) -> None:
        """Undo what was done; wait for nothing."""
        if not node.running:
            node.launch()


class Down(ProcessNemesis):
    """Those that it struck stay down until its end."""

    async def prove(self) -> None:
        if not self.struck:
            raise FaultNotProven("no node was there to be struck")
        await all_of(self.prove_down(node) for node in self.struck)

    @abstractmethod
    async def prove_down(self, node: NodeProcess) -> None:
        """Raise FaultNotProven unless this one is."""


class Kill(Down):
    """What was not on its disk is lost: SIGKILL, between two instructions."""

    name = "kill"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes, who = await self.one()
        await self.kill(nodes)
        return f"{who} is killed"

    async def kill(self, nodes: list[NodeProcess]) -> None:
        self.take(nodes)
        await all_of(node.kill() for node in nodes)

    async def prove_down(self, node: NodeProcess) -> None:
        if node.running:
            raise FaultNotProven(f"node {node.id} runs")
        for address in (node.client_address, node.peer_address):
            if (seen := await probe(address)) is not Probe.REFUSED:
                raise FaultNotProven(f"node {node.id} has no process, but {address} {seen.value}")


class KillAll(Kill):
    """Nothing survives but what is on disks."""

    name = "kill-all"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes = running(self.testbed)
        await self.kill(nodes)
        return f"nodes {listed([node.id for node in nodes])} are killed"


class Pause(Down):
    """Its connections stay open, and it comes back believing that no time has passed."""

    name = "pause"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes, who = await self.one()
        await self.pause(nodes)
        return f"{who} is stopped"

    async def pause(self, nodes: list[NodeProcess]) -> None:
        self.take(nodes)
        for node in nodes:
            node.pause()
        with suppress(TimeoutError):
            async with asyncio.timeout(OBEY_S):
                await _stopped(nodes)

    async def prove_down(self, node: NodeProcess) -> None:
        state = process_state(node.pid) if node.running else "no process"
        if state != "T":
            raise FaultNotProven(f"node {node.id} is not stopped: {state}")
        if (seen := await probe(node.client_address)) is not Probe.SILENT:
            raise FaultNotProven(f"node {node.id} is stopped, but {seen.value}")

    def revive(self, node: NodeProcess) -> None:
        if node.running:
            node.resume()
        else:
            super().revive(node)


class PauseAll(Pause):
    """All clocks go on, and nobody acts: what had a deadline is late afterwards."""

    name = "pause-all"
    help = NEMESES[name].help

    async def begin(self) -> str:
        nodes = running(self.testbed)
        await self.pause(nodes)
        return f"nodes {listed([node.id for node in nodes])} are stopped"


async def _stopped(nodes: list[NodeProcess]) -> None:
    """Wait until all have obeyed the signal, which takes a while on a busy machine."""
    while True:
        if all(process_state(node.pid) == "T" for node in nodes):
            return
        await asyncio.sleep(POLL_S)


def process_state(pid: int) -> str:
    """Return the letter that the kernel has for what a process does."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "no process"
    return stat.rpartition(")")[2].split()[0]  # its name, in parentheses, may hold anything
