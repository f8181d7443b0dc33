"""All rounds together: the figures, and whether the cluster passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from raftkv.drill.measure.record import How, Outcome, Record
from raftkv.drill.measure.rounds import Round, measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was acknowledged against what a linearizable read found afterwards."""

    acknowledged: int
    lost: Sequence[str] = ()
    """Keys whose acknowledged write is missing or has another value."""
    repeated: Sequence[str] = ()
    """Keys whose one write was applied more often than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all rounds, in milliseconds."""

    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a drill came to."""

    how: How
    rounds: Sequence[Round]
    rounds_wanted: int
    audit: Audit | None
    """None: what was acknowledged could not be read back."""
    failed: int
    unknown: int
    reads: int
    reads_failed: int
    reads_missed: int
    """Linearizable reads that did not show a write acknowledged before they began."""
    first_error: str
    problems: list[str] = field(default_factory=list)
    """Why it did not pass."""

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def rpo(self) -> int | None:
        """Acknowledged writes that are gone."""
        return None if self.audit is None else len(self.audit.lost)

    def spread(self, figure: Callable[[Round], float | None]) -> Spread | None:
        """Return a figure's spread over the rounds that have it."""
        known = sorted(ms for one in self.rounds if (ms := milliseconds(figure(one))) is not None)
        return Spread(least=known[0], median=round(median(known), 1), most=known[-1]) if known else None

    def as_json(self) -> dict[str, Any]:
        """Return all of it, durations in milliseconds."""
        spreads = {name: self.spread(figure) for name, figure in FIGURES.items()}
        return {
            "how": self.how.value,
            "passed": self.passed,
            "problems": self.problems,
            "rounds_wanted": self.rounds_wanted,
            "rpo": self.rpo,
            "writes_acknowledged": self.audit.acknowledged if self.audit else None,
            "writes_lost": list(self.audit.lost) if self.audit else None,
            "writes_repeated": list(self.audit.repeated) if self.audit else None,
            "writes_failed": self.failed,
            "writes_unknown": self.unknown,
            "reads": self.reads,
            "reads_failed": self.reads_failed,
            "reads_missed": self.reads_missed,
            "first_error": self.first_error or None,
            **{
                name: None if one is None else {"min": one.least, "median": one.median, "max": one.most}
                for name, one in spreads.items()
            },
            "rounds": [_round_json(one) for one in self.rounds],
        }


FIGURES: dict[str, Callable[[Round], float | None]] = {
    "detection_ms": lambda one: one.detection_s,
    "election_ms": lambda one: one.election_s,
    "first_write_ms": lambda one: one.first_write_s,
    "rto_ms": lambda one: one.gap.seconds if one.gap is not None else None,
    "mttr_ms": lambda one: one.mttr_s,
}


def judged(record: Record, how: How, wanted: int, audit: Audit | None, troubles: Sequence[str] = ()) -> Result:
    """Measure all rounds and judge. `troubles`: what ended the drill early. Nothing passes that was not looked at."""
    rounds = [measured(record, fault) for fault in record.faults]
    missed = sum(1 for one in record.reads if one.missed)
    errors = [one.error for one in record.writes if one.error] + [one.error for one in record.reads if one.error]
    problems = list(troubles)
    problems += [f"round {one.number}: {_wanting(one)}" for one in rounds if not one.recovered]
    if len(rounds) < wanted:
        problems.append(f"{len(rounds)} of {wanted} rounds took place")
    if audit is None:
        problems.append("what was acknowledged could not be read back")
    else:
        if audit.lost:
            problems.append(f"{len(audit.lost)} acknowledged writes are lost, {audit.lost[0]} among them")
        if audit.repeated:
            problems.append(f"{len(audit.repeated)} writes were applied twice, {audit.repeated[0]} among them")
        if not audit.acknowledged:
            problems.append("nothing was acknowledged, so nothing is proven")
    if missed:
        problems.append(f"{missed} linearizable reads did not show what had been acknowledged before")
    return Result(
        how=how,
        rounds=rounds,
        rounds_wanted=wanted,
        audit=audit,
        failed=sum(1 for one in record.writes if one.outcome is Outcome.FAILED),
        unknown=sum(1 for one in record.writes if one.outcome is Outcome.UNKNOWN),
        reads=len(record.reads),
        reads_failed=sum(1 for one in record.reads if one.outcome is not Outcome.OK),
        reads_missed=missed,
        first_error=errors[0] if errors else "",
        problems=problems,
    )


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds to one decimal place."""
    return None if seconds is None else round(seconds * 1000, 1)


def _wanting(one: Round) -> str:
    if one.election_s is None:
        return "no new leader was elected"
    if one.first_write_s is None:
        return f"node {one.new_leader} was elected, but acknowledged no write"
    return f"node {one.old_leader} did not come back as a member that has caught up"


def _round_json(one: Round) -> dict[str, Any]:
    return {
        "round": one.number,
        "old_leader": one.old_leader,
        "new_leader": one.new_leader,
        "old_term": one.old_term,
        "new_term": one.new_term,
        **{name: milliseconds(figure(one)) for name, figure in FIGURES.items()},
        "rto_is_at_least": one.gap is not None and not one.gap.closed,
        "longest_wait_ms": milliseconds(one.longest_gap.seconds if one.longest_gap is not None else None),
        "undone_ms": milliseconds(one.undone_s),
        "recovered": one.recovered,
        "writes_acknowledged": one.acknowledged,
        "writes_failed": one.failed,
        "writes_unknown": one.unknown,
        "reads": one.reads,
        "reads_failed": one.reads_failed,
    }
