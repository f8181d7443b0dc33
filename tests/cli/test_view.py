"""What `endpoint status` says when its endpoints are those of several clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import typer

from raftkv.cli.endpoint.status import _described, _row
from raftkv.cli.endpoint.verdict import fail_unless_all_answered
from raftkv.cli.view import leader_of, look
from raftkv.client import AsyncClient, Role, Status, wire
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
