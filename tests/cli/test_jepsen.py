"""`raftkv jepsen` on the command line: what it refuses, what it leaves behind, and what its exit codes say."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from raftkv.checker.history import decode
from raftkv.cli.app import run
from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.workloads import WORKLOADS
from raftkv.testing.toxiproxy import ToxiproxyServer
from tests.cli.processes import interruptible, processes_naming, started

COULD_NOT_RUN = 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--workload regster", "'regster' is none of register, set, append, bank, lock"),
        ("--workload regster", "did you mean 'register'?"),
        ("--workload register,all", "'all' stands alone"),
        ("--workload register,register", "'register' is named twice"),
        ("--workload ,", "'' is none of"),
        ("--nemesis kil", "'kil' is none of isolate-leader, isolate-random"),
        ("--nemesis kil", "did you mean 'kill'?"),
        ("--nemesis isolate-leader:tcp", "it takes blackhole, cut, reset"),
        ("--nemesis ring --nodes 3", "ring"),
        ("--nemesis kill-all,pause-all", "at once"),
        ("--nodes 4", "4"),
        ("--time 0", "--time"),
        ("--serve election-ms", "is not FLAG=VALUE"),
        ("--endpoints 127.0.0.1:1 --nemesis kill", "faults need a cluster of our own"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["jepsen", *arguments.split()]) == COULD_NOT_RUN
    assert said in capsys.readouterr().err


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert run(["jepsen", "--directory", str(tmp_path)]) == COULD_NOT_RUN
    assert "is not an empty directory" in capsys.readouterr().err


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jepsen", "--list", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["workloads"]) == list(WORKLOADS)
    assert list(told["nemeses"]) == list(NEMESES)
    assert run(["jepsen", "--list"]) == 0
    assert "linearizable" in capsys.readouterr().out


def test_without_toxiproxy_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAFTKV_TOXIPROXY", str(tmp_path / "missing"))
    assert run(["jepsen", "--directory", str(tmp_path / "run")]) == COULD_NOT_RUN
    told = capsys.readouterr().err
    assert "could not run" in told
    assert "toxiproxy" in told.lower()
    assert "Traceback" not in told


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--endpoints", "127.0.0.1:1", "--nemesis", "none", "--directory", str(tmp_path / "run")]
    assert run(["jepsen", *arguments]) == COULD_NOT_RUN
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.toxiproxy
def test_interrupted_in_the_middle_it_leaves_no_process_and_keeps_what_it_has(
    tmp_path: Path, toxiproxy_server: ToxiproxyServer
) -> None:
    kept = tmp_path / "run"
    command = ("jepsen", "--nemesis", "pause", "--directory", str(kept), "--time", "600", "--seed", "1")
    with interruptible(), started(tmp_path, *command) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "pause: " in line:  # the fault is on
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err
    assert out == ""
    assert processes_naming(tmp_path) == []
    assert [one for one in tmp_path.iterdir() if one != kept] == []
    results = json.loads((kept / "results.json").read_text())
    assert results["verdict"] == "unknown"
    assert "interrupted" in results["why"][0]
    with (kept / "history.jsonl").open() as file:
        assert decode(file).operations
    assert (kept / "report.html").stat().st_size > 0
