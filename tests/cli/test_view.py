"""What `endpoint status` says when its endpoints are those of several clusters."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import cast

import pytest
import typer

from raftkv.cli.endpoint.status import _COLUMNS, _described, _row
from raftkv.cli.endpoint.verdict import fail_unless_all_answered
from raftkv.cli.view import leader_of, look
from raftkv.client import AsyncClient, Failover, Member, PeerProgress, Role, Status, wire
from raftkv.v1 import cluster_pb2


def status(endpoint: str, member: int, cluster: int, *, leads: bool = False, term: int = 1) -> Status:
    empty = wire.to_status(endpoint, cluster_pb2.StatusResponse())
    role = Role.LEADER if leads else Role.FOLLOWER
    return replace(empty, member_id=member, cluster_id=cluster, role=role, term=term)


class Answers:
    """Stands for a client of endpoints that answer so."""

    def __init__(self, *answers: Status) -> None:
        self._answers = answers

    async def statuses(self, *, timeout: float | None = None) -> tuple[Status, ...]:
        return self._answers


async def test_a_node_of_another_cluster_is_not_taken_for_a_member(capsys: pytest.CaptureFixture[str]) -> None:
    """It has the id of a member, and leads its own cluster in a higher term."""
    answers = Answers(status("x:1", 1, 7, leads=True, term=9), status("a:1", 1, 8, leads=True), status("b:1", 2, 8))
    views = await look(cast("AsyncClient", answers), 1.0)
    assert [(view.id, view.endpoint, view.other_cluster) for view in views] == [
        (1, "a:1", 0),
        (2, "b:1", 0),
        (None, "x:1", 7),
    ]
    leader = leader_of(views)
    assert leader is not None
    assert leader.endpoint == "a:1"
    assert _row(views[2])[:3] == (None, "x:1", "other cluster 0000000000000007")
    assert _described(views[2])["cluster_id"] == "0000000000000007"
    with pytest.raises(typer.Exit) as ended:
        fail_unless_all_answered(views)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert "2 of 3 members of one cluster that answer; x:1 is node 1 of another cluster, 0000000000000007, not" in said


async def test_where_as_many_are_of_another_cluster_the_first_endpoint_decides() -> None:
    views = await look(cast("AsyncClient", Answers(status("a:1", 1, 8), status("x:1", 1, 7))), 1.0)
    assert [(view.endpoint, view.other_cluster) for view in views] == [("a:1", 0), ("x:1", 7)]


async def test_a_member_that_lags_says_by_how_much_also_when_it_does_not_answer() -> None:
    leader = replace(
        status("a:1", 1, 8, leads=True),
        last_index=50,
        members=(
            Member(1, "", "a:1"),
            Member(2, "", "b:1"),
            Member(3, "", "c:1"),
            Member(4, "", "d:1"),
            Member(5, "", "e:1"),
        ),
        progress=(
            PeerProgress(2, 50, "replicate", True, lag_s=0.0, connected=True),
            PeerProgress(3, 38, "probe", False, lag_s=1.25),
            PeerProgress(4, 0, "snapshot", True, lag_s=75.4, connected=True),
            PeerProgress(5, 0, "probe", False, lag_s=2.0),
        ),
    )
    views = await look(cast("AsyncClient", Answers(leader, status("b:1", 2, 8))), 0.1)
    lags = [_row(view, leader)[_COLUMNS.index("LAG")] for view in views]
    assert lags == [None, "0", "12, 1250 ms", "50, 75 s", "?, 2000 ms"], "what the leader has not heard is not told"
    assert {len(_row(view, leader)) for view in views} == {len(_COLUMNS)}
    assert _described(views[0])["followers"] == [asdict(one) for one in leader.progress]
    assert [_row(view)[_COLUMNS.index("LAG")] for view in views] == [None] * 5, "nobody leads: nobody knows"


def test_what_a_node_says_of_failovers_and_of_its_http_server_is_decoded() -> None:
    answer = cluster_pb2.StatusResponse(
        http_address="a:7201",
        started_at_ms=5_000,
        failover=cluster_pb2.Failover(term=5, leader=2, duration_ms=312, ended_at_ms=9_500, planned=True),
        progress=[cluster_pb2.PeerProgress(id=2, lag_ms=1250, connected=True)],
    )
    found = wire.to_status("a:1", answer)
    assert found.failover == Failover(term=5, leader=2, duration_s=0.312, ended_at=9.5, planned=True)
    assert (found.http_address, found.started_at) == ("a:7201", 5.0)
    assert (found.progress[0].lag_s, found.progress[0].connected) == (1.25, True)
    assert wire.to_status("a:1", cluster_pb2.StatusResponse()).failover is None
