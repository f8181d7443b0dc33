"""The verdict of a run: a table for people, JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from raftkv.cli.output import print_json, print_line, print_table
from raftkv.jepsen.report.words import evidence
from raftkv.jepsen.results import Judgement, Results

EXIT_CODES: Final = {Judgement.VALID: 0, Judgement.VIOLATION: 1, Judgement.UNKNOWN: 3}
_WORDS: Final = {True: "valid", False: "VIOLATION", None: "unknown"}
MOST_PROBLEMS: Final = 3


def print_summary(results: Results, directory: Path, *, as_json: bool) -> None:
    """Write the verdict to stdout."""
    if as_json:
        print_json(results.as_json() | {"directory": str(directory)})
        return
    rows = (
        (name, f"{one.ok:,}", f"{one.failed:,}", f"{one.unknown:,}", _WORDS[one.verdict.valid])
        for name, one in results.workloads.items()
    )
    print_table(("workload", "ok", "failed", "unknown", "verdict"), rows, right=("ok", "failed", "unknown"))
    if results.nemeses:
        faults = ((name, results.begun[name], results.proven[name]) for name in results.nemeses)
        print_table(("nemesis", "begun", "proven"), faults, right=("begun", "proven"))
    pause = f"; the longest pause was {results.worst_pause_ms:,.0f} ms" if results.worst_pause_ms is not None else ""
    print_line(f"{results.leaders} leader{'' if results.leaders == 1 else 's'}{pause}")
    for name, problem in results.problems[:MOST_PROBLEMS]:
        print_line(f"\n{name}: {problem.name}: {problem.text}")
        for one in problem.operations:
            print_line(f"    {evidence(one)}")
    if len(results.problems) > MOST_PROBLEMS:
        print_line(f"\nand {len(results.problems) - MOST_PROBLEMS} more problems")
    for reason in results.why():
        print_line(f"not known: {reason}")
    print_line(f"\n{str(results.judgement).upper()}   report: {directory / 'report.html'}")
    print_line(f"again: {results.command}")
