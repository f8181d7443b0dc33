"""Nemeses of clocks, disks, power, members and checkpoints on a real cluster: begun, proven, ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from raftkv.client import MemberKind
from raftkv.errors import RaftKVError
from raftkv.jepsen import testbed as beds
from raftkv.jepsen.nemeses import create
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed, TestbedOptions
from raftkv.testing.disk_faults import why_unavailable
from raftkv.testing.toxiproxy import ToxiproxyServer

pytestmark = [
    pytest.mark.toxiproxy,
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(why_unavailable() != "", reason=f"NO SYSTEM NEMESES WERE TESTED: {why_unavailable()}"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own_bed(
    toxiproxy_server: ToxiproxyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Testbed]:
    """Three nodes on disks that forget and fail, under constant writes."""
    options = TestbedOptions(nodes=3, directory=tmp_path_factory.mktemp("system"), lossy_disks=True, failing_disks=True)
    async with beds.testbed(options) as bed:
        writer = asyncio.create_task(keep_writing(bed))
        yield bed
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer


async def keep_writing(bed: Testbed) -> None:
    number = 0
    while True:
        number += 1
        with contextlib.suppress(RaftKVError):
            await bed.admin.put(f"k{number % 10}", str(number), timeout=1.0)
        await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="module")
async def system(own_bed: Testbed) -> Testbed:
    await own_bed.leader()
    return own_bed


async def never_begun(bed: Testbed, name: str, seed: int = 1) -> Nemesis:
    """Return a nemesis that proves nothing, and can be ended all the same."""
    nemesis = create(name, bed, random.Random(seed))
    await nemesis.end()
    with pytest.raises(FaultNotProven):
        await nemesis.prove()
    return nemesis


async def works(bed: Testbed) -> None:
    """What is written can be read, and all nodes are up."""
    value = str(random.random())
    await bed.admin.put("works", value, timeout=30.0)
    pair = await bed.admin.get("works", timeout=30.0)
    assert pair is not None
    assert pair.value == value.encode()
    assert all(node.running for node in bed.cluster.nodes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clock-jump", r"clocks jump: of nodes \d by \d+\.\d\d s"),
        ("clock-strobe", r"clocks go now fast, now slowly: of nodes \d"),
        ("disk-full", r"node \d(, who leads,)? has a full disk"),
        ("disk-slow", r"has a slow disk: a flush takes \d+ ms"),
        ("power", r"nodes \d \d( \d)? lose their power, and \d+ bytes that were not synced"),
        ("checkpoint", r"nodes \d.* make checkpoints"),
        ("install", r"node \d is (killed|cut off) until the others have forgotten what it needs next, entry \d+"),
    ],
)
async def test_a_fault_is_proven_and_leaves_nothing_behind(system: Testbed, name: str, said: str) -> None:
    nemesis = await never_begun(system, name)
    words = await nemesis.begin()
    assert re.match(said, words) or re.search(said, words), words
    await nemesis.prove()
    await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not system.down
    await works(system)
    with pytest.raises(FaultNotProven):
        await nemesis.prove()


async def test_a_clock_that_does_not_move_proves_nothing(system: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.jepsen.nemeses.clock.PROOF_S", 0.3)
    for name, lever in (("clock-jump", "jump_clock"), ("clock-strobe", "set_clock_rate")):
        with monkeypatch.context() as patch:
            patch.setattr(f"raftkv.jepsen.levers.Levers.{lever}", lambda *_: None)
            if name == "clock-strobe":
                patch.setattr("raftkv.jepsen.levers.Levers.jump_clock", lambda *_: None)
            nemesis = create(name, system, random.Random(2))
            await nemesis.begin()
            with pytest.raises(FaultNotProven):
                await nemesis.prove()
            await nemesis.end()


async def test_a_power_loss_is_a_boot_of_the_machine(system: Testbed) -> None:
    marks = {node.id: len(node.log()) for node in system.cluster.nodes}
    nemesis = create("power", system, random.Random(3))
    await nemesis.begin()
    struck = sorted(system.down)
    assert len(struck) >= 2
    await nemesis.end()
    for number in struck:
        assert "the machine stopped uncleanly" in system.node(number).log()[marks[number] :]
    await works(system)


@pytest.mark.parametrize(("seed", "replaced"), [(1, True), (2, False)])
async def test_a_node_joins_and_leaves(system: Testbed, seed: int, replaced: bool) -> None:
    rng = random.Random(seed)
    assert (rng.random() < 0.5) is replaced
    before = {node.id for node in system.cluster.nodes}
    nemesis = await never_begun(system, "membership", seed)
    words = await nemesis.begin()
    assert ("takes its place" in words) is replaced
    await nemesis.prove()
    members = {one.id: one.kind for one in await system.admin.members()}
    (new,) = members.keys() - before
    assert members[new] is MemberKind.VOTER
    leader = await system.leader()
    dialled = system.levers[leader].directory / "dial"
    assert system.links.dial_address(leader, new) in dialled.read_text(), "it is reached through a proxy"
    await nemesis.end()
    await nemesis.end()
    assert {one.id for one in await system.admin.members()} == before
    assert {node.id for node in system.cluster.nodes} == before
    assert set(system.links.nodes) == before
    await works(system)


async def test_a_partition_strikes_a_node_that_has_joined(system: Testbed) -> None:
    """Those that were there before dial it through its proxies: nothing goes around a fault."""
    nemesis = create("membership", system, random.Random(2))
    await nemesis.begin()
    new = max(node.id for node in system.cluster.nodes)
    await system.links.isolate(new)
    status = await system.admin.status(system.node(new).client_address)
    async with asyncio.timeout(20):
        while status.leader_id != 0:
            await asyncio.sleep(0.05)
            status = await system.admin.status(system.node(new).client_address)
    await system.links.heal()
    await nemesis.end()
    await works(system)


async def test_a_node_that_lost_its_disk_joins_again_under_another_id(system: Testbed) -> None:
    """Last: the old id is spent."""
    before = {node.id for node in system.cluster.nodes}
    nemesis = await never_begun(system, "wipe")
    words = await nemesis.begin()
    found = re.fullmatch(r"node (\d) loses its data, and joins again as node (\d+)", words)
    assert found, words
    old, new = map(int, found.groups())
    await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    members = {one.id: one.kind for one in await system.admin.members()}
    assert set(members) == before - {old} | {new}
    assert members[new] is MemberKind.VOTER
    assert {node.id for node in system.cluster.nodes} == set(members)
    assert system.down == {old}
    pair = await system.admin.get("works")
    assert pair is not None
    system.down.clear()
    for number in before - {old}:  # a founder starts again although another one is gone
        await system.node(number).restart()
    await works(system)
