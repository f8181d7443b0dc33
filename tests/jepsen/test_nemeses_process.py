"""Nemeses of processes on a real cluster: begun, proven, ended, and not proven when they are not on."""

from __future__ import annotations

import os
import random
import re
import signal

import pytest

from raftkv.jepsen.nemeses import create, targets
from raftkv.jepsen.nemeses.process import process_state
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import ClusterError, NodeProcess
from tests.integration.waiting import until
from tests.jepsen.conftest import left_on

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


def made(bed: Testbed, name: str, seed: int = 1) -> Nemesis:
    return create(name, bed, random.Random(seed))


async def test_the_leader_is_killed_and_started_again(bed: Testbed) -> None:
    leader = await bed.leader()
    nemesis = made(bed, "kill:leader")
    await nemesis.end()
    with pytest.raises(FaultNotProven, match="no node was there"):
        await nemesis.prove()
    assert await nemesis.begin() == f"node {leader}, who leads, is killed"
    await nemesis.prove()
    assert bed.down == {leader}
    await bed.node(leader).start()
    with pytest.raises(FaultNotProven, match=f"node {leader} runs"):
        await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)


async def test_a_follower_is_killed_while_somebody_else_takes_its_port(bed: Testbed) -> None:
    leader = await bed.leader()
    nemesis = made(bed, "kill:follower")
    await nemesis.begin()
    (killed,) = bed.down
    assert killed != leader
    node = bed.node(killed)
    address, node.client_address = node.client_address, bed.node(leader).client_address
    with pytest.raises(FaultNotProven, match="has no process, but"):
        await nemesis.prove()
    node.client_address = address
    await nemesis.prove()
    await nemesis.end()
    assert not await left_on(bed)


async def test_two_never_take_the_same_node(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "LEADER_S", 0.1)  # soon nobody will be found to lead, which must not hold them up
    first, second, third = made(bed, "kill:leader"), made(bed, "pause:leader"), made(bed, "kill-all")
    await first.begin()
    await second.begin()
    await third.begin()
    assert bed.down == {1, 2, 3}
    for nemesis in (first, second, third):
        await nemesis.prove()
    fourth = made(bed, "kill")
    assert "all are down" in await fourth.begin()
    with pytest.raises(FaultNotProven, match="no node was there"):
        await fourth.prove()
    await fourth.end()
    await second.end()
    assert len(bed.down) == 2
    await first.prove()
    await third.prove()
    await third.end()
    await first.prove()
    await first.end()
    assert not await left_on(bed)


async def test_a_node_is_stopped_and_goes_on(bed: Testbed) -> None:
    nemesis = made(bed, "pause")
    await nemesis.end()
    await nemesis.begin()
    await nemesis.prove()
    (stopped,) = bed.down
    pid = bed.node(stopped).pid
    os.kill(pid, signal.SIGCONT)
    await until("it goes on", lambda: process_state(pid) != "T")
    with pytest.raises(FaultNotProven, match="not stopped"):
        await nemesis.prove()
    bed.node(stopped).pause()
    await until("it is stopped", lambda: process_state(pid) == "T")
    await nemesis.prove()
    await bed.node(stopped).kill()
    with pytest.raises(FaultNotProven, match="no process"):
        await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)


async def test_all_are_stopped_and_go_on(bed: Testbed) -> None:
    before = {node.pid for node in bed.cluster.nodes}
    nemesis = made(bed, "pause-all")
    assert await nemesis.begin() == "nodes 1 2 3 are stopped"
    await nemesis.prove()
    await nemesis.end()
    assert {node.pid for node in bed.cluster.nodes} == before
    assert not await left_on(bed)


@pytest.mark.parametrize(
    ("name", "said", "restarted"),
    [
        ("restart:leader", "node {leader}, who leads, is restarted", 1),
        ("restart-all", "nodes 1 2 3 are restarted", 3),
        ("rolling-restart", r"nodes \d \d \d are restarted one by one", 3),
    ],
)
async def test_nodes_are_restarted(bed: Testbed, name: str, said: str, restarted: int) -> None:
    leader = await bed.leader()
    before = {node.id: node.pid for node in bed.cluster.nodes}
    nemesis = made(bed, name)
    await nemesis.end()
    with pytest.raises(FaultNotProven, match="no node was there"):
        await nemesis.prove()
    words = await nemesis.begin()
    assert re.fullmatch(said.format(leader=leader), words), words
    await nemesis.prove()
    assert sum(node.pid != before[node.id] for node in bed.cluster.nodes) == restarted
    await nemesis.end()
    assert not await left_on(bed)


async def test_a_restart_that_did_not_happen_is_not_proven(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: NodeProcess) -> int:
        return 0

    nemesis = made(bed, "restart")
    with monkeypatch.context() as idle:
        idle.setattr(NodeProcess, "stop", nothing)
        idle.setattr(NodeProcess, "start", nothing)
        await nemesis.begin()
    with pytest.raises(FaultNotProven, match="is the process that it was"):
        await nemesis.prove()
    await nemesis.end()


async def test_a_begin_that_fails_midway_is_made_good(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: NodeProcess) -> None:
        raise ClusterError("it does not start")

    nemesis = made(bed, "restart")
    with monkeypatch.context() as broken:
        broken.setattr(NodeProcess, "start", fails)
        with pytest.raises(ClusterError):
            await nemesis.begin()
    (struck,) = bed.down
    assert not bed.node(struck).running
    await nemesis.end()
    assert not await left_on(bed)


async def test_a_node_that_left_the_cluster_meanwhile_is_not_brought_back(bed: Testbed) -> None:
    nemesis = made(bed, "kill:follower")
    await nemesis.begin()
    (killed,) = bed.down
    node = bed.node(killed)
    place = bed.cluster.nodes.index(node)
    bed.cluster.nodes.remove(node)
    await nemesis.end()
    assert not node.running
    assert not bed.down
    bed.cluster.nodes.insert(place, node)
    await node.start()


async def test_a_node_that_was_restarted_belongs_to_others_again(bed: Testbed) -> None:
    """Who kills it then brings it back; the end of the restart does not."""
    restart, kill = made(bed, "restart:leader"), made(bed, "kill:follower", seed=2)
    await restart.begin()
    assert not bed.down
    await kill.begin()
    await restart.end()
    await kill.prove()
    await kill.end()
    assert not await left_on(bed)
