"""Nodes are parted from each other, or from their clients: by a black hole, by cutting connections, or by resets."""

from __future__ import annotations

from abc import abstractmethod

from raftkv.jepsen.nemeses import NEMESES, drawing
from raftkv.jepsen.nemeses.links import LinkNemesis
from raftkv.jepsen.nemeses.targets import called, leader_of, listed, members, reachable
from raftkv.testing.link_faults import How


class Partition(LinkNemesis):
    """Draws how, then does it."""

    async def begin(self) -> str:
        how = drawing.how(self.rng, self.option)
        return f"{await self.part(how)} ({how})"

    @abstractmethod
    async def part(self, how: How) -> str:
        """Part them, and say whom."""


class IsolateLeader(Partition):
    """The leader goes on believing in itself until it notices, while the others elect another."""

    name = "isolate-leader"
    help = NEMESES[name].help

    async def part(self, how: How) -> str:
        leader = await leader_of(self.testbed)
        node = drawing.aim(self.rng, "leader", reachable(self.testbed), leader)
        await self.layer.isolate(node, how)
        return f"{called(node, leader)} is parted from all others"


class IsolateRandom(Partition):
    """Often a follower, which campaigns all the while, and must not disturb when it comes back."""

    name = "isolate-random"
    help = NEMESES[name].help

    async def part(self, how: How) -> str:
        node = self.rng.choice(reachable(self.testbed))
        await self.layer.isolate(node, how)
        return f"node {node} is parted from all others"


class FewAndMany(Partition):
    """Some nodes are parted from the others; if that can be, with some on either side that are up."""

    @abstractmethod
    def few(self, nodes: int) -> int:
        """Return how many, of so many."""

    async def part(self, how: How) -> str:
        nodes, up = members(self.testbed), {*reachable(self.testbed)}
        few, many = drawing.preferring(
            lambda: drawing.split(self.rng, nodes, self.few(len(nodes))),
            lambda sides: all({*side} & up for side in sides),
        )
        await self.layer.partition(few, many, how=how)
        return f"nodes {listed(few)} are parted from {listed(many)}"


class MajorityMinority(FewAndMany):
    """As many nodes as the cluster can do without, whoever they are."""

    name = "majority-minority"
    help = NEMESES[name].help

    def few(self, nodes: int) -> int:
        return (nodes - 1) // 2


class MinorityThird(FewAndMany):
    """As many nodes as a cluster that tolerates lies could do without (Jepsen has this one, too)."""

    name = "minority-third"
    help = NEMESES[name].help

    @classmethod
    def refuses(cls, nodes: int) -> str:
        return "" if nodes > 3 else f"less than a third of {nodes} nodes is nobody; it takes 4 or more"

    def few(self, nodes: int) -> int:
        return self.rng.randint(1, (nodes - 1) // 3)


class Bridge(Partition):
    """Each side hears of the other through one node only."""

    name = "bridge"
    help = NEMESES[name].help

    async def part(self, how: How) -> str:
        nodes, up = members(self.testbed), {*reachable(self.testbed)}
        bridge, left, right = drawing.preferring(
            lambda: drawing.bridged(self.rng, nodes), lambda drawn: bool({*drawn[1]} & up and {*drawn[2]} & up)
        )
        await self.layer.partition([*left, bridge], [bridge, *right], how=how)
        return f"nodes {listed(left)} and {listed(right)} are parted, and both reach {bridge}"


class Ring(Partition):
    """No two nodes agree on who is there, and yet each has a quorum."""

    name = "ring"
    help = NEMESES[name].help

    @classmethod
    def refuses(cls, nodes: int) -> str:
        return "" if nodes > 3 else f"in a ring of {nodes} nodes each reaches all others; it takes 4 or more"

    async def part(self, how: How) -> str:
        nodes, up = members(self.testbed), {*reachable(self.testbed)}
        circle, apart = drawing.preferring(
            lambda: drawing.ring(self.rng, nodes), lambda drawn: any({*pair} <= up for pair in drawn[1])
        )
        for one, other in apart:
            await self.layer.block(one, other, how)
        return f"each node reaches its neighbours only in the circle {listed(circle)}"


class OneWay(LinkNemesis):
    """A deaf leader goes on sending heartbeats; a mute one hears answers to nothing."""

    name = "one-way"
    help = NEMESES[name].help

    async def begin(self) -> str:
        leader = await leader_of(self.testbed)
        nodes = reachable(self.testbed)
        node = drawing.aim(self.rng, "leader", nodes, leader)
        others = [other for other in nodes if other != node]
        match drawing.option_or_any(self.rng, self.option, NEMESES[self.name].options):
            case "deaf":
                for other in others:
                    await self.layer.block_one_way(other, node)
                return f"{called(node, leader)} hears no other node"
            case "mute":
                for other in others:
                    await self.layer.block_one_way(node, other)
                return f"{called(node, leader)} is heard by no other node"
            case _:
                src, dst = self.rng.sample([node, self.rng.choice(others)], 2)
                await self.layer.block_one_way(src, dst)
                return f"{called(dst, leader)} does not hear node {src}"


class Clients(Partition):
    """The leader goes on leading, but has nobody to serve: clients must find their way through others."""

    name = "clients"
    help = NEMESES[name].help

    async def part(self, how: How) -> str:
        leader = await leader_of(self.testbed)
        node = drawing.aim(self.rng, "leader", reachable(self.testbed), leader)
        await self.layer.block_clients(node, how)
        return f"{called(node, leader)} is parted from its clients"
