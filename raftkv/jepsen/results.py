"""What came of a run: the verdict and what it rests on, as `results.json` has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import Problem, Verdict


class Judgement(StrEnum):
    """Of a whole run."""

    VALID = "valid"
    VIOLATION = "violation"
    UNKNOWN = "unknown"
    """Nothing wrong was found, and that shows nothing: see `why`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Operations of one workload, and what was found of them."""

    ok: int
    failed: int
    unknown: int
    missing: tuple[str, ...] = ()
    """What was done too seldom to show anything."""
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "failed": self.failed, "unknown": self.unknown, **self.verdict.as_json()}


@dataclass(slots=True, kw_only=True)
class Results:
    """Of one run."""

    seed: int
    command: str
    nodes: int
    seconds: float
    began: str
    """When, as ISO 8601."""
    workloads: dict[str, Tally] = field(default_factory=dict)
    cluster: Verdict | None = None
    """Of the cluster as a whole: one leader a term, equal states in the end. None: it was not looked at."""
    begun: Counter[str] = field(default_factory=Counter)
    proven: Counter[str] = field(default_factory=Counter)
    """Faults by nemesis: those that began, and those that a probe saw from beginning to end."""
    nemeses: tuple[str, ...] = ()
    faults: list[dict[str, Any]] = field(default_factory=list)
    leaders: int = 0
    worst_pause_ms: float | None = None
    """The longest time in which the probe got no answer."""
    interrupted: str = ""
    """Why the run ended before its time."""

    @property
    def problems(self) -> list[tuple[str, Problem]]:
        """Everything that is wrong, with the workload that shows it; `cluster` is none."""
        found = [(name, one) for name, tally in self.workloads.items() for one in tally.verdict.problems]
        return found + [("cluster", one) for one in (self.cluster.problems if self.cluster else ())]

    def why(self) -> list[str]:
        """Say what keeps the run from being a proof of anything."""
        found = [self.interrupted] if self.interrupted else []
        for name, tally in self.workloads.items():
            if tally.verdict.why:
                found.append(f"{name}: {tally.verdict.why}")
            found += [f"{name}: {one}" for one in tally.missing]
        found += [
            f"nemesis {name} never fired: no fault of it was proven" for name in self.nemeses if not self.proven[name]
        ]
        if self.cluster is None:
            found.append("nobody looked at the cluster as a whole")
        elif not self.leaders:
            found.append("no leader was ever seen")
        return found

    @property
    def judgement(self) -> Judgement:
        if self.problems:
            return Judgement.VIOLATION
        return Judgement.UNKNOWN if self.why() else Judgement.VALID

    def as_json(self) -> dict[str, Any]:
        """Return what `results.json` holds."""
        return {
            "verdict": str(self.judgement),
            "why": self.why(),
            "seed": self.seed,
            "command": self.command,
            "nodes": self.nodes,
            "seconds": self.seconds,
            "began": self.began,
            "workloads": {name: tally.as_json() for name, tally in self.workloads.items()},
            "cluster": self.cluster.as_json() if self.cluster is not None else None,
            "faults": self.faults,
            "nemeses": {name: {"begun": self.begun[name], "proven": self.proven[name]} for name in self.nemeses},
            "leaders": self.leaders,
            "worst_pause_ms": self.worst_pause_ms,
        }


def tally(operations: Sequence[Operation], done: Counter[str], least: Mapping[str, int], verdict: Verdict) -> Tally:
    """Count what became of a workload's operations, and whether there was enough of it."""
    counts = Counter(one.outcome for one in operations)
    missing = [
        f"{what} was done {done[what]} times, {times} are the least to show something"
        for what, times in least.items()
        if done[what] < times
    ]
    return Tally(
        ok=counts[Outcome.OK],
        failed=counts[Outcome.FAIL],
        unknown=counts[Outcome.INFO],
        missing=tuple(missing),
        verdict=verdict,
    )


def verdicts_of(results: Results) -> Mapping[str, Verdict]:
    """Return the verdicts by workload, and that of the cluster."""
    found = {name: one.verdict for name, one in results.workloads.items()}
    return found | ({"cluster": results.cluster} if results.cluster is not None else {})


def header(results: Results) -> dict[str, Any]:
    """Return what the first line of `history.jsonl` tells besides its format."""
    return {
        "seed": results.seed,
        "command": results.command,
        "nodes": results.nodes,
        "began": results.began,
        "workloads": list(results.workloads),
    }
