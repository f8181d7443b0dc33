"""All that can be done to a cluster, by name: one line each, and the code is imported only when it is used.

A new nemesis is a subclass of `raftkv.jepsen.nemesis.Nemesis` in a module of this package, and a line in NEMESES.

`isolate-leader` lets the nemesis draw how each time; `isolate-leader:cut` has it that way always.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from raftkv.errors import RaftKVError
from raftkv.jepsen.nemeses.apart import why_apart

if TYPE_CHECKING:
    from raftkv.jepsen.nemesis import Nemesis
    from raftkv.jepsen.testbed import Testbed


class NemesisUnusable(RaftKVError):
    """There is no such nemesis, or it cannot be used like this. The message says what there is instead."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a nemesis is, and what there is to know without loading it."""

    where: str
    """Module, in this package, and class."""
    help: str
    """One line for people, without a full stop."""
    options: tuple[str, ...] = ()
    """What may follow the colon."""

    def load(self) -> type[Nemesis]:
        module, _, name = self.where.partition(".")
        found: type[Nemesis] = getattr(import_module(f"{__name__}.{module}"), name)
        return found


_HOW: Final = ("blackhole", "cut", "reset")
_DEAF: Final = ("deaf", "mute", "link")
_WHOM: Final = ("leader", "follower")
_SPAN: Final = ("link", "leader", "all")

NEMESES: Final[dict[str, Entry]] = {
    "isolate-leader": Entry("partition.IsolateLeader", "the leader is parted from all other nodes", _HOW),
    "isolate-random": Entry("partition.IsolateRandom", "a node drawn by lot is parted from all others", _HOW),
    "majority-minority": Entry("partition.MajorityMinority", "a majority and a minority are parted", _HOW),
    "minority-third": Entry("partition.MinorityThird", "less than a third of the nodes is parted off", _HOW),
    "bridge": Entry("partition.Bridge", "two halves are parted, but for one node that both reach", _HOW),
    "ring": Entry("partition.Ring", "each node reaches a majority, no two the same one", _HOW),
    "one-way": Entry("partition.OneWay", "the leader is deaf or mute, or a link passes bytes one way only", _DEAF),
    "flapping": Entry("flapping.Flapping", "links of the leader go off and on quickly", _HOW),
    "clients": Entry("partition.Clients", "clients are parted from the leader, who keeps its peers", _HOW),
    "slow-link": Entry("pace.SlowLink", "bytes between nodes take long", _SPAN),
    "jitter": Entry("pace.Jitter", "bytes between nodes take now long, now short", _SPAN),
    "bandwidth": Entry("pace.Bandwidth", "few bytes a second pass between nodes", _SPAN),
    "slicer": Entry("pace.Slicer", "bytes between nodes come in very small pieces", _SPAN),
    "kill": Entry("process.Kill", "a node is killed by SIGKILL, and started again at the end", _WHOM),
    "kill-all": Entry("process.KillAll", "all nodes are killed at once, and started again at the end"),
    "pause": Entry("process.Pause", "a node is stopped by SIGSTOP, and goes on at the end", _WHOM),
    "pause-all": Entry("process.PauseAll", "all nodes are stopped at once, and go on at the end"),
    "restart": Entry("restart.Restart", "a node is ended gracefully and started again", _WHOM),
    "restart-all": Entry("restart.RestartAll", "all nodes are ended gracefully and started again"),
    "rolling-restart": Entry("restart.RollingRestart", "the nodes are restarted one after the other"),
    "clock-jump": Entry("clock.ClockJump", "clocks jump, forth and back"),
    "clock-strobe": Entry("clock.ClockStrobe", "a clock goes to and fro quickly"),
    "disk-full": Entry("disk.DiskFull", "a node's disk is full"),
    "disk-slow": Entry("disk.DiskSlow", "a node's disk takes long"),
    "power": Entry("power.Power", "nodes lose their power, and what was not synced"),
    "membership": Entry("membership.Membership", "a node joins the cluster, and leaves it again"),
    "wipe": Entry("wipe.Wipe", "a node loses its data, and joins again"),
    "checkpoint": Entry("checkpoint.Checkpoint", "nodes make a snapshot and drop their logs"),
    "install": Entry("checkpoint.Install", "a node falls so far behind that it is sent a snapshot"),
    "random": Entry("combination.Combination", "two or three of these at once, drawn by lot"),
}


def find(name: str) -> tuple[Entry, str]:
    """Return what `name`, or `name:option`, stands for, and the option, or an empty one. Raises NemesisUnusable."""
    base, colon, option = name.partition(":")
    entry = NEMESES.get(base)
    if entry is None:
        raise NemesisUnusable(f"no nemesis {base!r}; there are {', '.join(NEMESES)}")
    if colon and option not in entry.options:
        known = f"it takes {', '.join(entry.options)}" if entry.options else "it takes none"
        raise NemesisUnusable(f"nemesis {base} has no option {option!r}; {known}")
    return entry, option


def examine(names: Sequence[str], nodes: int) -> None:
    """Raise NemesisUnusable unless all these can be on at once, begun in this order, in a cluster of `nodes`."""
    taken: set[str] = set()
    bases = [name.partition(":")[0] for name in names]
    for name, base in zip(names, bases, strict=True):
        if why := find(name)[0].load().refuses(nodes):
            raise NemesisUnusable(f"nemesis {base} cannot be used: {why}")
        if base in taken:
            raise NemesisUnusable(f"nemesis {base} is there twice")
        taken.add(base)
    if why := why_apart(bases, nodes):
        raise NemesisUnusable(why)


def create(name: str, testbed: Testbed, rng: random.Random) -> Nemesis:
    """Return the nemesis called `name`, or `name:option`, for one run. Raises NemesisUnusable."""
    entry, option = find(name)
    nemesis = entry.load()(testbed, rng)
    nemesis.option = option
    return nemesis
