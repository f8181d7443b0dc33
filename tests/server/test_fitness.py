"""What speaks against leading: several reasons at a time, and what a node makes of them."""

from __future__ import annotations

from raftkv.raft import Fitness
from raftkv.server.fitness import Objections
from tests.server.memory_cluster import MemoryCluster, until


def test_the_gravest_reason_counts_and_is_told_once() -> None:
    told: list[Fitness] = []
    objections = Objections(told.append)
    objections.set("disk", Fitness.FIT)
    objections.set("disk", Fitness.HINDERED)
    objections.set("room", Fitness.HINDERED)
    objections.set("state", Fitness.BARRED)
    assert str(objections) == "disk, room, state"
    objections.set("disk", Fitness.FIT)
    objections.set("state", Fitness.FIT)
    objections.set("room", Fitness.FIT)
    assert told == [Fitness.HINDERED, Fitness.BARRED, Fitness.HINDERED, Fitness.FIT]
    assert str(objections) == ""


async def test_a_leader_with_an_objection_hands_over_and_a_stopping_one_takes_whom_there_is() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        (other, third) = (node for node in cluster.nodes.values() if node is not leader)
        third.node.objections.set("test", Fitness.HINDERED)
        await until(lambda: leader.node.raft.followers()[third.id].hindered)
        leader.node.objections.set("test", Fitness.HINDERED)
        await until(lambda: other.node.is_leader)
        assert await other.node.hand_over(2.0)
