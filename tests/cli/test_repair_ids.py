"""Which id and role a node gets that `raftkv repair` brings back from its peers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.cli.repair_node import _let_in, _planned
from raftkv.client import AsyncClient, Member, MemberKind
from raftkv.errors import FailedPrecondition
from raftkv.raft import NodeId
from raftkv.server.replacement import MemberRole, Replacement, read_replacement
from raftkv.storage.data_dir import Identity
from raftkv.storage.files import OsFileSystem

ADDRESS = "127.0.0.1:7103"


class Cluster:
    """A client of a cluster that node 3 is to come back to."""

    def __init__(self) -> None:
        self.members = {node: f"127.0.0.1:710{node}" for node in (1, 2, 3)}
        self.refusals: list[FailedPrecondition] = []
        self.lost = False
        """An attempt takes effect, and its answer is lost: the client tries again, and is refused."""
        self.asked: list[int] = []

    async def status(self) -> Any:
        members = tuple(Member(node, address, "") for node, address in self.members.items())
        return SimpleNamespace(leader_id=1, member_id=1, leader_address="", members=members)

    async def replace_member(self, old: int, new: int, address: str, *, witness: bool) -> None:
        self.asked.append(new)
        if self.refusals:
            raise self.refusals.pop(0)
        del self.members[old]
        self.members[new] = address
        if self.lost:
            raise FailedPrecondition("in any words", number=new)


async def let_in(cluster: Cluster, path: Path) -> Replacement:
    plan = Replacement(
        cluster_id=1,
        old=NodeId(3),
        new=NodeId(4),
        role=MemberRole.VOTER,
        peer_address=ADDRESS,
        replaces=(NodeId(3),),
        aside=path / "aside",
    )
    return await _let_in(cast(AsyncClient, cluster), await cluster.status(), plan, OsFileSystem(), path)


async def test_an_id_that_is_spent_is_passed_over_whatever_the_refusal_says(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.refusals = [FailedPrecondition("in any words", number=4)]
    plan = await let_in(cluster, tmp_path)
    assert (plan.new, cluster.asked, cluster.members[5]) == (5, [4, 5], ADDRESS)
    assert read_replacement(OsFileSystem(), tmp_path) == plan


async def test_an_id_that_an_earlier_attempt_got_in_is_kept(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.lost = True
    assert (await let_in(cluster, tmp_path)).new == 4
    assert cluster.asked == [4]


@pytest.mark.parametrize("number", [0, 9])
async def test_any_other_refusal_ends_it(tmp_path: Path, number: int) -> None:
    cluster = Cluster()
    cluster.refusals = [FailedPrecondition("node 4: an id is used once, and is a member already", number=number)]
    with pytest.raises(FailedPrecondition):
        await let_in(cluster, tmp_path)
    assert cluster.asked == [4]


@pytest.mark.parametrize(
    ("kind", "promote", "role"),
    [
        (MemberKind.LEARNER, True, MemberRole.VOTER),
        (MemberKind.LEARNER, False, MemberRole.LEARNER),
        (MemberKind.VOTER, True, MemberRole.VOTER),
        (MemberKind.WITNESS, False, MemberRole.WITNESS),
    ],
)
def test_a_second_repair_before_the_first_start_keeps_the_vote(
    tmp_path: Path, kind: MemberKind, promote: bool, role: MemberRole
) -> None:
    """Node 4 came in the place of voter 3 as a learner, and was to be promoted once it had been started."""
    members = (Member(1, "h:1", ""), Member(2, "h:2", ""), Member(4, ADDRESS, "", kind))
    identity = Identity(
        cluster_id=1, node_id=NodeId(4), members={}, created_at=0.0, replaces=(NodeId(3),), promote=promote
    )
    status: Any = SimpleNamespace(cluster_id=1, members=members)
    plan = _planned(tmp_path, status, NodeId(4), identity)
    assert (plan.old, plan.new, plan.role, plan.replaces) == (4, 5, role, (3, 4))
