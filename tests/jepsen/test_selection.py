"""The short selection that every commit passes: five faults, three workloads at once, seeds that do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftkv.checker.history import decode
from raftkv.jepsen.results import Judgement
from raftkv.jepsen.runner import Options, Run
from raftkv.jepsen.workloads import WORKLOADS

pytestmark = [pytest.mark.jepsen, pytest.mark.processes, pytest.mark.toxiproxy, pytest.mark.timeout(300)]

SECONDS = 12.0


@pytest.mark.parametrize("name", ["isolate-leader", "bridge", "one-way", "kill", "pause"])
async def test_what_clients_are_told_under_a_fault(name: str, tmp_path: Path) -> None:
    run = Run(
        Options(
            workloads=[WORKLOADS[one] for one in ("register", "lock", "sessions", "probe")],
            nemeses=[name],
            seconds=SECONDS,
            rate=60.0,
            seed=1,
            directory=tmp_path,
        )
    )
    results = await run.run()
    assert results.judgement is Judgement.VALID, [*map(str, results.problems), *results.why()]
    assert results.proven[name] >= 1
    assert json.loads((tmp_path / "results.json").read_text())["verdict"] == "valid"
    assert "</html>" in (tmp_path / "report.html").read_text()
    with (tmp_path / "history.jsonl").open() as file:
        assert len(decode(file).operations) == len(run.recorder.operations)
