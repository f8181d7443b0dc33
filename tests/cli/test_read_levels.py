"""Reads at every level against a cluster, and what the command line says of their answers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raftkv.quorum import Guarantee, in_words
from tests.cli.cluster_process import RunningCluster, running_cluster
from tests.cli.conftest import Cli

pytestmark = pytest.mark.processes

WEAKER = (Guarantee.STALE_PREFIX, Guarantee.AT_LEAST)
"""What a fallback may be: a node that refuses a read may have said how far it is, and that is not older."""


@contextmanager
def stopped(cluster: RunningCluster, *nodes: int) -> Iterator[None]:
    for node in nodes:
        cluster.signal(node, signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            cluster.signal(node, signal.SIGCONT)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("level", "guarantee", "said"),
    [
        ("linearizable", "linearizable", ""),
        ("quorum", "linearizable", ""),
        ("quorum:2", "linearizable", ""),
        ("quorum:3", "linearizable", ""),
        ("quorum:1", "sees_writes_at_w_ge", "raftkv: sees every write acknowledged at W >= 3\n"),
        ("bounded:5s", "bounded", "raftkv: sees every write acknowledged at a majority more than "),
        ("local", "stale_prefix", "raftkv: a state of the past, possibly stale\n"),
    ],
)
def test_each_level_says_what_it_is(cli: Cli, level: str, guarantee: str, said: str) -> None:
    key = f"levels/{level}"
    assert cli("put", key, "value\n").code == 0
    at = cli("get", key, "-o", "json").json["receipt"]["token"]
    seen = cli("get", key, "--read", f"at-least:{at}", "-o", "json").json
    assert (seen["value"], seen["receipt"]["guarantee"]) == ("value\n", "at_least")
    if level != "local":  # which the node that is asked need not have yet
        got = cli("get", key, "--read", level)
        assert (got.code, got.out) == (0, b"value\n")
        assert got.err.startswith(said)
        assert bool(got.err) == bool(said)
        told = cli("get", key, "--read", level, "-o", "json")
        assert told.err == ""
        assert told.json["guarantee"] == told.json["receipt"]["guarantee"] == guarantee
        assert told.json["receipt"]["served_by"] in (1, 2, 3)
    verbose = cli("ls", "levels/", "--read", level, "-v").err
    assert ", token " in verbose
    counted = cli("ls", "levels/", "--read", level, "--count", "-o", "json").json
    assert counted["receipt"]["guarantee"] == guarantee
    listed = cli("ls", "levels/", "--read", level)
    assert listed.code == 0
    assert listed.err.startswith(said)
    assert bool(listed.err) == bool(said)


@pytest.mark.usefixtures("cluster")
def test_that_there_is_no_such_key_is_said_with_what_it_is_worth(cli: Cli) -> None:
    assert cli("get", "nothing").error == "key 'nothing' not found"
    local = cli("get", "nothing", "--read", "local")
    assert (local.code, local.error) == (3, "key 'nothing' not found (a state of the past, possibly stale)")
    few = cli("get", "nothing", "--read", "quorum:1", "-o", "json")
    assert (few.code, few.error) == (3, "key 'nothing' not found (sees every write acknowledged at W >= 3)")


@pytest.mark.usefixtures("cluster")
def test_what_no_cluster_of_three_can_do(cli: Cli) -> None:
    cli("put", "range", "x")
    many = cli("get", "range", "--read", "quorum:4")
    assert many.code == 2
    assert "1 to 3 voters" in many.error
    token = cli("get", "range", "-o", "json").json["receipt"]["token"]
    cluster, term, index = token.split("-")
    future = cli("get", "range", "--read", f"at-least:{cluster}-{term}-{int(index) + 1_000_000}", "--timeout", "2")
    assert future.code in (1, 5)
    assert str(int(index) + 1_000_000) in future.error
    members = cli("endpoint", "status", "-o", "json").json["members"]
    leader = next(one["endpoint"] for one in members if one["role"] == "leader")
    refused = cli(
        "get", "range", "--read", f"at-least:{cluster}-{term}-{int(index) + 1_000_000}", "--endpoints", leader
    )
    assert refused.code == 1
    assert "which nobody has written: entries 0 to " in refused.error
    other = cli("get", "range", "--read", f"at-least:{int(cluster, 16) ^ 1:016x}-{term}-{index}", "--timeout", "2")
    assert other.code == 1
    assert "cluster" in other.error


def test_without_a_majority(cli: Cli) -> None:
    with running_cluster() as cluster:
        one = ("--endpoints", cluster.endpoints[0])
        assert cli("put", "left", "value", *one).code == 0
        token = cli("get", "left", "-o", "json", *one).json["receipt"]["token"]
        assert cli("get", "left", "--read", f"at-least:{token}", *one).out == b"value"
        with stopped(cluster, 2, 3):
            for level, timeout, said in (
                ("linearizable", "0.4", ""),
                ("quorum", "1.5", "QUORUM(2) of 3 voters: 1 answered, and not node 2 ("),
                ("bounded:1ms", "1.5", "BOUNDED(1 ms) is not possible at node 1: of its state, "),
            ):
                refused = cli("get", "left", "--read", level, "--timeout", timeout, *one)
                assert refused.code == 5, level
                assert refused.error
                assert said in refused.error
            for level in ("local", f"at-least:{token}"):
                assert cli("get", "left", "--read", level, "--timeout", "20", *one).out == b"value"
            stale = cli("get", "left", "--fallback", "stale", "--timeout", "1.6", *one)
            assert (stale.code, stale.out) == (0, b"value")
            assert stale.err in (f"raftkv: {in_words(weaker)}\n" for weaker in WEAKER)
            counted = cli("ls", "--count", "--fallback", "stale", "--timeout", "1.6", "-o", "json", *one).json
            assert counted["count"] == 1
            assert counted["receipt"]["guarantee"] in [weaker.name.lower() for weaker in WEAKER]
