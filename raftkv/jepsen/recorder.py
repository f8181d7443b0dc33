"""What happens in a run, as it happens: operations and remarks, on one clock."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import Any

from raftkv.checker.history import Operation, Outcome, Remark


class Recorder:
    """Remembers everything, and counts it for whoever shows how it goes."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        """In the order in which they ended."""
        self.remarks: list[Remark] = []
        self.counts: dict[str, Counter[Outcome]] = {}
        """By workload."""
        self._began_ns = time.monotonic_ns()
        self._processes = itertools.count()

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._began_ns

    def new_process(self) -> int:
        """Return a number for a process of the history; see `raftkv.checker.history`."""
        return next(self._processes)

    def record(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.counts.setdefault(operation.workload, Counter())[operation.outcome] += 1

    def remark(self, who: str, f: str, value: Any, time_ns: int | None = None) -> None:
        """Note what else went on, now or at a time before: `who` is `nemesis` or `cluster`, `value` JSON."""
        self.remarks.append(Remark(who=who, f=f, value=value, time=self.now() if time_ns is None else time_ns))
