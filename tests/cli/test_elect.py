"""`raftkv elect`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import interruptible, started

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]


def test_one_leads_after_the_other(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    nobody = cli("elect", "elect/a", "--leader")
    assert (nobody.code, nobody.error) == (3, "nobody leads 'elect/a'")
    where = ("--endpoints", cluster.url)
    with interruptible(), started(tmp_path, "elect", "elect/a", "--observe", "-o", "json", *where) as observer:
        assert observer.stdout is not None
        assert json.loads(observer.stdout.readline()) is None
        with started(tmp_path, "elect", "elect/a", "host-1:8000", *where) as leader:
            assert leader.stdout is not None
            elected = leader.stdout.readline()
            assert elected.startswith("elected, token ")
            seen = json.loads(observer.stdout.readline())
            assert (seen["value"], seen["token"]) == ("host-1:8000", int(elected.split()[-1]))
            assert cli("elect", "elect/a", "--leader").text == "host-1:8000\n"
            assert cli("elect", "elect/a", "--leader", "-o", "json").json["token"] == seen["token"]
            assert cli("elect", "elect/a", "host-2", "--no-wait").code == 4
            leader.send_signal(signal.SIGINT)
            out, err = leader.communicate(timeout=60)
            assert (leader.returncode, out, err) == (130, "", "")
        assert json.loads(observer.stdout.readline()) is None
        assert cli("elect", "elect/a", "host-2", "-o", "json", "--", "true").code == 0
        assert json.loads(observer.stdout.readline())["value"] == "host-2"
        assert json.loads(observer.stdout.readline()) is None
        observer.send_signal(signal.SIGINT)
        out, err = observer.communicate(timeout=60)
    assert (observer.returncode, out, err) == (130, "", "")


def test_a_leader_runs_its_command(cli: Cli, tmp_path: Path) -> None:
    found = tmp_path / "found"
    done = cli(
        "elect", "elect/b", "v", "--", "sh", "-c", f'echo "$RAFTKV_LOCK $RAFTKV_FENCING_TOKEN" > {found}; exit 3'
    )
    name, token = found.read_text().split()
    assert (done.code, done.text, done.err) == (3, "", f"raftkv: elected, token {token}\n")
    assert name == "elect/b"
    assert cli("elect", "elect/b", "--leader").code == 3
