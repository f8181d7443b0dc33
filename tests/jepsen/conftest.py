"""One small cluster for all tests of nemeses, and the certainty that each leaves it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from raftkv.jepsen.nemeses.process import process_state
from raftkv.jepsen.testbed import Testbed, TestbedOptions, testbed
from raftkv.testing.cluster import NodeProcess
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
    left += [f"node {node.id} {state}" for node in bed.cluster.nodes if (state := _wrong_with(node))]
    links = [(a, b) for a in (CLIENTS, *bed.links.nodes) for b in bed.links.nodes if a != b]
    states = {link: await bed.links.state(link) for link in links}
    return left + [f"link {link}: {state}" for link, state in states.items() if state != HEALTHY]


def _wrong_with(node: NodeProcess) -> str:
    if not node.running:
        return "does not run"
    return "is stopped" if process_state(node.pid) == "T" else ""
