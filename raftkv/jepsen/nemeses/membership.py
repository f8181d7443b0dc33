"""The members of the cluster change while it works."""

from __future__ import annotations

import random

from raftkv.client import MemberKind
from raftkv.jepsen.nemeses import NEMESES, joining
from raftkv.jepsen.nemeses.patience import seen
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import NodeProcess

PROOF_S = 10.0


class Membership(Nemesis):
    """A node joins, catches up and gets a vote; sometimes another one takes its place; and it leaves again."""

    name = "membership"
    help = NEMESES[name].help
    members_change = True

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.ours: list[NodeProcess] = []
        self.voter = 0
        """Who has got a vote."""

    async def begin(self) -> str:
        node = await self._prepare()
        await joining.join(self.testbed, node)
        await joining.start(node)
        await joining.promote(self.testbed, node)
        self.voter = node.id
        said = f"node {node.id} joins"
        if self.rng.random() < 0.5:
            other = await self._prepare()
            await joining.replace(self.testbed, node.id, other)
            await joining.start(other)
            await joining.promote(self.testbed, other)
            self.voter = other.id
            said += f", and node {other.id} takes its place"
        return said

    async def prove(self) -> None:
        """The leader must say that it votes, and it must know itself that it is a member, if it is up."""
        if not self.voter:
            raise FaultNotProven("no node has joined")

        async def look() -> bool:
            return await joining.kind_of(self.testbed, self.voter) is MemberKind.VOTER

        await seen(f"node {self.voter} among the voters", look, PROOF_S)
        if self.voter not in self.testbed.down:
            status = await self.testbed.admin.status(self.testbed.node(self.voter).client_address)
            if not any(one.id == self.voter for one in status.members):
                raise FaultNotProven(f"node {self.voter} does not know that it is a member")

    async def end(self) -> None:
        self.voter = 0
        for node in tuple(self.ours):
            await joining.leave(self.testbed, node.id)
            await joining.discard(self.testbed, node)
            self.ours.remove(node)

    async def _prepare(self) -> NodeProcess:
        node = await joining.prepare(self.testbed)
        self.ours.append(node)
        return node
