"""`raftkv drill`: what it refuses, what it tells, and that it puts right what it did."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from raftkv.client import Client
from raftkv.drill.load import PREFIX
from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import finished, interruptible, processes_naming, started
from tests.drill.fake import FakeClient, FakeCluster

FAST = ("--rate", "2000")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster in memory, to which every client connects."""
    cluster = FakeCluster()
    monkeypatch.setattr("raftkv.drill.drill.LOOK_S", 0.0)  # it does not get any better
    monkeypatch.setattr("raftkv.client.AsyncClient", lambda *_, **__: FakeClient(cluster))
    return cluster


def test_a_transfer_is_measured_and_leaves_nothing(cli: Cli, fake: FakeCluster, tmp_path: Path) -> None:
    page = tmp_path / "drill.html"
    result = cli("drill", "--yes", "--times", "2", "--report", str(page), "-o", "json", *FAST)
    assert result.code == 0, result.err
    assert result.json["how"] == "transfer", "the gentlest is the default"
    assert result.json["passed"] is True
    assert result.json["rpo"] == 0
    assert [(one["old_leader"], one["new_leader"]) for one in result.json["rounds"]] == [(1, 2), (2, 3)]
    assert result.json["writes_acknowledged"] >= 200
    assert fake.pairs == {}
    assert "ask node 1 to hand leadership over; nothing stops" in result.err
    assert page.read_text().count("<svg") == 4


def test_the_table(cli: Cli, fake: FakeCluster) -> None:
    result = cli("drill", "--yes", *FAST)
    assert result.code == 0, result.err
    heads = "ROUND LEADER TERM DETECTION ELECTION FIRST WRITE RTO MTTR ACKNOWLEDGED FAILED UNKNOWN"
    assert result.text.splitlines()[0].split() == heads.split()
    assert "1 -> 2" in result.text.splitlines()[1]
    assert "passed" in result.text.splitlines()[-1]


def test_a_lost_write_is_exit_code_1(cli: Cli, fake: FakeCluster) -> None:
    fake.loses = 1
    result = cli("drill", "--yes", "-o", "json", *FAST)
    assert result.code == 1
    assert result.json["rpo"] == 1
    assert "1 acknowledged writes are lost" in json.loads(result.err.splitlines()[-1])["error"]["message"]
    assert fake.pairs == {}


def test_a_cluster_that_does_not_elect_is_exit_code_1(cli: Cli, fake: FakeCluster) -> None:
    fake.stuck = True
    result = cli("drill", "--yes", "--timeout", "1", "-o", "json", *FAST)
    assert result.code == 1
    assert "no new leader was elected" in " ".join(result.json["problems"])


def _without_leader(cluster: FakeCluster) -> None:
    cluster.leader = 0


def _without_node(cluster: FakeCluster) -> None:
    cluster.down = {3}


def _unreachable(cluster: FakeCluster) -> None:
    cluster.down = {1, 2, 3}


def _lagging(cluster: FakeCluster) -> None:
    cluster.lag = 101


def _changing(cluster: FakeCluster) -> None:
    cluster.changing = True


@pytest.mark.parametrize(
    ("trouble", "code", "reason"),
    [
        (_without_leader, 5, "there is no leader"),
        (_without_node, 5, "voter 3 does not answer: 127.0.0.1:3: refused"),
        (_unreachable, 5, "no endpoint answers"),
        (_lagging, 1, "no follower has caught up"),
        (FakeCluster.raise_alarm, 1, "node 1 raises SLOW_DISK"),
        (_changing, 1, "a change of members is under way"),
    ],
)
def test_a_cluster_that_is_not_fit_is_left_alone(
    cli: Cli, fake: FakeCluster, trouble: object, code: int, reason: str
) -> None:
    assert callable(trouble)
    trouble(fake)
    result = cli("drill", "--yes", *FAST)
    assert result.code == code
    assert reason in result.error
    assert (fake.transfers, fake.pairs) == (0, {})


def test_without_a_terminal_it_asks_for_yes(cli: Cli, fake: FakeCluster) -> None:
    result = cli("drill", *FAST)
    assert result.code == 2
    assert "--yes is needed where nobody can be asked" in result.err
    assert (fake.transfers, fake.pairs) == (0, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kill", "--pause"), "one of --kill, --transfer and --pause at a time"),
        (("--report", "drill.png"), "drill.png does not end in .html"),
        (("--report", "no-such-place/drill.html"), "there is no such directory"),
        (("--compose", "no-such.yml"), "no such file"),
        (("--local", "3", "--compose", "c.yml"), "there is no --compose file to it"),
        (("--local", "2"), "greater than or equal to 3"),
        (("--times", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    result = cli("drill", "--yes", *arguments)
    assert result.code == 2
    assert message in result.error


def test_what_is_not_a_node_of_ours_is_not_killed(cli: Cli, fake: FakeCluster) -> None:
    result = cli("drill", "--kill", "--yes", *FAST)
    assert result.code == 2
    assert "no process of this user listens on port 1" in result.error
    assert fake.pairs == {}


@pytest.mark.jepsen
@pytest.mark.processes
def test_a_cluster_of_its_own_is_really_killed(tmp_path: Path) -> None:
    result = finished(tmp_path, "drill", "--local", "3", "--kill", "--times", "1", "-o", "json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["rpo"] == 0
    assert told["writes_acknowledged"] >= 100
    (one,) = told["rounds"]
    assert one["old_leader"] != one["new_leader"]
    assert 0 < one["detection_ms"] <= one["mttr_ms"]
    assert one["recovered"] is True
    assert "SIGKILL to node" in result.stderr
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_ctrl_c_in_a_pause_lets_the_node_go_on_and_sweeps_up(tmp_path: Path, cluster: RunningCluster) -> None:
    with interruptible(), started(tmp_path, "drill", "--pause", "--yes", "--endpoints", cluster.url) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 1 of 1: SIGSTOP to node" in line:
                break
        paused = psutil.Process(int(line.split("process ")[1].split(":")[0]))
        assert paused.pid in cluster.pids
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert paused.status() != psutil.STATUS_STOPPED
    assert "putting right" in err
    assert "Traceback" not in err
    assert out == ""
    with Client(cluster.url) as client:
        assert client.prefix(PREFIX).count == 0
