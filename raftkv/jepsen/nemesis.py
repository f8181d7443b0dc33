"""What a nemesis is: one kind of fault, which can be begun, proven and ended."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import ClassVar

from raftkv.jepsen.testbed import Testbed
from raftkv.testing.links import FaultNotProven

__all__ = ["FaultNotProven", "Nemesis"]


class Nemesis(ABC):
    """One for each run. It is begun, proven, kept for a while, proven again and ended; and so on.

    Several may be on at once: it must leave alone what others do, except that
    a node is down once however many killed it.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    """One line for people, without a full stop."""
    hold_s: ClassVar[tuple[float, float]] = (3.0, 6.0)
    """How long it stays on: drawn between these."""
    lossy_disks: ClassVar[bool] = False
    """Nodes must run on disks that forget, when killed, what was not synced."""
    failing_disks: ClassVar[bool] = False
    """Nodes must run on disks that fail on request."""
    lease_margin_ms: ClassVar[float] = 0.0
    """What it may take off a lease, as it lets clocks jump or run fast; see `raftkv.jepsen.workload.Setting`."""
    clock_slack_ms: ClassVar[float] = 0.0
    """By how much it lets clocks lag."""
    members_change: ClassVar[bool] = False
    """Whether there may be other voters than at the start."""

    def __init__(self, testbed: Testbed, rng: random.Random) -> None:
        self.testbed = testbed
        self.rng = rng
        self.option = ""
        """What followed the colon of the name under which it was asked for; empty: it draws."""

    @classmethod
    def refuses(cls, nodes: int) -> str:
        """Say why this cannot be done to a cluster of `nodes`; empty: it can."""
        return ""

    @abstractmethod
    async def begin(self) -> str:
        """Draw what is to be struck, strike it, and say in few words what was done: `node 2, who leads, is cut off`."""

    @abstractmethod
    async def prove(self) -> None:
        """Raise FaultNotProven unless the fault is on, by what a probe sees of it (not by what was asked for)."""

    @abstractmethod
    async def end(self) -> None:
        """Make it good, and return when nothing is left of it but what the cluster has to catch up with.

        May be called without a begin, after a begin that failed midway, and twice.
        """

    def abandon(self) -> None:  # noqa: B027 - most have nothing that runs here
        """Called in place of `end` when the whole testbed is about to be destroyed: cancel what runs in this process.

        It waits for nothing and heals nothing. May be called without a begin, and twice.
        """
