"""Many seeds on all cores, and one seed under the magnifying glass."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.sim.levels import Report, load
from tests.sim.shrink import kind_of, shrink

SHRINK_SECONDS = 60.0
SHRUNK_RUNS = 3
"""So many failing runs are shrunk; one bug fails many."""


MOST_ITEMS = 40
"""Longer lists are cut: the whole trace is one command away."""


class BrokenSimulator(Exception):
    """The simulator itself failed: that says nothing about what it simulates."""


def run_seed(level: str, seed: int) -> Report:
    try:
        return load(level).run(seed)
    except Exception as error:
        raise BrokenSimulator(f"seed {seed} of level {level}: {error!r}") from error


def run_seeds(level: str, seeds: Sequence[int], *, processes: int | None = None) -> int:
    """Run all seeds, say what came of them, and return the exit status."""
    console = Console()
    reports: list[Report] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        multiprocessing.get_context("spawn").Pool(processes or os.cpu_count()) as pool,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task(f"simulator {level}", total=len(seeds))
        for report in pool.imap_unordered(partial(run_seed, level), seeds, chunksize=4):
            reports.append(report)
            progress.advance(task)
            if report.violation is not None:
                progress.console.print(f"seed {report.seed}: {report.violation}", markup=False, highlight=False)
    failed = sorted((report for report in reports if report.violation is not None), key=lambda report: report.steps)
    for report in failed[:SHRUNK_RUNS]:
        _show_failure(level, report)
    _write(_summary(reports))
    _write(
        f"seeds={len(reports)} steps={sum(report.steps for report in reports)} "
        f"faults={sum(sum(report.faults.values()) for report in reports)} violations={len(failed)}"
    )
    return 1 if failed else 0


def replay(level: str, seed: int, kept: Sequence[int] | None = None) -> int:
    """Run one seed with its trace; if it fails, shrink its tape. Return the exit status."""
    report = load(level).run(seed, kept=kept, trace=_write)
    _write(f"faults: {_counted(report.faults)}")
    _write(f"traffic: {_counted(report.traffic)}")
    _write(f"seed={seed} steps={report.steps} trace={report.trace_hash:x} violation={report.violation or 'none'}")
    if report.violation is None:
        return 0
    if kept is None:
        _show_failure(level, report)
    return 1


def shrink_tape(level: str, report: Report, seconds: float = SHRINK_SECONDS) -> list[int]:
    """Return the items of the failing run's tape that are needed for the same violation."""
    module = load(level)
    wanted = kind_of(report.violation or "")

    def still_fails(kept: Sequence[int]) -> bool:
        violation = module.run(report.seed, kept=kept).violation
        return violation is not None and kind_of(violation) == wanted

    return shrink(len(module.tape(report.seed)), still_fails, seconds)


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers that rise as text for KEEP: 1-3,7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts) or "none"


def numbers(text: str) -> list[int]:
    """The inverse of `ranges`."""
    if text == "none":
        return []
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _show_failure(level: str, report: Report) -> None:
    module = load(level)
    option = "" if level == "l0" else f" LEVEL={level}"
    _write(f"\nseed {report.seed} fails after {report.steps} steps: {report.violation}")
    _write(f"replay it:         make sim SEED={report.seed}{option}")
    if (report.violation or "").startswith("IdleRun"):
        return
    tape = module.tape(report.seed)
    kept = shrink_tape(level, report)
    _write(f"its shrunk tape:   make sim SEED={report.seed} KEEP={ranges(kept)}{option}")
    _write(f"{len(kept)} of {len(tape)} items of the tape are needed:")
    for number in kept[:MOST_ITEMS]:
        _write(f"{number:5}  {tape[number]}")
    if len(kept) > MOST_ITEMS:
        _write(f"  ... and {len(kept) - MOST_ITEMS} more")
    lines: list[str] = []
    module.run(report.seed, kept=kept, trace=lines.append)
    _write(f"the last of the {len(lines)} lines of its trace:")
    for line in lines[-MOST_ITEMS:]:
        _write(line)
    _write("")


def _summary(reports: Iterable[Report]) -> str:
    faults: Counter[str] = Counter()
    traffic: Counter[str] = Counter()
    steps, seconds = 0, 0.0
    for report in reports:
        faults.update(report.faults)
        traffic.update(report.traffic)
        steps += report.steps
        seconds += report.seconds
    speed = f"{steps / seconds:.0f} steps/s a core" if seconds else ""
    return f"faults: {_counted(faults)}\ntraffic: {_counted(traffic)}\n{speed}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
