"""Power losses that are aimed at each kind of work of the disks.

Chance alone, as the seeds have it, interrupts appends, recoveries and compactions; hardly ever the rest. All faults of
the seed go on, and all judges look on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.sim.l1.disk import RECOVER, TRUNCATE, WORK
from tests.sim.l1.plan import Plan
from tests.sim.l1.process import Machine
from tests.sim.l1.simulation import Result, Simulation

ALL_WORK = tuple(dict.fromkeys(work for work in (TRUNCATE, *WORK.values()) if work != RECOVER))
"""But for what a start does: seeds have a fault for it."""
DOWN_S = (0.2, 1.5)
"""Virtual. Who is down for longer has to install a snapshot."""
MOST_OPERATIONS = 6
MORE_S = 10.0
"""What is added to the length of a run."""


class Marksman:
    """Aims on all machines at all work that was not hit yet; the first one that comes to any loses its power."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = simulation.plan.stream("marksman")
        self._left = set(ALL_WORK)
        self._ceased = False

    def begin(self) -> None:
        for machine in self._simulation.machines.values():
            machine.disk.power_fails = partial(self._struck, machine)
        self._simulation.loop.call_later(1.0, self._aim)
        self._simulation.loop.call_later(self._simulation.plan.duration_s - 1.0, self._cease)

    def _aim(self) -> None:
        if not self._ceased:
            for machine in self._simulation.machines.values():
                machine.disk.aim = {work: self._random.randrange(most(work)) for work in sorted(self._left)}

    def _struck(self, machine: Machine) -> None:
        """In the middle of the disk's work: the rest comes when the process has nothing to say any more."""
        self._lower()
        context = self._simulation.network.context
        self._simulation.loop.call_soon(self._end, machine, context=context)

    def _lower(self) -> None:
        for machine in self._simulation.machines.values():
            machine.disk.aim = {}

    def _cease(self) -> None:
        self._ceased = True
        self._lower()

    def _end(self, machine: Machine) -> None:
        self._left.difference_update(machine.disk.interrupted)
        self._left = self._left or set(ALL_WORK)
        machine.lose_power()
        down_s = self._random.uniform(*DOWN_S)
        self._simulation.loop.call_later(down_s, machine.start)
        self._simulation.loop.call_later(down_s / 2, self._aim)


def most(work: str) -> int:
    """Suffixes are replaced rarely, and in one append of two or three operations."""
    return 2 if work == TRUNCATE else MOST_OPERATIONS


def run_aimed(plan: Plan) -> Result:
    """Run a plan with aimed power losses on top; segments and checkpoints are small, so that there is such work."""
    limits = replace(plan.settings.limits, checkpoint_log_bytes=4000)
    settings = replace(plan.settings, limits=limits, segment_bytes=1024)
    simulation = Simulation(replace(plan, settings=settings, duration_s=plan.duration_s + MORE_S))
    Marksman(simulation).begin()
    return simulation.run()
