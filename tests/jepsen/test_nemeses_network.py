"""Nemeses of links on a real cluster: begun, proven, ended, and not proven when they are not on."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from raftkv.client import AsyncClient
from raftkv.jepsen.nemeses import create, examine
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.links import CLIENTS, PeerLinks, Probe, probe
from raftkv.testing.toxiproxy import HEALTHY, ToxiproxyServer
from tests.jepsen.conftest import left_on
from tests.testing.test_links import grpc_node

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
    await nemesis.prove()
    await heal_behind_its_back(bed)
    with pytest.raises(FaultNotProven, match="no such fault"):
        await nemesis.prove()
    await nemesis.end()
    await nemesis.end()
    assert not await left_on(bed)
    assert re.search(said, words), words
