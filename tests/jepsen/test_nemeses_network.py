"""Nemeses of links on a real cluster: begun, proven, ended, and not proven when they are not on."""

from __future__ import annotations

import random
import re

import pytest

from raftkv.jepsen.nemeses import combination, create
from raftkv.jepsen.nemeses.links import LinkNemesis
from raftkv.jepsen.nemeses.pace import SlowLink
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.links import CLIENTS, Probe, probe
from raftkv.testing.toxiproxy import HEALTHY, ToxiproxyError
from tests.jepsen.conftest import left_on

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

LINKS = [(a, b) for a in (CLIENTS, 1, 2, 3) for b in (1, 2, 3) if a != b]


def made(bed: Testbed, name: str, seed: int = 1) -> Nemesis:
    return create(name, bed, random.Random(seed))


async def heal_behind_its_back(bed: Testbed) -> None:
    """Bring the proxies into order without telling those who broke them."""
    api = bed.links._server.api
    for link in LINKS:
        api.apply(bed.links._proxy(link), HEALTHY)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("isolate-leader:blackhole", r"node \d, who leads, is parted from all others \(blackhole\)"),
        ("isolate-leader:cut", r"\(cut\)"),
        ("isolate-leader:reset", r"\(reset\)"),
        ("isolate-random", r"node \d is parted from all others"),
        ("majority-minority", r"nodes \d are parted from \d \d "),
        ("bridge", r"nodes \d and \d are parted, and both reach \d"),
        ("one-way:deaf", r"who leads, hears no other node"),
        ("one-way:mute", r"who leads, is heard by no other node"),
        ("one-way:link", r"does not hear node \d"),
        ("clients:blackhole", r"who leads, is parted from its clients \(blackhole\)"),
        ("clients:cut", r"\(cut\)"),
        ("slow-link:leader", r"links \d-\d \d-\d take \d+ ms each way"),
        ("jitter:link", r"links \d-\d take up to \d+ ms"),
        ("bandwidth:link", r"links \d-\d pass \d+ kB a second"),
        ("slicer:all", r"links 1-2 1-3 2-3 pass pieces of \d+ bytes"),
    ],
)
async def test_a_fault_of_links(bed: Testbed, name: str, said: str) -> None:
    nemesis = made(bed, name)
    await nemesis.end()  # without a begin
    with pytest.raises(FaultNotProven):
        await nemesis.prove()
    words = await nemesis.begin()
    assert re.search(said, words), words
    await nemesis.prove()
    await heal_behind_its_back(bed)
    with pytest.raises(FaultNotProven, match="no such fault"):
        await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)


async def test_ending_one_fault_leaves_the_other_on_the_same_links(bed: Testbed) -> None:
    isolated, slow, bridge = made(bed, "isolate-leader:cut"), made(bed, "slow-link:all"), made(bed, "bridge:blackhole")
    await slow.begin()
    await isolated.begin()
    for nemesis in (slow, isolated):
        await nemesis.prove()
    await bridge.begin()
    for nemesis in (bridge, isolated):
        await nemesis.prove()
    await isolated.end()
    with pytest.raises(FaultNotProven):
        await isolated.prove()
    await slow.prove()
    await bridge.prove()
    await slow.end()
    await bridge.prove()
    await bridge.end()
    assert not await left_on(bed)


async def test_a_bridge_leaves_links_to_one_node_open(bed: Testbed) -> None:
    nemesis = made(bed, "bridge:reset")
    words = await nemesis.begin()
    left, right, bridge = map(int, re.findall(r"\d", words))
    await bed.links.verify_blocked(left, right)
    await bed.links.verify_open(left, bridge)
    await bed.links.verify_open(right, bridge)
    await nemesis.end()


async def test_clients_are_parted_from_the_leader_alone(bed: Testbed) -> None:
    leader = await bed.leader()
    nemesis = made(bed, "clients:cut")
    await nemesis.begin()
    seen = {node: await probe(bed.links.client_address(node), 2.0) for node in bed.voters}
    assert {node for node, what in seen.items() if what is not Probe.ALIVE} == {leader}
    assert await bed.leader() == leader
    await nemesis.end()


async def test_flapping_goes_off_and_on_until_its_end(bed: Testbed) -> None:
    nemesis = made(bed, "flapping:cut")
    await nemesis.end()
    with pytest.raises(FaultNotProven, match="not begun"):
        await nemesis.prove()
    words = await nemesis.begin()
    assert re.search(r"who leads, to [\d ]+ go off and on \(cut\)", words), words
    await nemesis.prove()
    await heal_behind_its_back(bed)  # it was on at times anyway
    await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)
    with pytest.raises(FaultNotProven, match="not begun"):
        await nemesis.prove()


