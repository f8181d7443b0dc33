"""One small cluster for all tests of nemeses, and the certainty that each leaves it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path

import pytest
import pytest_asyncio

from raftkv.jepsen.testbed import Testbed, TestbedOptions, testbed
from raftkv.testing.links import CLIENTS
from raftkv.testing.toxiproxy import HEALTHY, ToxiproxyServer
from raftkv.testing.toxiproxy_fixture import toxiproxy_server

__all__ = ["toxiproxy_server"]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_bed(
    toxiproxy_server: ToxiproxyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Testbed]:
    """Three nodes behind proxies. (The server is asked for, so that a test without one is skipped.)"""
    async with testbed(TestbedOptions(nodes=3, directory=tmp_path_factory.mktemp("testbed"))) as bed:
        yield bed


@pytest_asyncio.fixture(loop_scope="package")
async def bed(shared_bed: Testbed) -> AsyncIterator[Testbed]:
    """A cluster with a leader, on which nothing may be left at the end of the test."""
    await shared_bed.leader()
    yield shared_bed
    left = await left_on(shared_bed)
    shared_bed.down.clear()
    await shared_bed.links.heal()
    for node in shared_bed.cluster.nodes:
        if node.running:
            node.resume()
        else:
            await node.start()
    assert not left


async def left_on(bed: Testbed) -> list[str]:
    """Return what is wrong with a cluster on which no fault should be."""
    left = [f"node {node} is down" for node in bed.down]
    for node in bed.cluster.nodes:
        if not node.running:
            left.append(f"node {node.id} does not run")
        elif " T " in Path(f"/proc/{node.pid}/stat").read_text():
            left.append(f"node {node.id} is stopped")
    links = [link for pair in combinations(bed.links.nodes, 2) for link in (pair, pair[::-1])]
    for link in [*links, *((CLIENTS, node) for node in bed.links.nodes)]:
        if (state := await bed.links.state(link)) != HEALTHY:
            left.append(f"link {link}: {state}")
    return left
