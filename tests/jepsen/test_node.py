"""The program that nodes run in the suite: its clock, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raftkv.errors import RaftKVError
from raftkv.jepsen.levers import LEVERS, LOSSY, PROGRAM, SABOTAGE, Board, Levers
from raftkv.jepsen.node import LeverClock, wall_clock
from raftkv.jepsen.sabotage import SABOTAGES
from raftkv.testing import disk_faults


class TrueClock:
    def __init__(self) -> None:
        self.ms = 1000.0

    def now_ms(self) -> float:
        return self.ms


@pytest.fixture
def levers(tmp_path: Path) -> Levers:
    return Levers(tmp_path / "levers" / "1")


def test_a_clock_that_nobody_touches_is_true(levers: Levers) -> None:
    true = TrueClock()
    clock = LeverClock(Board(levers.directory), true)
    for _ in range(3):
        assert clock.now_ms() == true.ms
        true.ms += 17
    assert levers.clock_ahead_ms == 0
    assert levers.clock_looks == 3


def test_jumps_add_up_and_the_node_shows_that_it_has_seen_them(levers: Levers) -> None:
    true = TrueClock()
    clock = LeverClock(Board(levers.directory), true)
    levers.jump_clock(5000)
    assert clock.now_ms() == 6000
    levers.jump_clock(100)
    true.ms += 10
    assert clock.now_ms() == 6110
    assert levers.clock_ahead_ms == 5100
    with pytest.raises(ValueError, match="never goes back"):
        levers.jump_clock(-1)


def test_a_clock_runs_fast_or_slow_or_not_at_all_and_never_back(levers: Levers) -> None:
    true = TrueClock()
    clock = LeverClock(Board(levers.directory), true)
    shown = [clock.now_ms()]
    for rate in (3.0, 0.5, 0.0, -7.0, 1.0):
        levers.set_clock_rate(rate)
        true.ms += 100
        shown.append(clock.now_ms())
    assert shown == [1000, 1300, 1350, 1350, 1350, 1450]
    assert levers.clock_ahead_ms == -50


def test_the_clock_of_a_node_that_starts_again_begins_true(levers: Levers) -> None:
    levers.jump_clock(5000)
    true = TrueClock()
    assert LeverClock(Board(levers.directory), true).now_ms() == 1000
    assert levers.clock_ahead_ms == 0


def test_the_wall_clock_goes_back_too(levers: Levers) -> None:
    wall = wall_clock(Board(levers.directory), time.time)
    levers.set_wall_clock(-3_600_000)
    assert -3601 < wall() - time.time() < -3599


def test_a_disk_that_cannot_fail_says_so(levers: Levers) -> None:
    levers.environment(lossy=False, failing=False, sabotage="")
    with pytest.raises(RaftKVError, match="without failing disks"):
        _ = levers.disk


def test_rules_of_several_parties_stand_side_by_side(tmp_path: Path) -> None:
    rules = disk_faults.Rules(tmp_path / "faults")
    rules.add("full", "write /wal/ 28")
    rules.add("slow", "sync /wal/ slow=20")
    rules.drop("full")
    assert rules.path.read_text() == "sync /wal/ slow=20\n"
    rules.drop("slow")
    rules.drop("slow")
    assert not rules.path.exists()


def test_where_there_is_no_compiler_disks_cannot_fail(levers: Levers, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_faults.library.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(disk_faults.DiskFaultsUnavailable, match=r"Linux|C compiler"):
        levers.environment(lossy=False, failing=True, sabotage="")


def test_the_environment_says_what_was_asked_for_and_a_node_that_joins_gets_the_same(levers: Levers) -> None:
    found = levers.environment(lossy=True, failing=False, sabotage="unfenced-lock")
    assert found == {LEVERS: str(levers.directory), LOSSY: "1", SABOTAGE: "unfenced-lock"}
    another, its = levers.for_another(4)
    assert another.directory == levers.directory.with_name("4")
    assert its == found | {LEVERS: str(another.directory)}
    assert another.lossy


def run_node(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
    return subprocess.run(
        [*PROGRAM, "--id", "1"], env=clean | environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_an_unknown_sabotage_is_refused_with_those_that_are_known(levers: Levers) -> None:
    ended = run_node(levers.environment(lossy=False, failing=False, sabotage="sleep"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("raftkv: no sabotage is called 'sleep'. Known: votes-not-persisted, ")
    assert all(name in ended.stderr for name in SABOTAGES)
    assert ended.stdout == ""


def test_nobody_runs_it_by_mistake() -> None:
    ended = run_node({})
    assert ended.returncode == 2
    assert "For a node: raftkv serve" in ended.stderr
    assert sys.executable == PROGRAM[0]
