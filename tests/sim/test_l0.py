"""The simulator of the core: it finds nothing, it does what it is for, and a seed decides everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.raft import sabotage
from tests.sim import l0, runner
from tests.sim.conftest import Remembered
from tests.sim.l0 import plan
from tests.sim.l0.run import run
from tests.sim.levels import MODULES, Report, load
from tests.sim.shrink import kind_of, shrink

SEEDS = 100
"""Those of the default run, of `ALL_SEEDS`."""
ALL_SEEDS = 200
CHUNK = 10


@pytest.mark.parametrize(
    "first",
    [
        *range(0, SEEDS, CHUNK),
        *(pytest.param(first, marks=pytest.mark.slow) for first in range(SEEDS, ALL_SEEDS, CHUNK)),
    ],
)
def test_seeds(first: int, core_report: Remembered[Report]) -> None:
    for seed in range(first, first + CHUNK):
        report = core_report(seed)
        assert report.violation is None, f"{report.violation}\nreplay it: make sim SEED={seed}"


def test_the_seeds_do_what_they_are_for(core_report: Remembered[Report]) -> None:
    """Over these seeds, every kind of fault has hit something, and the clusters got much done in spite of them."""
    faults: Counter[str] = Counter()
    traffic: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for seed in range(SEEDS):
        report = core_report(seed)
        faults.update(report.faults)
        traffic.update(report.traffic)
        sizes[plan.draw(seed)[0].size] += 1
    wanted = dict.fromkeys((*plan.FAULTS, plan.HUNT), 3) | {
        plan.UNFIT: 30,
        "ring": 1,  # only five nodes and more have neighbours and others
        "message lost": 3000,
        "message duplicated": 3000,
        "message reordered": 3000,
        "unsynced write lost": 20,
        "unconfirmed write kept": 20,
    }
    assert {kind: faults[kind] for kind in wanted if faults[kind] < wanted[kind]} == {}
    done = {
        "changes of members": 30,
        "checkpoints": 100,
        "snapshots installed": 30,
        "snapshots to install amid a change and a partition": 5,
        "commits": 3000,
        "elections": 200,
        "entries overwritten": 300,
        "inputs batched": 3000,
        "reads dropped": 50,
        "reads served": 1000,
        "transfers": 30,
        "unfit leaders that handed over": 15,
        "writes acknowledged": 3000,
        "writes refuted": 50,
        "writes unknown": 50,
    }
    assert {name: traffic[name] for name in done if traffic[name] < done[name]} == {}
    assert sizes[3] + sizes[5] > 30
    assert len(sizes) >= 4


def test_a_seed_decides_everything() -> None:
    """Twice in one process, and with any order of sets (PYTHONHASHSEED)."""
    script = (
        "from tests.sim.l0 import run; print([(r.steps, r.trace_hash, r.faults, r.traffic) for r in map(run, (3, 4))])"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = [(r.steps, r.trace_hash, r.faults, r.traffic) for r in map(run, (3, 4))]
    assert traces == {str(here)}
    assert here[0][1] != here[1][1]


def test_an_item_less_on_the_tape_leaves_the_others_as_they_are() -> None:
    """The trace is the same until the item that is left out would have happened."""
    tape = l0.tape(3)
    left_out = next(number for number, act in enumerate(tape) if act.kind in plan.FAULTS)
    whole: list[str] = []
    part: list[str] = []
    run(3, trace=whole.append)
    run(3, kept=[number for number in range(len(tape)) if number != left_out], trace=part.append)
    until = next(i for i, (a, b) in enumerate(zip(whole, part, strict=False)) if a != b)
    assert "** " + tape[left_out].kind in whole[until]
    assert until > 100


def test_tracing_changes_nothing() -> None:
    lines: list[str] = []
    assert run(5, trace=lines.append).trace_hash == run(5).trace_hash
    text = "\n".join(lines)
    for part in ("seed 5: size=", "leader", "<- n", "AppendRequest t", "disk has write", "everything heals", "** "):
        assert part in text, part


def test_a_run_without_faults_or_traffic_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulator that does nothing proves nothing."""
    draw = plan.draw
    for kinds in (("propose", "read"), tuple(plan.FAULTS)):

        def fewer(seed: int, kinds: tuple[str, ...] = kinds) -> tuple[plan.Parameters, tuple[plan.Act, ...]]:
            parameters, acts = draw(seed)
            calm = {"loss": 0.0, "duplication": 0.0, "fifo": True, "ticks": 100 if "read" in kinds else 45}
            kept = tuple(act for act in acts if act.kind in kinds)
            return plan.Parameters(**{name: getattr(parameters, name) for name in parameters.__slots__} | calm), kept

        monkeypatch.setattr(plan, "draw", fewer)
        found = [run(seed).violation or "" for seed in range(3)]
        assert all(violation.startswith("IdleRun") for violation in found), found


