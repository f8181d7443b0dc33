"""A cluster whose nodes reach each other through Toxiproxy only; its clients reach every node directly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import combinations

import pytest
import pytest_asyncio

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.links import PeerLinks
from raftkv.testing.toxiproxy import ToxiproxyServer
from raftkv.testing.toxiproxy_fixture import toxiproxy_server

__all__ = ["toxiproxy_server"]

# Long enough for a busy machine not to hold an election of its own accord, and for a test to catch a leader that is cut
# off before it notices.
ELECTION_MS = 1_000


@dataclass(frozen=True, slots=True)
class Network:
    """A cluster, and the links between its nodes."""

    cluster: LocalCluster
    links: PeerLinks

    async def heal(self) -> None:
        """Remove every fault, and see that bytes pass again everywhere."""
        await self.links.heal()
        for a, b in combinations(self.links.nodes, 2):
            await self.links.verify_open(a, b)

    def others(self, node: int) -> list[int]:
        return [other for other in self.links.nodes if other != node]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_network(toxiproxy_server: ToxiproxyServer) -> AsyncIterator[Network]:
    cluster = LocalCluster(3, arguments=["--election-ms", str(ELECTION_MS)])
    links = PeerLinks(
        toxiproxy_server,
        peers={node.id: node.peer_address for node in cluster.nodes},
        clients={node.id: node.client_address for node in cluster.nodes},
    )
    async with links:
        cluster.dial = links.dial_address
        async with cluster:
            yield Network(cluster, links)


@pytest_asyncio.fixture(loop_scope="package")
async def network(shared_network: Network) -> Network:
    """Three nodes on a healthy network that hold the same state, whatever the test before has left behind."""
    await shared_network.heal()
    for node in shared_network.cluster.nodes:
        if not node.running:
            await node.start()
    await shared_network.cluster.converged()
    return shared_network


@pytest_asyncio.fixture(loop_scope="package")
async def client(network: Network) -> AsyncIterator[AsyncClient]:
    """A client of all nodes whose calls must all succeed: a majority is never out of reach for a minute."""
    async with AsyncClient(network.cluster.url, timeout=60.0) as client:
        yield client


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Keys of this test alone."""
    return f"{request.node.name}/"
