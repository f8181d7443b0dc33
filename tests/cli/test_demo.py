"""`raftkv demo`, whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftkv.cli.demo.report import MIN_WRITES
from tests.cli.processes import finished, processes_naming

pytestmark = pytest.mark.processes


def test_the_demo_proves_what_it_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = finished(tmp_path, "demo", "--seconds", "1.5", "-o", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["nodes"] == 3
    assert report["writes_acked"] == report["writes_acked_before_kill"] + report["writes_acked_after_kill"]
    assert report["writes_acked_before_kill"] >= MIN_WRITES
    assert report["writes_acked_after_kill"] >= MIN_WRITES
    assert (report["writes_lost"], report["writes_repeated"], report["writes_failed"]) == (0, 0, 0)
    assert report["nodes_compared"] == 3
    assert report["leader_before"] != report["leader_after"]
    assert report["terms"][0] < report["terms"][1]
    assert report["state_hash_equal"] is True
    assert report["failover_ms"] > 0
    assert report["problems"] == []
    assert "SIGKILL to the leader" in result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr, "plain lines where there is no terminal"
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