def test_a_failing_run_is_shrunk_and_replayed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shrunk tape fails in the same way, and says so itself."""
    sabotage.any_log_may_lead(monkeypatch)
    sabotage.without_the_cores_own_checks(monkeypatch)
    report = next(report for report in map(run, range(20)) if report.violation)
    kept = runner.shrink_tape("l0", report, seconds=20)
    again = run(report.seed, kept=kept)
    assert again.violation is not None
    assert kind_of(again.violation) == kind_of(report.violation or "")
    assert len(kept) < len(l0.tape(report.seed)) / 2
    monkeypatch.setattr(runner, "SHRINK_SECONDS", 1.0)
    assert runner.replay("l0", report.seed, kept) == 1
    shown = capsys.readouterr().out
    assert kind_of(report.violation or "") in shown.splitlines()[-1]


def test_a_failing_seed_fails_the_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line at the end, exit status 1, and the command that repeats it."""
    monkeypatch.setattr(runner, "run_seed", _fails_at_seven)
    monkeypatch.setattr(runner, "shrink_tape", lambda *_: [0, 1, 2, 5])
    assert runner.run_seeds("l0", range(6, 9), processes=1) == 1
    shown = capsys.readouterr().out
    assert "make sim SEED=7\n" in shown
    assert "make sim SEED=7 KEEP=0-2,5\n" in shown
    assert shown.splitlines()[-1] == "seeds=3 steps=30 faults=6 violations=1"


def _fails_at_seven(level: str, seed: int) -> Report:
    """Stands in for `run_seed`; the processes of the pool find it by its name."""
    violation = "SafetyViolation: C4: node 1 leads" if seed == 7 else None
    return Report(seed=seed, steps=10, trace_hash=1, faults={"crash": 2}, violation=violation)


def test_seeds_without_a_violation_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.run_seeds("l0", range(2), processes=1) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("violations=0")


def test_shrinking_drops_everything_that_is_not_needed() -> None:
    runs: list[int] = []

    def fails(kept: object) -> bool:
        assert isinstance(kept, list)
        runs.append(len(kept))
        return {3, 40, 77} <= set(kept)

    assert shrink(100, fails, seconds=10) == [3, 40, 77]
    assert len(runs) < 200
    assert shrink(100, fails, seconds=0) == list(range(100))


def test_violations_of_one_property_are_of_one_kind() -> None:
    assert kind_of("SafetyViolation: C4: node 1 leads term 2") == kind_of("SafetyViolation: C4: node 3 leads term 9")
    assert kind_of("SafetyViolation: C4: node 1") != kind_of("SafetyViolation: C5: node 1")
    assert kind_of("LivenessViolation: no read is served within 9 ticks") != kind_of("LivenessViolation: no write is")


def test_numbers_for_keep_survive_the_command_line() -> None:
    for numbers in ([], [4], [0, 1, 2, 5, 7, 8]):
        assert runner.numbers(runner.ranges(numbers)) == numbers


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_level_can_be_loaded(name: str) -> None:
    level = load(name)
    assert list(level.tape(1)) == list(level.tape(1))
    assert callable(level.run)
