"""Writes at every concern against a cluster, and what the command line says of their answers."""

from __future__ import annotations

import json

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.test_read_levels import stopped

pytestmark = pytest.mark.processes

PUT = json.dumps({"then": [{"put": "w/txn", "value": "1"}]}).encode()


@pytest.mark.usefixtures("cluster")
def test_a_majority_and_more(cli: Cli) -> None:
    assert "," not in cli("put", "w/a", "x").text
    for concern, least in (("majority", 2), ("2", 2), ("all", 3), ("3", 3)):
        put = cli("put", "w/a", "x", "--write", concern)
        assert put.code == 0
        assert put.text.startswith("revision ")
        assert ", committed, on the disks of " in put.text
        told = cli("put", "w/a", "x", "--write", concern, "-o", "json").json
        assert told["revision"]
        receipt = told["receipt"]
        assert receipt["committed"] is receipt["reached"] is True
        assert receipt["durable_on"] >= least
        assert not receipt["token"].endswith("?")
    assert ", token " in cli("put", "w/a", "x", "-v").err.replace(";", ",")
    txn = cli("txn", "--write", "all", "-o", "json", stdin=PUT)
    assert txn.json["receipt"]["durable_on"] == 3
    assert ", committed, on the disks of 3\n" in cli("txn", "--write", "all", stdin=PUT).text
    deleted = cli("del", "w/a", "--write", "all", "-o", "json").json
    assert (deleted["deleted"], deleted["receipt"]["durable_on"]) == (1, 3)


@pytest.mark.usefixtures("cluster")
def test_less_than_a_majority(cli: Cli) -> None:
    for arguments in (("put", "w/b", "x"), ("del", "w/b")):
        told = cli(*arguments, "--write", "leader", "-o", "json")
        assert told.code == 0
        receipt = told.json["receipt"]
        # It may happen to be committed by then; never is more said than that.
        assert receipt["committed"] is (told.json["revision"] is not None)
        assert receipt["committed"] is not receipt["token"].endswith("?")
        line = cli("put", "w/b", "x", "--write", "1").text
        assert ("not " in line and "; token " in line) or line.startswith("revision ")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("put", "k", "v", "--write", "4"), "1 to 3 voters"),
        (("del", "k", "--write", "4"), "1 to 3 voters"),
        (("txn", "--write", "4"), "2 to 3 voters, or majority, all"),
        (("txn", "--write", "leader"), "2 to 3 voters, or majority, all"),
        (("put", "k", "v", "--create", "--write", "leader"), "2 to 3 voters, or majority, all"),
        (("put", "k", "v", "--if-revision", "1", "--write", "1"), "2 to 3 voters, or majority, all"),
        (("put", "k", "v", "--previous", "--write", "1"), "2 to 3 voters, or majority, all"),
        (("put", "k", "v", "--fence", "l:1", "--write", "leader"), "2 to 3 voters, or majority, all"),
        (("del", "k", "--previous", "--write", "leader"), "2 to 3 voters, or majority, all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused_with_the_range(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    refused = cli(*arguments, stdin=PUT)
    assert refused.code == 2
    assert said in refused.error


def test_a_concern_that_is_not_reached_is_no_failure(cli: Cli, cluster: RunningCluster) -> None:
    members = cli("endpoint", "status", "-o", "json").json["members"]
    follower = next(one["id"] for one in members if one["role"] == "follower")
    where = ("--endpoints", next(one["endpoint"] for one in members if one["role"] == "leader"), "--timeout", "1.5")
    with stopped(cluster, follower):
        put = cli("put", "w/c", "v", "--write", "all", *where)
        assert put.code == 0
        assert ", committed, on the disks of 2, 3 were asked for" in put.text
        assert "3 were asked for" in put.err
        receipt = cli("put", "w/c", "v", "--write", "all", "-o", "json", *where).json["receipt"]
        assert {name: receipt[name] for name in ("committed", "reached", "durable_on", "wanted")} == {
            "committed": True, "reached": False, "durable_on": 2, "wanted": 3,
        }  # fmt: skip
        assert cli("get", "w/c", *where).out == b"v"
