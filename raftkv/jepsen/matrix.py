"""`python -m raftkv.jepsen.matrix`: every workload under one nemesis after the other, and one table of all of it.

`make jepsen` is the tour of ten minutes, `make jepsen-all` the whole matrix. Each run has a directory of its own, as
`raftkv jepsen` leaves it; summary.json and table.md tell of all of them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from raftkv.cli.narrator import Narrator
from raftkv.cli.session import cancelled_by_signals
from raftkv.errors import RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.results import Judgement, Results
from raftkv.jepsen.runner import Options, Run
from raftkv.jepsen.workloads import WORKLOADS

AROUND_S: Final = 20.0
"""What a run takes besides its load: starting, healing, checking."""
LEAST_S: Final = 12.0
"""Of load, so that a fault has time to come and go."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the matrix."""

    nemesis: str
    nodes: int = 3

    @property
    def name(self) -> str:
        return f"{self.nemesis.replace(',', '+').replace(':', '-')}-{self.nodes}"


TOUR: Final = (
    Cell("isolate-leader"),
    Cell("bridge"),
    Cell("one-way"),
    Cell("flapping"),
    Cell("slow-link"),
    Cell("kill"),
    Cell("pause"),
    Cell("power"),
    Cell("clock-jump"),
    Cell("membership"),
    Cell("install"),
    Cell("random", 5),
)
"""What `make jepsen` runs."""
BY_FIVE: Final = ("isolate-leader", "majority-minority", "minority-third", "bridge", "ring", "kill", "pause", "random")
"""What five nodes are struck with too."""
OP_TIMEOUTS_S: Final = (3.0, 1.0, 0.4)
"""Drawn for each run: with the shortest, clients give up while the store is away, and outcomes stay unknown."""
TOGETHER: Final = (
    "kill,slow-link",
    "pause,isolate-random",
    "membership,kill",
    "install,flapping",
    "disk-slow,isolate-leader",
)


def whole_matrix() -> list[Cell]:
    """Return every nemesis, with three nodes where that is possible, and with five where they make a difference."""
    cells = []
    for name, entry in NEMESES.items():
        kind = entry.load()
        cells += [Cell(name, nodes) for nodes in (3, 5) if not kind.refuses(nodes) and (nodes == 3 or name in BY_FIVE)]
    return cells + [Cell(name) for name in TOGETHER]


async def run_cell(cell: Cell, *, seconds: float, rate: float, seed: int, directory: Path, say: Narrator) -> Results:
    """Run one, with every workload."""
    op_timeout_s = random.Random(seed).choice(OP_TIMEOUTS_S)
    run = Run(
        Options(
            workloads=list(WORKLOADS.values()),
            nemeses=cell.nemesis.split(","),
            nodes=cell.nodes,
            seconds=seconds,
            rate=rate,
            seed=seed,
            op_timeout_s=op_timeout_s,
            directory=directory,
            command=f"raftkv jepsen --workload all --nemesis {cell.nemesis} --nodes {cell.nodes} --time {seconds:g} "
            f"--rate {rate:g} --seed {seed} --op-timeout {op_timeout_s:g}",
        )
    )
    with say.live(lambda: f"{cell.name}: {run.phase}, {len(run.recorder.operations):,} operations"):
        return await run.run()


