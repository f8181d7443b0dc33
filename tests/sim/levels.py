"""What a level of the simulator offers to its runner, and which levels there are.

A level is a module with the functions of `Level`. It is imported only when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

MODULES = {
    "l0": "tests.sim.l0",
    "l1": "tests.sim.l1",
    "quorum": "tests.quorum.runs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one run. A value that can be sent between processes."""

    seed: int
    steps: int
    trace_hash: int
    """Of everything that happened, in order. The same seed must give the same one."""
    faults: dict[str, int] = field(default_factory=dict)
    """How often each fault really hit something."""
    traffic: dict[str, int] = field(default_factory=dict)
    """What the cluster got done in spite of them: commits, elections, reads, ..."""
    violation: str | None = None
    seconds: float = 0.0
    """Of processor time; the only field that two runs of one seed may differ in."""


class Level(Protocol):
    """The functions that a level's module has."""

    def tape(self, seed: int) -> Sequence[object]:
        """Return the faults and inputs that the seed decides, in order. Their str() is for people to read."""

    def run(
        self, seed: int, *, kept: Sequence[int] | None = None, trace: Callable[[str], None] | None = None
    ) -> Report:
        """Run one seed; `kept`: with these items of its tape only. `trace` is given one line for every event.

        A violation is in the report, never raised. So is a run with less traffic or fewer faults than a run must have,
        unless items of the tape are left out.
        """


def load(name: str) -> Level:
    return cast(Level, importlib.import_module(MODULES[name]))
