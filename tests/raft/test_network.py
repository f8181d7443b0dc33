"""Random runs of three and five cores under every fault that a network, a disk and a process can have.

The oracle judges every step; at the end everything heals and the cluster must agree within a bounded time. A run is
decided by its size and its number: `pytest "tests/raft/test_network.py::test_a_random_run[5-17]"` repeats one.

The negative controls switch off one rule at a time: the same runs must then find a violation, or they prove nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from raftkv.invariant import InvariantViolation
from tests.raft import sabotage
from tests.raft.chaos import Chaos
from tests.raft.controls import RULES, Control, with_marks
from tests.raft.oracle import SafetyViolation

EVENTS = 3000
SEEDS = 60


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("size", [3, 5])
def test_a_random_run(size: int, seed: int) -> None:
    chaos = Chaos(size, seed)
    chaos.run(EVENTS)
    chaos.heal_and_converge()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_random_runs_of_other_sizes(size: int) -> None:
    for seed in range(5):
        chaos = Chaos(size, seed)
        chaos.run(EVENTS // 2)
        chaos.heal_and_converge()


def test_the_random_runs_do_what_they_are_for() -> None:
    """A run in which nothing is committed, or nothing fails, proves nothing."""
    total: Counter[str] = Counter()
    for seed in range(10):
        chaos = Chaos(3, seed)
        chaos.run(EVENTS)
        nodes = chaos.network.nodes.values()
        total += chaos.counts
        total["terms with a leader"] += len(chaos.network.oracle.leader_of)
        total["committed"] += len(chaos.network.oracle.committed)
        total["reads confirmed"] += sum(len(node.reads) for node in nodes)
        total["entries overwritten"] += chaos.network.oracle.overwritten
    wanted = {
        "committed": 300,
        "crashes": 50,
        "duplicated": 300,
        "entries overwritten": 10,
        "lost": 300,
        "partitions": 100,
        "reads confirmed": 100,
        "terms with a leader": 40,
        "transfers": 20,
        "writes lost": 10,
    }
    assert {name: total[name] for name in wanted if total[name] < wanted[name]} == {}


def test_a_seed_decides_everything() -> None:
    """Neither the process nor the order of sets (PYTHONHASHSEED) may leak into a run."""
    script = "from tests.raft.chaos import Chaos; c = Chaos(5, 1); c.run(1500); print(c.trace())"
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
    assert len(traces.pop()) > 10_000


@pytest.mark.parametrize(
    "control", with_marks([*RULES, Control(sabotage.reads_share_an_old_round, "C10", seeds=100, slow=True)]), ids=str
)
def test_the_random_runs_notice_that_a_rule_is_off(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.rule(monkeypatch)
    sabotage.without_the_cores_own_checks(monkeypatch)
    with pytest.raises((SafetyViolation, InvariantViolation), match=control.finding):
        run_seeds(control)


def run_seeds(control: Control) -> None:
    for seed in range(control.seeds):
        for size in (3, 5):
            Chaos(size, seed, watch_promises=not control.damage).run(EVENTS)
