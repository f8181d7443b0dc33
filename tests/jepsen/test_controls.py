"""A suite that finds nothing proves nothing: it must find what is broken on purpose, one safeguard at a time.

The nodes are real, with one safeguard less (`raftkv.jepsen.sabotage`). Chance decides whether a run meets what that
is for, so there are a few seeds; the first that finds it ends the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from raftkv.jepsen.results import Judgement
from raftkv.jepsen.runner import Options, Run
from raftkv.jepsen.sabotage import SABOTAGES
from raftkv.jepsen.workloads import WORKLOADS

pytestmark = [pytest.mark.jepsen, pytest.mark.processes, pytest.mark.toxiproxy, pytest.mark.timeout(400)]

SEEDS = 4


@dataclass(frozen=True)
class Control:
    """What is run against a sabotage, and what must be found."""

    sabotage: str
    workloads: str
    nemesis: str
    found: frozenset[str]
    """Names of problems, of which one will do."""
    seconds: float = 10.0
    nodes: int = 3


CONTROLS = [
    # Slow links, so that several ask for votes before any has won; four of five, so that some only vote.
    Control("votes-not-persisted", "register", "slow-link:all,kill:leader", frozenset({"split brain"}), nodes=5),
    Control("reads-without-read-index", "register", "isolate-leader:blackhole", frozenset({"stale read"})),
    Control("unfenced-lock", "lock", "none", frozenset({"fencing order", "lost update"})),
    Control("retries-without-sessions", "sessions", "clients:reset", frozenset({"increment applied twice"})),
    Control("ack-before-fsync", "register,set,sessions", "power", frozenset({"stale read", "lost increment"})),
]


def test_every_sabotage_has_a_control() -> None:
    assert {one.sabotage for one in CONTROLS} == set(SABOTAGES)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda one: one.sabotage)
async def test_the_suite_finds_what_is_broken_on_purpose(control: Control, tmp_path: Path) -> None:
    seen: set[str] = set()
    for seed in range(1, SEEDS + 1):
        directory = tmp_path / str(seed)
        directory.mkdir()
        run = Run(
            Options(
                workloads=[WORKLOADS[name] for name in (*control.workloads.split(","), "probe")],
                nemeses=[one for one in control.nemesis.split(",") if one != "none"],
                nodes=control.nodes,
                seconds=control.seconds,
                rate=100.0,
                seed=seed,
                directory=directory,
                op_timeout_s=1.0,
                sabotage=control.sabotage,
            )
        )
        results = await run.run()
        seen |= {problem.name for _, problem in results.problems}
        if seen & control.found:
            assert results.judgement is Judgement.VIOLATION
            assert "VIOLATION" in (directory / "report.html").read_text()
            return
    pytest.fail(f"{SEEDS} runs with {control.sabotage} found {sorted(seen) or 'nothing'}, not {sorted(control.found)}")
