"""When a run has shown something, and when it has not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import Problem, Verdict, judged, together, undecided
from raftkv.jepsen.matrix import Cell, line, table, whole_matrix, worst
from raftkv.jepsen.results import Judgement, Results, Tally, tally

GOOD = judged(100, [])
PROBLEM = Problem(name="stale read", text="read 1 after 2")


def results(*, workload: Tally | None = None, cluster: Verdict | None = GOOD, proven: int = 1) -> Results:
    found = Results(seed=1, command="raftkv jepsen", nodes=3, seconds=10.0, began="2026-11-21", nemeses=("kill",))
    found.workloads["register"] = workload or a_tally()
    found.cluster = cluster
    found.leaders = 2
    found.begun, found.proven = Counter(kill=2), Counter(kill=proven)
    return found


def a_tally(ok: int = 100, verdict: Verdict = GOOD) -> Tally:
    missing = () if ok >= 50 else (f"write was done {ok} times, 50 are the least to show something",)
    return Tally(ok=ok, failed=1, unknown=2, missing=missing, verdict=verdict)


def test_a_run_with_enough_operations_faults_and_no_problem_is_valid() -> None:
    assert results().judgement is Judgement.VALID
    assert results().why() == []


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (results(workload=a_tally(ok=49)), "register: write was done 49 times, 50 are the least"),
        (results(proven=0), "nemesis kill never fired"),
        (results(workload=a_tally(verdict=undecided(10, "out of time"))), "register: out of time"),
        (replace(results(), interrupted="interrupted"), "interrupted"),
        (replace(results(), leaders=0), "no leader was ever seen"),
    ],
)
def test_a_run_that_shows_nothing_is_unknown_and_says_why(run: Results, why: str) -> None:
    assert run.judgement is Judgement.UNKNOWN
    assert why in "; ".join(run.why())


def test_a_cluster_that_was_not_looked_at_is_not_valid() -> None:
    assert results(cluster=None).judgement is Judgement.UNKNOWN


@pytest.mark.parametrize(
    "run",
    [
        results(workload=a_tally(verdict=judged(100, [PROBLEM]))),
        results(cluster=judged(0, [PROBLEM])),
        results(workload=a_tally(ok=1, verdict=undecided(10, "out of time", [PROBLEM])), proven=0),
    ],
)
def test_a_violation_outweighs_all_that_is_unknown(run: Results) -> None:
    assert run.judgement is Judgement.VIOLATION
    assert run.as_json()["verdict"] == "violation"


def test_verdicts_together() -> None:
    assert together(5, GOOD, GOOD).valid is True
    assert together(5, GOOD, undecided(1, "slow")) == Verdict(valid=None, checked=5, why="slow")
    assert together(5, undecided(1, "slow"), judged(1, [PROBLEM])).valid is False


def test_operations_are_counted_by_outcome() -> None:
    operations = [Operation(process=0, f="read", outcome=one, began=0, ended=1) for one in Outcome for _ in range(2)]
    found = tally(operations[:5], Counter(read=2), {"read": 2, "write": 3}, GOOD)
    assert (found.ok, found.failed, found.unknown) == (2, 2, 1)
    assert found.missing == ("write was done 0 times, 3 are the least to show something",)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["valid", "valid"], 0),
        (["valid", "unknown"], 3),
        (["unknown", "could not run"], 2),
        (["could not run", "violation", "unknown"], 1),
        ([], 0),
    ],
)
def test_the_matrix_is_as_good_as_its_worst_run(found: list[str], code: int) -> None:
    assert worst(found) == code


def test_the_table_has_a_row_for_each_run_and_sums_up() -> None:
    bad = results(workload=a_tally(verdict=judged(100, [PROBLEM])))
    text = table([line(Cell("kill"), results()), line(Cell("pause", 5), bad)])
    assert "| kill | 3 | 1 | - | 100 | 2 | 102 | valid |" in text
    assert "| pause | 5 | 1 | - | 100 **violation** | 2 | 102 | violation |" in text
    assert "204 checked operations, 2 proven faults, 2 runs" in text


def test_the_whole_matrix_has_every_nemesis_once_for_three_nodes_and_again_for_five_where_it_matters() -> None:
    cells = whole_matrix()
    assert len(cells) == len(set(cells)) > 30
    assert Cell("ring", 5) in cells
    assert Cell("ring", 3) not in cells
