"""Nemeses that take five nodes, on links between servers that stand for them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import permutations
from pathlib import Path

import pytest

from raftkv.client import AsyncClient
from raftkv.jepsen.nemeses import create
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.links import PeerLinks, Probe
from raftkv.testing.toxiproxy import ToxiproxyServer
from tests.testing.test_links import grpc_node

pytestmark = pytest.mark.toxiproxy

NODES = range(1, 6)


@pytest.fixture
async def stand_in(toxiproxy_server: ToxiproxyServer, tmp_path: Path) -> AsyncIterator[Testbed]:
    """Five nodes that answer, and do nothing else; nobody leads."""
    async with AsyncExitStack() as stack:
        peers = {node: await stack.enter_async_context(grpc_node()) for node in NODES}
        links = await stack.enter_async_context(PeerLinks(toxiproxy_server, peers=peers, clients=peers))
        admin = await stack.enter_async_context(AsyncClient(list(peers.values())))
        yield Testbed(cluster=LocalCluster(len(NODES), directory=tmp_path), links=links, levers={}, admin=admin)


async def reached(bed: Testbed) -> dict[int, set[int]]:
    """Return whom each node reaches, itself included, by probes."""
    found = {node: {node} for node in NODES}
    for src, dst in permutations(NODES, 2):
        if await bed.links.probe(src, dst, 2.0) is Probe.ALIVE:
            found[src].add(dst)
    return found


async def test_in_a_ring_each_reaches_a_majority_of_its_own(stand_in: Testbed) -> None:
    nemesis = create("ring:cut", stand_in, random.Random(1))
    assert "in the circle" in await nemesis.begin()
    await nemesis.prove()
    majorities = await reached(stand_in)
    assert {len(one) for one in majorities.values()} == {3}
    assert len({frozenset(one) for one in majorities.values()}) == 5
    assert all(one in majorities[other] for one in NODES for other in majorities[one])
    await nemesis.end()
    assert all(len(one) == 5 for one in (await reached(stand_in)).values())


async def test_less_than_a_third_is_parted_off(stand_in: Testbed) -> None:
    nemesis = create("minority-third:reset", stand_in, random.Random(1))
    await nemesis.begin()
    await nemesis.prove()
    assert sorted(len(one) for one in (await reached(stand_in)).values()) == [1, 4, 4, 4, 4]
    await nemesis.end()


async def test_a_bridge_between_two_halves(stand_in: Testbed) -> None:
    nemesis = create("bridge:cut", stand_in, random.Random(1))
    await nemesis.begin()
    await nemesis.prove()
    assert sorted(len(one) for one in (await reached(stand_in)).values()) == [3, 3, 3, 3, 5]
    await nemesis.end()
