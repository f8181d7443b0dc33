"""A node loses its disk. Its id is spent (docs/adr/0004): the machine joins again under another one."""

from __future__ import annotations

import asyncio
import random
import shutil

from raftkv.client import MemberKind
from raftkv.jepsen.nemeses import NEMESES, joining
from raftkv.jepsen.nemeses.patience import seen
from raftkv.jepsen.nemeses.targets import leader_of, running
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import NodeProcess

PROOF_S = 10.0
VOTE_S = 60.0


class Wipe(Nemesis):
    """A follower is killed, its data is deleted, and a new node takes its place and its addresses.

    The proxy before it stays, so that clients find the machine where it was. The old id counts as down from then on.
    """

    name = "wipe"
    help = NEMESES[name].help
    members_change = True

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.old: NodeProcess | None = None
        self.new: NodeProcess | None = None

    @classmethod
    def refuses(cls, nodes: int) -> str:
        return "" if nodes >= 3 else "the others must be a majority without the node that lost its data"

    async def begin(self) -> str:
        leader = await leader_of(self.testbed)
        followers = [node for node in running(self.testbed) if node.id != leader]
        if leader is None or len(running(self.testbed)) < len(self.testbed.cluster.nodes):
            return "nobody is wiped: not all nodes are up, or nobody leads"
        self.old = old = self.rng.choice(followers)
        self.testbed.down.add(old.id)
        await old.kill()
        await asyncio.to_thread(shutil.rmtree, old.data_dir)
        await self._rejoin(old)
        return f"node {old.id} loses its data, and joins again as node {self.new.id if self.new else '?'}"

    async def _rejoin(self, old: NodeProcess) -> None:
        if self.new is None:
            self.new = await joining.prepare(self.testbed, in_place_of=old)
        await joining.replace(self.testbed, old.id, self.new)
        if old in self.testbed.cluster.nodes:
            self.testbed.cluster.nodes.remove(old)
        if not self.new.running and self.new.id not in self.testbed.down:
            await joining.start(self.new)

    async def prove(self) -> None:
        """The data is gone, and the leader has the new node in the place of the old one."""
        if self.old is None or self.new is None:
            raise FaultNotProven("no node was wiped")
        if self.old.data_dir.exists():
            raise FaultNotProven(f"{self.old.data_dir} is there")
        old, new = self.old.id, self.new.id

        async def look() -> bool:
            members = {member.id for member in await self.testbed.admin.members(timeout=2.0)}
            return new in members and old not in members

        await seen(f"node {new} in the place of node {old}", look, PROOF_S)

    async def end(self) -> None:
        """It gets its vote back."""
        if self.old is not None:
            await self._rejoin(self.old)
        if self.new is not None:
            await joining.promote(self.testbed, self.new, VOTE_S)
            if await joining.kind_of(self.testbed, self.new.id) is not MemberKind.VOTER:
                raise FaultNotProven(f"node {self.new.id} has no vote")
        self.old = self.new = None