async def test_flapping_that_has_stopped_or_that_no_probe_sees_is_not_proven(
    bed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.jepsen.nemeses.flapping.PROOF_S", 1.0)
    nemesis = made(bed, "flapping:blackhole")
    with monkeypatch.context() as broken:
        api = bed.links._server.api
        broken.setattr(api, "apply", lambda name, state: None)  # a server that does nothing
        await nemesis.begin()
        with pytest.raises(FaultNotProven, match="no such fault"):
            await nemesis.prove()
    await nemesis.end()
    await nemesis.begin()
    with monkeypatch.context() as broken:
        broken.setattr(bed.links, "_settle", None)
        with pytest.raises(FaultNotProven, match="flaps no more"):
            await nemesis.prove()
    with pytest.raises(FaultNotProven, match="flapping has failed meanwhile: TypeError"):
        await nemesis.end()
    await nemesis.end()


@pytest.mark.parametrize("name", ["majority-minority:cut", "bridge:cut", "isolate-random:cut", "one-way:link"])
async def test_links_between_nodes_that_are_up_are_broken(bed: Testbed, name: str) -> None:
    """Whatever the lot: a partition that strikes a dead node alone would part nobody."""
    for down in bed.voters:
        bed.down.add(down)  # as far as nemeses know
        for seed in range(3):
            nemesis = made(bed, name, seed)
            await nemesis.begin()
            await nemesis.prove()
            await nemesis.end()
        bed.down.remove(down)


async def test_several_at_once(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    nemesis = made(bed, "random")
    await nemesis.end()
    with pytest.raises(FaultNotProven, match="nothing was begun"):
        await nemesis.prove()
    drawn = iter([["kill:leader", "majority-minority:cut"], ["restart:follower", "slow-link:all"]])
    monkeypatch.setattr(combination, "draw", lambda *_: next(drawn))
    words = await nemesis.begin()
    assert re.fullmatch(
        r"kill: node \d, who leads, is killed; majority-minority: nodes [\d ]+ are parted from [\d ]+ \(cut\)", words
    )
    await nemesis.prove()
    await heal_behind_its_back(bed)
    with pytest.raises(FaultNotProven, match=r"majority-minority: link \d -> \d has no such fault"):
        await nemesis.prove()
    await nemesis.end()
    assert not await left_on(bed)
    assert "restart: " in await nemesis.begin()
    await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)


async def test_a_combination_ends_all_though_one_fails(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    nemesis = made(bed, "random")
    monkeypatch.setattr(combination, "draw", lambda *_: ["isolate-random:cut", "slow-link:all", "one-way"])
    await nemesis.begin()
    with monkeypatch.context() as broken:

        async def fails(self: SlowLink) -> None:
            raise ToxiproxyError("no")

        broken.setattr(SlowLink, "end", fails)
        with pytest.raises(ToxiproxyError):
            await nemesis.end()
    assert await left_on(bed)
    await nemesis.end()
    assert not await left_on(bed)


async def test_links_of_nodes_that_others_have_taken_down_are_not_looked_at(bed: Testbed) -> None:
    nemesis = made(bed, "isolate-leader:cut")
    leader = await bed.leader()
    await nemesis.begin()
    bed.down.add(next(node for node in bed.voters if node != leader))
    await nemesis.prove()
    bed.down.add(leader)
    with pytest.raises(FaultNotProven, match="no link is broken whose nodes are up"):
        await nemesis.prove()
    bed.down.clear()
    await nemesis.end()


async def test_a_proof_during_which_a_node_is_killed_is_made_again(
    bed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    nemesis = made(bed, "isolate-leader:cut")
    assert isinstance(nemesis, LinkNemesis)
    await nemesis.begin()
    looked: list[frozenset[int]] = []

    async def verify(*, down: frozenset[int]) -> None:
        looked.append(down)
        if not down:
            bed.down.add(2)
        if len(looked) != 2:
            raise FaultNotProven("it looks odd")

    monkeypatch.setattr(nemesis.layer, "verify", verify)
    await nemesis.prove()
    assert looked == [frozenset(), frozenset({2})]
    with pytest.raises(FaultNotProven, match="odd"):
        await nemesis.prove()
    bed.down.clear()
    await nemesis.end()
