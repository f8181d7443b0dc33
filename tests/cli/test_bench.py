"""`raftkv bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.bench.deliveries import Record, judge
from raftkv.cli.bench.operations import key_template
from raftkv.cli.figures import milliseconds, percentile
from raftkv.client import Event, EventKind
from raftkv.errors import ConfigurationError
from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import finished, processes_naming


@pytest.mark.parametrize(
    ("size", "count", "first", "last"),
    [
        (16, 100_000, b"bench/0000000000", b"bench/0000099999"),
        (11, 100_000, b"bench/00000", b"bench/99999"),
        (10, 100_000, b"0000000000", b"0000099999"),
        (5, 100_000, b"00000", b"99999"),
        (1, 1, b"0", b"0"),
    ],
)
def test_keys_have_the_size_that_was_asked_for(size: int, count: int, first: bytes, last: bytes) -> None:
    template = key_template(size, count)
    assert template % 0 == first
    assert template % (count - 1) == last
    assert len(first) == len(last) == size


def test_keys_that_are_too_short_to_differ() -> None:
    with pytest.raises(ConfigurationError, match="at least 5"):
        key_template(4, 100_000)


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [([], 50, None), ([7.0], 99, 7.0), ([1, 2, 3, 4], 50, 2), ([1, 2, 3, 4], 99, 4), (range(1, 101), 99, 99)],
)
def test_percentile(samples: list[float], percent: float, expected: float | None) -> None:
    assert percentile(samples, percent) == expected


def test_milliseconds() -> None:
    assert milliseconds(0.0012345) == 1.23
    assert milliseconds(None) is None


def told(*revisions: int) -> tuple[Event, ...]:
    return tuple(Event(EventKind.PUT, b"k", revision, None, None) for revision in revisions)


def record(*batches: tuple[float, tuple[Event, ...]]) -> Record:
    made = Record()
    for time, batch in batches:
        made.times.append(time)
        made.batches.append(batch)
    return made


def test_deliveries_are_judged() -> None:
    sent_at = {5: 1.0, 7: 1.5, 8: 1.5}
    shared = told(7, 8)
    good = record((0.5, told(4)), (1.25, told(5)), (2.0, shared))  # 4 is not ours
    found = judge([good, good], sent_at)
    assert (found.events, found.lost, found.duplicated) == (6, 0, 0)
    assert [found.percentile_s(percent) for percent in (1, 33, 50, 100)] == [0.25, 0.25, 0.5, 0.5]
    late = record((1.25, told(5)), (4.0, shared))
    assert judge([good, late], sent_at).percentile_s(100) == 2.5
    assert judge([], sent_at).percentile_s(50) is None


@pytest.mark.parametrize(
    ("batches", "lost", "duplicated"),
    [
        ([told(5), told(8)], 1, 0),
        ([], 3, 0),
        ([told(5), told(5, 7), told(8)], 0, 1),
        ([told(5, 5, 7, 8)], 0, 1),
        ([told(5), told(8, 7)], 1, 1),
        ([told(7), told(5), told(8)], 1, 1),
        ([told(5, 7, 8), told(5, 7, 8)], 0, 3),
    ],
    ids=[
        "one missing",
        "all missing",
        "again",
        "twice in a batch",
        "out of order in a batch",
        "out of order",
        "all again",
    ],
)
def test_what_watchers_miss_or_are_told_twice_is_counted(
    batches: list[tuple[Event, ...]], lost: int, duplicated: int
) -> None:
    good = record((2.0, told(5, 7, 8)))
    found = judge([good, record(*((2.0, batch) for batch in batches))], {5: 1.0, 7: 1.0, 8: 1.0})
    assert (found.lost, found.duplicated) == (lost, duplicated)
    assert found.events == 6 - lost == sum(found.histogram.values())


def plausible(figures: dict[str, Any]) -> bool:
    return bool(
        figures["errors"] == figures["elections"] == 0
        and figures["ops_per_s"] > 0
        and 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    )


@pytest.mark.processes
def test_its_own_cluster(tmp_path: Path) -> None:
    result = finished(tmp_path, "bench", "put", "--local", "1", "--total", "2000", "-o", "json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert plausible(figures), figures
    asked = {"operation": "put", "nodes": 1, "total": 2000, "clients": 1, "inflight": 256}
    assert {name: figures[name] for name in asked} == asked
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_a_cluster_that_runs(cli: Cli, cluster: RunningCluster) -> None:
    shape = ("--inflight", "20", "--clients", "2", "--key-size", "20", "--value-size", "5")
    put = cli("bench", "put", "--total", "300", *shape, "-o", "json")
    assert put.code == 0, put.err
    assert plausible(put.json)
    assert (put.json["nodes"], put.json["endpoints"]) == (None, ",".join(cluster.endpoints))
    assert cli("ls", "bench/", "--count").text == "300\n"
    key = cli("ls", "bench/", "--limit", "1", "--values", "-o", "json")
    assert [len(one["key"]) for one in key.json] == [20]
    for flags in ((), ("--read", "local")):
        got = cli("bench", "get", "--total", "300", "-o", "json", *flags)
        assert got.code == 0, got.err
        assert plausible(got.json)
    table = cli("bench", "get", "--total", "100")
    assert table.code == 0
    assert "gets/s" in table.text
    assert "p99" in table.text


@pytest.mark.processes
@pytest.mark.usefixtures("cluster")
def test_several_levels_and_concerns_take_turns(cli: Cli) -> None:
    levels = ("linearizable", "local", "quorum:2")
    get = cli("bench", "get", "--total", "101", "--level", ",".join(levels), "-o", "json")
    assert get.code == 0, get.err
    assert tuple(one["variant"] for one in get.json) == levels
    assert all(plausible(one) and one["total"] == 101 for one in get.json)
    assert [one["worth"] for one in get.json] == ["linearizable", "a state of the past, possibly stale", "linearizable"]
    before = int(cli("ls", "bench/", "--count").text)
    put = cli("bench", "put", "--total", "40", "--key-size", "31", "--write", "leader,majority,all")
    assert put.code == 0, put.err
    lines = put.text.splitlines()
    assert lines[0].startswith("40 puts each, in turns, on 127.0.0.1:")
    assert "VS MAJORITY" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == ["leader", "majority", "all"]
    assert lines[4].count(" x 1.00") == 2
    assert int(cli("ls", "bench/", "--count").text) == before + 120
    alone = cli("bench", "get", "--total", "20", "--level", "local,quorum")
    assert "VS" not in alone.text


@pytest.mark.processes
@pytest.mark.usefixtures("cluster")
def test_a_level_that_no_node_can_serve(cli: Cli) -> None:
    result = cli("bench", "get", "--total", "20", "--level", "linearizable,quorum:4")
    assert result.code == 1
    assert "1 to 3 voters" in result.err


@pytest.mark.processes
def test_transactions_locks_and_watches(cli: Cli, cluster: RunningCluster) -> None:
    txn = cli("bench", "txn", "--total", "200", "--inflight", "20", "--key-size", "20", "-o", "json")
    assert txn.code == 0, txn.err
    assert plausible(txn.json)
    lock = cli("bench", "lock", "--total", "60", "--contenders", "6", "--locks", "2", "--clients", "2", "-o", "json")
    assert lock.code == 0, lock.err
    assert plausible(lock.json)
    assert {name: lock.json[name] for name in ("inflight", "locks", "key_size")} == {
        "inflight": 6, "locks": 2, "key_size": None,
    }  # fmt: skip
    for number in (0, 1):
        state = cli("lock", f"bench/lock/{number}", "--show", "-o", "json").json
        assert state["newest_token"]
        assert not state["contenders"]
    assert "3 contenders over 1 client, 1 lock\n" in cli("bench", "lock", "--total", "9", "--contenders", "3").text
    shape = ("--watchers", "7", "--clients", "2", "--total", "100", "--rate", "400")
    watch = cli("bench", "watch", *shape, "-o", "json")
    assert watch.code == 0, watch.err
    found = watch.json
    assert (found["events"], found["lost"], found["duplicated"]) == (700, 0, 0)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["put_p50_ms"] <= found["put_p99_ms"]
    assert "7 watchers of one prefix" in cli("bench", "watch", *shape).text


@pytest.mark.slow
@pytest.mark.processes
def test_failover(tmp_path: Path) -> None:
    result = finished(tmp_path, "bench", "failover", "--times", "1", "-o", "json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert (figures["nodes"], figures["times"]) == (3, 1)
    assert figures["samples_ms"] == [figures["median_ms"]] == [figures["p95_ms"]] == [figures["max_ms"]]
    assert figures["how"] == "kill"
    assert figures["max_ms"] > 0
    assert processes_naming(tmp_path) == []


@pytest.mark.processes
def test_checkpoint(tmp_path: Path) -> None:
    shape = ("--local", "1", "--keys", "300", "--rate", "200", "--rounds", "2", "--seconds", "0.3")
    result = finished(tmp_path, "bench", "checkpoint", *shape, "-o", "json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    asked = {"nodes": 1, "keys": 300, "value_size": 128, "rate": 200, "rounds": 2, "elections": 0}
    assert {name: figures[name] for name in asked} == asked
    assert len(figures["checkpoint_s"]) == len(figures["longest_delay_ms"]) == 2
    assert 0 < figures["without"]["p50_ms"] <= figures["without"]["p99_ms"] <= figures["without"]["max_ms"]
    for memory in (figures["before"], figures["peak"]):
        assert 0 < memory["anonymous"] < memory["resident"]
    assert processes_naming(tmp_path) == []
