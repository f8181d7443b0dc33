"""What a workload is: what its clients do, and how it is judged what they were told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient
from raftkv.jepsen.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a workload may want to know of its run."""

    prefix: str
    """Its keys, and names of its locks, begin with this; nobody else's do."""
    nodes: int
    """Voters at the start, 3 or 5."""
    workers: int
    seconds: float
    """How long the run is to be."""
    lease_margin_ms: float = 0.0
    """What the run's nemeses may take off a lease: they let clocks jump, or run fast."""
    clock_slack_ms: float = 0.0
    """By how much a clock may lag that measures how old an answer is."""
    members_change: bool = False
    """Whether there may be other voters than at the start."""


class Workload(ABC):
    """One for each run. Its workers run at once on one event loop; state that they share is kept here."""

    name: ClassVar[str]
    help: ClassVar[str]
    """One line for people, without a full stop."""
    least: ClassVar[Mapping[str, int]]
    """Of what must have been done how often, at least: else the run has shown nothing. See `done`."""
    workers_at_least: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    async def setup(self, client: AsyncClient) -> None:  # noqa: B027 - most need nothing
        """Write what must be there before the first operation. The cluster is whole."""

    @abstractmethod
    async def run(self, worker: Worker) -> None:
        """Live as one client: `while await worker.turn(): await worker.do(...)`."""

    async def finish(self, worker: Worker) -> None:  # noqa: B027 - most need nothing
        """Record what is there in the end: once, when all workers have returned and the cluster is whole again."""

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        """Count what `least` speaks of: by default, operations that were OK, by `f`."""
        return Counter(one.f for one in operations if one.ok)

    @abstractmethod
    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        """Judge this workload's operations."""
