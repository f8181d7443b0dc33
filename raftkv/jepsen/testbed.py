"""The cluster that is tested: real nodes, a Toxiproxy proxy on every link, and the levers that faults pull."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from raftkv.client import AsyncClient
from raftkv.jepsen.levers import Levers
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.testing.links import PeerLinks
from raftkv.testing.toxiproxy import ToxiproxyServer


@dataclass(frozen=True, slots=True, kw_only=True)
class TestbedOptions:
    """How the cluster is made."""

    __test__ = False  # it is no test, whatever pytest thinks of its name
    nodes: int
    directory: Path
    """For data, logs and what the nodes' levers are moved by. Kept."""
    lossy_disks: bool = False
    failing_disks: bool = False
    sabotage: str = ""
    """A safeguard that is switched off: see `raftkv.jepsen.sabotage`."""
    arguments: tuple[str, ...] = ()
    """Further flags of `raftkv serve`."""


@dataclass(slots=True)
class Testbed:
    """A running cluster."""

    __test__ = False
    cluster: LocalCluster
    links: PeerLinks
    levers: dict[int, Levers]
    """By node id."""
    admin: AsyncClient
    """Reaches every node directly, around the proxies; for faults and observers, never for workloads."""
    down: set[int] = field(default_factory=set)
    """Nodes that some fault has killed or stopped, and that it will start again."""

    @property
    def voters(self) -> tuple[int, ...]:
        """The nodes that the cluster began with."""
        return self.links.founders

    @property
    def client_addresses(self) -> list[str]:
        """Where workloads reach the nodes: through proxies."""
        return [self.links.client_address(node) for node in self.voters]

    def node(self, number: int) -> NodeProcess:
        return self.cluster.node(number)

    async def leader(self, timeout_s: float = 20.0) -> int:
        """Wait for a leader that a majority follows, and return its id. Raises ClusterError."""
        return await self.cluster.leader(timeout_s)


@asynccontextmanager
async def testbed(options: TestbedOptions) -> AsyncIterator[Testbed]:
    """Start a cluster; end everything that was started, however the block ends. Raises RaftKVError."""
    from raftkv.jepsen.levers import PROGRAM  # noqa: PLC0415

    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ToxiproxyServer())
        cluster = LocalCluster(
            options.nodes, directory=options.directory / "nodes", arguments=options.arguments, program=PROGRAM
        )
        levers = {}
        for node in cluster.nodes:
            lever = levers[node.id] = Levers(options.directory / "levers" / str(node.id))
            node.environment |= lever.environment(
                lossy=options.lossy_disks, failing=options.failing_disks, sabotage=options.sabotage
            )
        links = await stack.enter_async_context(
            PeerLinks(
                server,
                peers={node.id: node.peer_address for node in cluster.nodes},
                clients={node.id: node.client_address for node in cluster.nodes},
                name=f"jepsen-{secrets.token_hex(4)}",
            )
        )
        cluster.dial = links.dial_address
        for node in cluster.nodes:
            node.extra_arguments += ["--advertise", links.client_address(node.id)]
        await stack.enter_async_context(cluster)
        admin = await stack.enter_async_context(AsyncClient(cluster.endpoints, timeout=10.0))
        yield Testbed(cluster=cluster, links=links, levers=levers, admin=admin)