def line(cell: Cell, results: Results) -> dict[str, Any]:
    """Return what the table has of one run."""
    told = results.as_json()
    return {
        "nemesis": cell.nemesis,
        "nodes": cell.nodes,
        "seconds": results.seconds,
        "seed": results.seed,
        "verdict": told["verdict"],
        "why": told["why"],
        "workloads": {
            name: {"ok": one["ok"], "failed": one["failed"], "unknown": one["unknown"], "valid": one["valid"]}
            for name, one in told["workloads"].items()
        },
        "checked": sum(one["ok"] + one["unknown"] for one in told["workloads"].values() if one["valid"] is not None),
        "unknown": sum(one["unknown"] for one in told["workloads"].values()),
        "proven": sum(one["proven"] for one in told["nemeses"].values()),
        "leaders": told["leaders"],
        "worst_pause_ms": told["worst_pause_ms"],
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table of docs/jepsen.md."""
    names = list(lines[0]["workloads"]) if lines else []
    marks = {True: "", False: " **violation**", None: " ?"}
    rows = [["nemesis", "nodes", "faults", "worst pause", *names, "unknown", "checked", "verdict"]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 2), "---"])
    for one in lines:
        pause = "-" if one["worst_pause_ms"] is None else f"{one['worst_pause_ms'] / 1000:.1f} s"
        cells = [f"{found['ok']:,}{marks[found['valid']]}" for found in one["workloads"].values()]
        rows.append(
            [
                one["nemesis"],
                str(one["nodes"]),
                str(one["proven"]),
                pause,
                *cells,
                f"{one['unknown']:,}",
                f"{one['checked']:,}",
                one["verdict"],
            ]
        )
    total = sum(one["checked"] for one in lines)
    faults = sum(one["proven"] for one in lines)
    text = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return f"{text}\n{total:,} checked operations, {faults} proven faults, {len(lines)} runs.\n"


def worst(found: Iterable[str]) -> int:
    """Return the exit code of many verdicts, as `raftkv jepsen` has it: a violation outweighs all else."""
    seen = set(found)
    if Judgement.VIOLATION in seen:
        return 1
    if "could not run" in seen:
        return 2
    return 3 if Judgement.UNKNOWN in seen else 0


async def run_all(cells: Sequence[Cell], *, seconds: float, rate: float, seed: int, directory: Path) -> int:
    """Run one after the other; a run that fails does not keep the next from being made. Return the exit code."""
    narrator = Narrator()
    lines: list[dict[str, Any]] = []
    verdicts = []
    for number, cell in enumerate(cells):
        where = directory / f"{number:02d}-{cell.name}"
        where.mkdir()
        try:
            results = await run_cell(
                cell, seconds=seconds, rate=rate, seed=seed + number, directory=where, say=narrator
            )
        except (RaftKVError, OSError, InvariantViolation) as error:
            narrator.say(f"{cell.name}: could not run: {error}", "red")
            verdicts.append("could not run")
            continue
        verdicts.append(str(results.judgement))
        lines.append(line(cell, results))
        why = "".join(
            f"; {one}" for one in [*(str(problem) for _, problem in results.problems[:1]), *results.why()[:2]]
        )
        narrator.say(
            f"{number + 1}/{len(cells)} {cell.name}: {results.judgement}, {lines[-1]['checked']:,} checked{why}"
        )
        (directory / "summary.json").write_text(json.dumps(lines, indent=1))
        (directory / "table.md").write_text(table(lines))
        if results.judgement is Judgement.VALID:
            shutil.rmtree(where / "nodes", ignore_errors=True)  # what nobody will look at
    sys.stdout.write(table(lines))
    return worst(verdicts)


def main() -> None:
    """Run the matrix."""
    parser = argparse.ArgumentParser(prog="python -m raftkv.jepsen.matrix", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every nemesis, not the tour")
    parser.add_argument("--only", default="", help="runs whose nemesis contains this")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all runs together, about")
    parser.add_argument("--rate", type=float, default=30.0, help="operations per second, of each workload")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="what is kept; default: a new temporary one")
    given = parser.parse_args()
    cells = [cell for cell in (whole_matrix() if given.all else TOUR) if given.only in cell.nemesis]
    if not cells:
        parser.error(f"no nemesis contains {given.only!r}; known: {', '.join(NEMESES)}")
    seconds = max(given.minutes * 60 / len(cells) - AROUND_S, LEAST_S)
    directory = given.directory or Path(tempfile.mkdtemp(prefix="raftkv-jepsen-"))
    directory.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"{len(cells)} runs of {seconds:.0f} s each, in {directory}\n")
    try:
        code = uvloop.run(
            cancelled_by_signals(run_all(cells, seconds=seconds, rate=given.rate, seed=given.seed, directory=directory))
        )
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
