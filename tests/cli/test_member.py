"""raftkv member: what it shows, what it changes, and what it refuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from raftkv.testing.processes import free_port
from tests.cli.cluster_process import RunningCluster, running_cluster
from tests.cli.conftest import Cli, Result, eventually

pytestmark = pytest.mark.processes

NOBODY = "127.0.0.1:1"


@pytest.fixture(scope="module")
def started_mixture() -> Iterator[RunningCluster]:
    with running_cluster(mixed=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_mixture: RunningCluster, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Voters 1, which leads, and 2, witness 3, learner 4; each test but the last leaves the members as they were.

    Nodes 2 and 4 would not miss a leader, or a majority, for half a minute.
    """
    monkeypatch.setenv("RAFTKV_ENDPOINTS", started_mixture.url)
    # It is refused for as long as the one that takes over is behind.
    eventually(lambda: cli("leader", "transfer", "1"), lambda result: result.code == 0)
    return started_mixture


@contextmanager
def asleep(cluster: RunningCluster, node: int) -> Iterator[None]:
    cluster.signal(node, signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.signal(node, signal.SIGCONT)


def members(cli: Cli) -> Any:
    result = cli("member", "list", "-o", "json")
    assert result.code == 0, result.err
    return result.json["members"]


def kinds(result: Result) -> dict[int, str]:
    assert result.code == 0, result.err
    return {member["id"]: member["kind"] for member in result.json["members"]}


FOUNDERS = {1: "voter", 2: "voter", 3: "witness", 4: "learner"}


def test_list(cli: Cli, cluster: RunningCluster) -> None:
    for endpoint in cluster.endpoints:  # each node learns from the others' greetings where clients reach them
        eventually(
            partial(cli, "member", "list", "-o", "json", "--endpoints", endpoint),
            lambda result: result.code == 0 and all(member["client_address"] for member in result.json["members"]),
        )
    assert members(cli) == [
        {
            "id": node,
            "kind": kind,
            "leaving": False,
            "peer_address": cluster.peers[node - 1],
            "client_address": cluster.endpoints[node - 1],
        }
        for node, kind in FOUNDERS.items()
    ]
    table = cli("member", "list", "--endpoints", cluster.endpoints[1]).text.splitlines()
    assert table[0].split() == ["ID", "KIND", "PEER", "ADDRESS", "CLIENT", "ADDRESS"]
    assert [row.split() for row in table[1:]] == [
        [str(node), kind, cluster.peers[node - 1], cluster.endpoints[node - 1]] for node, kind in FOUNDERS.items()
    ]


def test_a_learner_comes_and_goes(cli: Cli, cluster: RunningCluster) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert kinds(cli("member", "add", "5", address, "-o", "json")) == FOUNDERS | {5: "learner"}
    again = cli("member", "add", "5", address)
    assert (again.code, again.error) == (1, "node 5 is a member already (learner)")
    lagging = cli("member", "promote", "5")
    assert lagging.code == 1
    assert lagging.error.startswith("node 5 cannot be promoted yet: it has not answered the leader yet")
    removed = cli("member", "remove", "5")
    assert removed.code == 0
    assert [row.split()[:2] for row in removed.text.splitlines()[1:]] == [
        [str(node), kind] for node, kind in FOUNDERS.items()
    ]


@pytest.mark.parametrize(
    ("command", "code", "complaint"),
    [
        ("member add 1 " + NOBODY, 1, "node 1 is a member already (voter)"),
        ("member add 3 " + NOBODY, 1, "node 3 is a member already (witness)"),
        ("member add 5 nonsense", 2, "peer_address is 'nonsense', not the HOST:PORT"),
        ("member add 0 " + NOBODY, 2, "invalid value for 'ID': Input should be greater than or equal to 1"),
        ("member promote 9", 1, "node 9 is not a member: add it as a learner first"),
        ("member promote 1", 1, "node 1 is a voter already"),
        ("member promote 3", 1, "node 3 is a witness already"),
        ("member promote 4 --remove 4", 1, "node 4 cannot be promoted and removed at once"),
        ("member remove 9", 1, "node 9 is not a member (members: 1, 2, 3, 4)"),
        ("member remove 4 9", 1, "node 9 is not a member (members: 1, 2, 3, 4)"),
        ("member remove 1 2", 1, "the cluster would have no voter left that holds data"),
        ("leader transfer 3", 1, "node 3 is a witness: it holds no data and never leads"),
        ("leader transfer 4", 1, "node 4 is a learner: promote it first"),
        ("leader transfer 9", 1, "node 9 is not a voter of this cluster (voters: 1, 2, 3)"),
    ],
)
def test_bad_input_changes_nothing(cli: Cli, cluster: RunningCluster, command: str, code: int, complaint: str) -> None:
    before = members(cli)
    refused = cli(*command.split())
    assert (refused.code, refused.error[: len(complaint)]) == (code, complaint)
    assert members(cli) == before
    assert cli("endpoint", "status", "-o", "json").json["leader"] == 1


def test_leadership_leaves_a_node_that_is_to_stop_only_if_it_leads(cli: Cli, cluster: RunningCluster) -> None:
    def told_to_leave(node: int) -> Result:
        return cli("leader", "transfer", "--if-leading", "-o", "json", "--endpoints", cluster.endpoints[node - 1])

    assert told_to_leave(2).json["leader_after"] == 1
    left = eventually(lambda: told_to_leave(1), lambda result: result.code == 0)
    assert (left.json["leader_before"], left.json["leader_after"]) == (1, 2)
    assert cli("leader", "transfer", "--if-leading", "--endpoints", NOBODY).code == 5


def test_a_node_that_does_not_answer_is_not_handed_leadership(cli: Cli, cluster: RunningCluster) -> None:
    alive = ("--endpoints", cluster.endpoints[0])
    with asleep(cluster, 2):
        refused = eventually(
            lambda: cli("leader", "transfer", "2", *alive), lambda result: "has not answered" in result.err
        )
        assert (refused.code, refused.error) == (1, "node 2 has not answered the leader for an election timeout")
        assert cli("put", "k", "v", *alive).code == 0, "the one that was asked leads no more"


def test_a_change_while_another_one_is_under_way(cli: Cli, cluster: RunningCluster) -> None:
    """The leader waits for the one other node that has data, up to its own long election timeout."""
    eventually(lambda: cli("leader", "transfer", "2"), lambda result: result.code == 0)
    leader = ("--endpoints", cluster.endpoints[1])
    with asleep(cluster, 1):
        pending = cli("member", "add", "6", NOBODY, "--timeout", "1.5", *leader)
        assert (pending.code, bool(pending.error)) == (6, True)
        refused = cli("member", "add", "7", NOBODY, *leader)
        assert refused.code == 1
        assert refused.error.startswith("another change of the members is under way (entry ")
        assert refused.error.endswith("): try again")
    removed = eventually(lambda: cli("member", "remove", "6", "-o", "json"), lambda result: result.code == 0)
    assert kinds(removed) == FOUNDERS


def test_a_learner_replaces_a_voter_in_one_step(cli: Cli, cluster: RunningCluster) -> None:
    """The last test: nothing undoes it."""
    promoted = eventually(
        lambda: cli("member", "promote", "4", "--remove", "2", "-o", "json"),
        lambda result: "cannot be promoted yet" not in result.err,
    )
    assert kinds(promoted) == {1: "voter", 3: "witness", 4: "voter"}
