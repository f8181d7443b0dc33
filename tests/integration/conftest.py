"""One healthy cluster of real processes, shared by the tests that leave it healthy."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="package")
async def cluster(shared_cluster: LocalCluster) -> LocalCluster:
    """Three nodes that run, agree on a leader and hold the same state, whatever the test before has left behind."""
    for node in shared_cluster.nodes:
        if node.running:
            node.resume()
        else:
            await node.start()
    await shared_cluster.converged()
    return shared_cluster


@pytest_asyncio.fixture(loop_scope="package")
async def client(cluster: LocalCluster) -> AsyncIterator[AsyncClient]:
    """A client whose calls must all succeed: none of the faults here takes a minute to get over."""
    async with AsyncClient(cluster.url, timeout=60.0) as client:
        yield client


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Keys of this test alone."""
    return f"{request.node.name}/"
