"""Disks that are full or slow, in the kernel's calls: see `raftkv.testing.disk_faults`."""

from __future__ import annotations

import errno
import os
import random
import re

from raftkv.client import Alarm
from raftkv.jepsen.nemeses import NEMESES, drawing
from raftkv.jepsen.nemeses.patience import seen
from raftkv.jepsen.nemeses.targets import called, leader_of, running
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import NodeProcess

PROOF_S = 10.0
RECOVERY_S = 30.0


class DiskNemesis(Nemesis):
    """Strikes one node."""

    failing_disks = True

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        super().__init__(testbed, rng)
        self.struck: NodeProcess | None = None
        self.operations: set[str] = set()
        self.hits = 0
        """How many calls other faults had met before."""
        self.said = 0
        """How long its log was before."""

    async def strike(self, *rules: str) -> str:
        """Draw the node and let it meet these rules. Return what to call it."""
        leader = await leader_of(self.testbed)
        up = {node.id: node for node in running(self.testbed)}
        if not up:
            return "nobody, as all are down,"
        node = drawing.aim(self.rng, self.option, sorted(up), leader)
        self.struck = up[node]
        disk = self.testbed.levers[node].disk
        self.operations = {rule.split()[0] for rule in rules}
        self.hits = len(disk.hits())
        self.said = len(self.struck.log())
        disk.add(self.name, *rules)
        return called(node, leader)

    def victim(self) -> NodeProcess:
        if self.struck is None:
            raise FaultNotProven("no node was there to be struck")
        if self.struck.id in self.testbed.down:
            raise FaultNotProven(f"node {self.struck.id} is down meanwhile")
        return self.struck

    async def met(self) -> None:
        """Raise FaultNotProven unless the node has met the fault."""
        node = self.victim()

        async def look() -> bool:
            hits = self.testbed.levers[self.victim().id].disk.hits()[self.hits :]
            return any(hit.split()[0] in self.operations for hit in hits)

        await seen(f"a call of node {node.id} that the fault meets (nothing is written there?)", look, PROOF_S)

    async def end(self) -> None:
        if self.struck is None:
            return
        node = self.struck
        self.testbed.levers[node.id].disk.drop(self.name)
        ended = not node.running and node.id not in self.testbed.down
        if ended and self.excuses(node.log()[self.said :]):
            await node.start()
        self.struck = None  # one that has ended over anything else stays as it is: `Testbed.stopped_themselves`

    def excuses(self, log: str) -> bool:
        """Whether a node that has said this since the fault began, and has ended, may have done so because of it."""
        return False


class DiskFull(DiskNemesis):
    """No write to log or checkpoints finds any room, not even in a file that has it reserved."""

    name = "disk-full"
    help = NEMESES[name].help

    async def begin(self) -> str:
        places = ("/wal/", "/checkpoints/")
        rules = [f"{operation} {place} {errno.ENOSPC}" for operation in ("write", "allocate") for place in places]
        return f"{await self.strike(*rules)} has a full disk"

    async def prove(self) -> None:
        """The calls fail, and the node says so; one that has stopped over it says so too."""
        await self.met()
        node = self.victim()
        if node.running:
            await seen(f"the alarm of node {node.id}", lambda: self._alarmed(node), PROOF_S)

    def excuses(self, log: str) -> bool:
        """With a disk that is lossy too, a flush may find no room."""
        return os.strerror(errno.ENOSPC) in last_words(log) and "InvariantViolation" not in log

    async def end(self) -> None:
        node = self.struck
        await super().end()
        if node is not None and node.running and node.id not in self.testbed.down:

            async def look() -> bool:
                return node.id in self.testbed.down or not await self._alarmed(node)

            await seen(f"node {node.id} finds room again", look, RECOVERY_S)

    async def _alarmed(self, node: NodeProcess) -> bool:
        status = await self.testbed.admin.status(node.client_address, timeout=1.0)
        return any(one.alarm is Alarm.DISK_FULL for one in status.alarms)


class DiskSlow(DiskNemesis):
    """Every flush of the log takes long; sometimes longer than an election timeout."""

    name = "disk-slow"
    help = NEMESES[name].help
    slow_ms = 0

    async def begin(self) -> str:
        self.slow_ms = self.rng.choice((20, 100, 300, 800))
        who = await self.strike(f"sync /wal/ slow={self.slow_ms}")
        return f"{who} has a slow disk: a flush takes {self.slow_ms} ms"

    async def prove(self) -> None:
        """The calls are met, and the node has measured it."""
        await self.met()
        node = self.victim()

        async def look() -> bool:
            status = await self.testbed.admin.status(node.client_address, timeout=1.0)
            return status.disk.slowest_write_s >= self.slow_ms / 1000

        await seen(f"a write of node {node.id} that took {self.slow_ms} ms", look, PROOF_S)


def last_words(log: str) -> str:
    """Return the last line in which a node says why it ends; empty where there is none, as it was killed."""
    lines = re.findall(r"^.*\[critical *\] the node stops .*$|^raftkv: .*$", log, re.MULTILINE)
    return lines[-1] if lines else ""
