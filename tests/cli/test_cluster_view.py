"""endpoint status, health and hash, and leader transfer."""

from __future__ import annotations

import signal

import pytest

from raftkv.cli.states import states_equal
from raftkv.client import StateHash
from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli


@pytest.mark.processes
def test_status_sees_the_whole_cluster_through_one_endpoint(cli: Cli, cluster: RunningCluster) -> None:
    result = cli("endpoint", "status", "--endpoints", cluster.endpoints[1], "-o", "json")
    assert result.code == 0, result.err
    members = result.json["members"]
    assert [one["id"] for one in members] == [1, 2, 3]
    assert [one["endpoint"] for one in members] == cluster.endpoints
    assert sorted(one["role"] for one in members) == ["follower", "follower", "leader"]
    leader = next(one for one in members if one["role"] == "leader")
    assert result.json["leader"] == leader["id"]
    assert len(leader["followers"]) == 2
    table = cli("endpoint", "status").text.splitlines()
    assert table[0].split()[:4] == ["ID", "ENDPOINT", "ROLE", "LEADER"]
    assert [row.split()[1] for row in table[1:]] == cluster.endpoints
    assert table[0].split()[-4:] == ["LOG", "FREE", "WRITE", "ALARMS"]
    for one in members:
        assert one["disk"]["free_bytes"] > 0
        assert one["disk"]["reserve_bytes"] == 256 << 20
        assert one["disk"]["slowest_write_s"] >= one["disk"]["write_s"] >= 0


@pytest.mark.processes
def test_health(cli: Cli, cluster: RunningCluster) -> None:
    result = cli("endpoint", "health", "-o", "json")
    assert (result.code, result.json["healthy"]) == (0, True)
    assert all(one["read_ms"] > 0 for one in result.json["members"])
    assert [row.split()[1:3] for row in cli("endpoint", "health").text.splitlines()[1:]] == [
        [endpoint, "yes"] for endpoint in cluster.endpoints
    ]


@pytest.mark.processes
def test_a_member_that_is_away_does_not_hide_the_others(cli: Cli, cluster: RunningCluster) -> None:
    follower = next(
        one["id"] for one in cli("endpoint", "status", "-o", "json").json["members"] if one["role"] == "follower"
    )
    cluster.signal(follower, signal.SIGSTOP)
    try:
        for command in ("status", "health", "hash"):
            result = cli("endpoint", command, "--timeout", "1.5", "-o", "json")
            assert result.code == 1
            assert result.json_error["message"].startswith("2 of 3 ")
            assert f"node {follower}: " in result.err
            assert [one["id"] for one in result.json["members"] if one["error"]] == [follower]
    finally:
        cluster.signal(follower, signal.SIGCONT)


@pytest.mark.processes
def test_without_a_majority_nothing_happens_and_the_exit_code_says_so(cli: Cli, cluster: RunningCluster) -> None:
    assert cli("put", "minority", "before").code == 0
    leader = cli("endpoint", "status", "-o", "json").json["leader"]
    followers = [member for member in (1, 2, 3) if member != leader]
    for follower in followers:
        cluster.signal(follower, signal.SIGSTOP)
    try:
        for timeout_s, command in (
            ("1.5", ("put", "minority", "during")),  # until the leader has noticed that it leads nobody
            ("0.4", ("get", "minority")),
            ("0.4", ("del", "minority")),
            ("0.4", ("leader", "transfer")),
        ):
            result = cli(*command, "--timeout", timeout_s)
            assert (result.code, bool(result.error)) == (5, True), command
        alone = ("--endpoints", cluster.endpoints[leader - 1])
        assert cli("get", "minority", "--read", "local", *alone).out == b"before"
        health = cli("endpoint", "health", *alone, "--timeout", "0.4", "-o", "json")
        assert (health.code, health.json["healthy"]) == (5, False)
    finally:
        for follower in followers:
            cluster.signal(follower, signal.SIGCONT)
    assert cli("get", "minority", "--timeout", "20").out == b"before"


@pytest.mark.processes
def test_hash(cli: Cli, cluster: RunningCluster) -> None:
    result = cli("endpoint", "hash", "-o", "json")
    assert (result.code, result.json["equal"]) == (0, True), result.err
    assert len({one["hash"] for one in result.json["members"]}) == 1
    assert result.json["members"][0]["hash"] in cli("endpoint", "hash").text


@pytest.mark.processes
def test_checkpoint(cli: Cli, cluster: RunningCluster) -> None:
    cli("put", "checkpoint", "me")
    result = cli("endpoint", "checkpoint", "-o", "json")
    assert result.code == 0, result.err
    made = [one["checkpoint"] for one in result.json["members"]]
    assert len(made) == 3
    for one in made:
        assert one["index"] > 0 < one["size_bytes"]
        assert one["making"] is False
    rows = cli("endpoint", "checkpoint", "2").text.splitlines()
    assert [row.split()[0] for row in rows] == ["ID", "2"]
    assert cli("endpoint", "checkpoint", "9").code == 2


@pytest.mark.processes
def test_leader_transfer(cli: Cli, cluster: RunningCluster) -> None:
    before = cli("endpoint", "status", "-o", "json").json["leader"]
    target = before % 3 + 1
    done = cli("leader", "transfer", str(target), "-o", "json")
    assert done.code == 0, done.err
    assert (done.json["leader_before"], done.json["leader_after"]) == (before, target)
    again = cli("leader", "transfer", str(target))
    assert again.text == f"node {target} leads, as before (term {done.json['term']})\n"
    somebody = cli("leader", "transfer")
    assert somebody.code == 0
    assert f"leads now, after node {target}" in somebody.text
    nobody = cli("leader", "transfer", "9")
    assert nobody.code == 1
    assert "node 9" in nobody.error


def state(member: int, index: int, digest: bytes) -> StateHash:
    return StateHash(endpoint="h:1", member_id=member, applied_index=index, applied_term=1, hash=digest)


@pytest.mark.parametrize(
    ("states", "equal"),
    [
        ([], None),
        ([state(1, 5, b"a"), state(2, 5, b"a")], True),
        ([state(1, 5, b"a"), state(2, 5, b"b")], False),
        ([state(1, 5, b"a"), state(2, 6, b"b")], None),
        ([state(1, 5, b"a"), state(2, 6, b"a"), state(3, 6, b"b")], False),
    ],
)
def test_states_are_compared_at_one_index(states: list[StateHash], equal: bool | None) -> None:
    assert states_equal(states) is equal
