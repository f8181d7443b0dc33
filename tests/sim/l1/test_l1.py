from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.conftest import Remembered
from tests.sim.l1 import Result, run_seed
from tests.sim.l1.chooser import all_cells
from tests.sim.l1.plan import AMBUSH, CHANGES, FAULTS, PAUSE_OF_ALL, make_plan

REPOSITORY = Path(__file__).parents[3]
ALL_SEEDS = range(20)
SEEDS = (*range(10), 13)
"""Those of the default run. Seed 13 loses a disk."""
CHOOSING = (114,)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed in SEEDS else pytest.mark.slow) for seed in ALL_SEEDS]
)
def test_seed(seed: int, node_result: Remembered[Result]) -> None:
    result = node_result(seed)
    lines = "\n".join(result.last_lines)
    assert result.violation is None, f"{lines}\npython -m tests.sim.l1 --seed {seed}\n{result.violation}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", CHOOSING)
def test_seed_with_choosers(seed: int, node_result: Remembered[Result]) -> None:
    """More of those than are among the first seeds."""
    test_seed(seed, node_result)


@pytest.mark.slow
@pytest.mark.parametrize("voters", [3, 5])
def test_every_concern_and_level_was_answered_under_every_fault(voters: int, node_result: Remembered[Result]) -> None:
    """The whole matrix: a write at W and a later read at R of the same client, and the fault in between."""
    seeds = [seed for seed in (*ALL_SEEDS, *CHOOSING) if make_plan(seed).choosers]
    seeds = [seed for seed in seeds if len(make_plan(seed).settings.nodes) == voters]
    counts = sum((node_result(seed).operations for seed in seeds), Counter[str]())
    missing = {cell for cell in all_cells(voters) if not counts[cell]}
    assert not missing, f"of {len(all_cells(voters))} cells seeds {seeds} miss {sorted(missing)}"


def test_the_answers_to_concerns_and_levels_are_of_all_kinds(node_result: Remembered[Result]) -> None:
    counts = sum((node_result(seed).operations for seed in SEEDS), Counter[str]())
    least = {
        "acknowledged early": 100,
        "copies not reached": 20,
        "TOO_STALE": 10,
        "QUORUM_UNAVAILABLE": 10,
    }
    assert not {what: counts[what] for what in least if counts[what] < least[what]}


def test_the_seeds_of_the_tests_plan_every_fault() -> None:
    planned = {fault.kind for seed in ALL_SEEDS for fault in make_plan(seed).faults}
    assert planned == {*FAULTS, *CHANGES, AMBUSH, PAUSE_OF_ALL}


def test_a_seed_gives_the_same_trace_again(node_result: Remembered[Result]) -> None:
    first, second = node_result(13), run_seed(13)
    assert dataclasses.replace(first, real_s=0) == dataclasses.replace(second, real_s=0)
    assert node_result(6).trace_hash != first.trace_hash


def test_a_seed_gives_the_same_trace_under_any_hash_seed(node_result: Remembered[Result]) -> None:
    command = [sys.executable, "-m", "tests.sim.l1", "--seed", "13", "--hash"]
    hashes = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert hashes == {node_result(13).trace_hash}


def test_the_trace_can_be_read(node_result: Remembered[Result]) -> None:
    lines: list[str] = []
    result = run_seed(13, trace=True, sink=lines.append)
    assert result.trace_hash == node_result(13).trace_hash, "looking changes nothing"
    assert any("n2   [leading] term=" in line or "n1   [leading] term=" in line for line in lines)
    assert any("<- n1 AppendRequest term=" in line for line in lines)
    assert any(":kill at" in line or ":power loss at" in line for line in lines)


def test_a_run_without_faults_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults that were planned and took no effect: a simulator that has come loose from what it tests."""
    from tests.sim.l1.nemesis import Nemesis

    monkeypatch.setattr(Nemesis, "_act", lambda nemesis, fault: None)
    violation = run_seed(13).violation
    assert violation is not None
    assert violation.startswith("harness: 0 faults took effect")


def test_a_run_without_traffic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.sim.l1.caller import Caller

    monkeypatch.setattr(Caller, "start", lambda client: None)
    violation = run_seed(13).violation
    assert violation is not None
    assert violation.startswith("harness: 0 operations succeeded")


def test_a_part_of_a_plan_can_be_run() -> None:
    """For shrinking: leaving faults out is no failure."""
    plan = make_plan(13)
    result = run_seed(13, plan=dataclasses.replace(plan, faults=plan.faults[:2]))
    assert result.violation is None


def everything(node_result: Remembered[Result]) -> Counter[str]:
    return sum((node_result(seed).operations for seed in SEEDS), Counter[str]())


def test_snapshots_are_made_sent_and_installed(node_result: Remembered[Result]) -> None:
    done = everything(node_result)
    assert min(done[what] for what in ("compactions", "checkpoints sent", "snapshots installed")) > 0


def test_a_snapshot_is_installed_while_members_change_and_the_network_is_parted(
    node_result: Remembered[Result],
) -> None:
    """All three at the same moment: a leader has a change that is not committed, a link is cut, a piece arrives."""
    results = [node_result(seed) for seed in SEEDS]
    assert any(
        result.faults["partition"]
        and result.faults["change amid an install"]
        and result.operations["steps of installs amid a change and a partition"]
        for result in results
    )


def test_the_seeds_of_the_tests_do_what_is_to_be_judged(node_result: Remembered[Result]) -> None:
    done = everything(node_result)
    assert done["transactions"] > done["conditions failed"] > 0
    assert min(done[what] for what in ("renewals", "leases expired", "LEASE_NOT_FOUND")) > 0
    assert min(done[what] for what in ("locks granted", "places in line", "writes under a fence", "STALE_FENCE")) > 0
    assert min(done[what] for what in ("events", "watches overtaken by compaction", "watch streams ended")) > 0
    assert min(done[what] for what in ("versions swept", "reads of what is compacted")) > 0


def test_a_lost_disk_is_refused_and_its_node_replaced(node_result: Remembered[Result]) -> None:
    """Refused, removed, and another node added and promoted."""
    results = [node_result(seed) for seed in SEEDS]
    assert any(result.faults["wiped disk"] and result.operations["other disks refused"] for result in results)
