"""A run over time, in slices of one width: operations per second by outcome, and how long acknowledged ones took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raftkv.checker.history import Operation, Outcome
from raftkv.cli.figures import percentile

WIDTHS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3_600.0)
"""What a slice may be wide: numbers that people can read off an axis."""
SLICES_MAX: Final = 360
ALL: Final = ""
"""Stands for all workloads together; no workload is called so."""


@dataclass(slots=True)
class Line:
    """One workload; each list has a value for every slice. An operation counts in the slice in which it ended."""

    ok: list[float]
    """Per second; so are `failed` and `unknown`."""
    failed: list[float]
    unknown: list[float]
    p50: list[float | None]
    """Milliseconds that acknowledged operations took; None where there was none."""
    p99: list[float | None]
    max: list[float | None]


@dataclass(slots=True)
class Series:
    """All workloads of a run."""

    width_s: float
    slices: int
    lines: dict[str, Line] = field(default_factory=dict)
    """By workload; `ALL` is everything."""

    def as_json(self) -> dict[str, Any]:
        return {
            "width_s": self.width_s,
            "slices": self.slices,
            "lines": {
                name: {
                    "ok": line.ok,
                    "failed": line.failed,
                    "unknown": line.unknown,
                    "p50": line.p50,
                    "p99": line.p99,
                    "max": line.max,
                }
                for name, line in self.lines.items()
            },
        }


def series_of(operations: Iterable[Operation], slices_max: int = SLICES_MAX) -> Series:
    """Count operations by slice. The widest of `WIDTHS_S` is taken when none gives so few slices."""
    by_workload: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        by_workload[one.workload].append(one)
        by_workload[ALL].append(one)
    ended_s = max((one.ended for one in by_workload[ALL]), default=0) / 1e9
    width_s = next((width for width in WIDTHS_S if ended_s < width * slices_max), WIDTHS_S[-1])
    slices = int(ended_s / width_s) + 1
    series = Series(width_s=width_s, slices=slices)
    for name in sorted(by_workload):
        series.lines[name] = _line(by_workload[name], width_s, slices)
    return series


def _line(operations: Sequence[Operation], width_s: float, slices: int) -> Line:
    counts = {outcome: [0] * slices for outcome in Outcome}
    took_ms: list[list[float]] = [[] for _ in range(slices)]
    width_ns = round(width_s * 1e9)
    for one in operations:
        at = one.ended // width_ns
        counts[one.outcome][at] += 1
        if one.ok:
            took_ms[at].append((one.ended - one.began) / 1e6)
    for taken in took_ms:
        taken.sort()

    def rate(outcome: Outcome) -> list[float]:
        return [round(count / width_s, 2) for count in counts[outcome]]

    def latency(percent: float) -> list[float | None]:
        return [None if (ms := percentile(taken, percent)) is None else round(ms, 3) for taken in took_ms]

    return Line(
        ok=rate(Outcome.OK),
        failed=rate(Outcome.FAIL),
        unknown=rate(Outcome.INFO),
        p50=latency(50),
        p99=latency(99),
        max=latency(100),
    )
