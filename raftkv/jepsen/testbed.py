"""The cluster that is tested: real nodes, a Toxiproxy proxy on every link, and the levers that faults pull."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftkv.client import AsyncClient, Tls
from raftkv.jepsen.levers import PROGRAM, Levers
from raftkv.testing.cluster import ClusterError, LocalCluster, NodeProcess, converged, leaders_by_term
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

    def endpoints(self) -> list[str]:
        """Return where each node is reached around the proxies; it changes with the membership."""
        return self.cluster.endpoints

    async def whole_again(self, timeout_s: float) -> None:
        """Heal the network and wait until all nodes hold one state. Raises NodesDiverged, and ClusterError."""
        await self.links.heal()
        await self.cluster.converged(timeout_s)

    def leaders(self) -> dict[int, set[int]]:
        """Return who has led each term, by the logs of all nodes that there ever were."""
        logs = self.cluster.directory.glob("node-*.log")
        return leaders_by_term({int(one.stem.rpartition("-")[2]): one.read_text(errors="replace") for one in logs})

    def stopped_themselves(self) -> list[NodeProcess]:
        """Return the nodes that no fault has ended. One stops when it would break a promise if it went on."""
        return [node for node in self.cluster.nodes if not node.running and node.id not in self.down]

    def node(self, number: int) -> NodeProcess:
        return self.cluster.node(number)

    async def leader(self, timeout_s: float = 20.0) -> int:
        """Wait for a leader that a majority follows, and return its id. Raises ClusterError."""
        return await self.cluster.leader(timeout_s)


FIND_S: Final = 3.0


class GivenCluster:
    """A cluster that is there already, and that others break if anybody does."""

    def __init__(self, admin: AsyncClient, members: list[str]) -> None:
        """`members`: the client addresses of all nodes."""
        self.admin = admin
        self.client_addresses = members

    def endpoints(self) -> list[str]:
        return self.client_addresses

    def leaders(self) -> dict[int, set[int]]:
        """Return nothing: its logs are not ours to read."""
        return {}

    def stopped_themselves(self) -> list[NodeProcess]:
        """Return nothing, either."""
        return []

    async def whole_again(self, timeout_s: float) -> None:
        """Wait until all nodes hold one state. Raises NodesDiverged, and ClusterError."""
        await converged(self.client_addresses, timeout_s, tls=self.admin.tls)


@asynccontextmanager
async def given_cluster(endpoints: str, tls: Tls | None = None) -> AsyncIterator[GivenCluster]:
    """Find the members of a running cluster through some of them. Raises RaftKVError when there is none."""
    async with AsyncClient(endpoints, timeout=10.0, tls=tls) as admin:
        status = await admin.status(timeout=FIND_S)
        silent = [str(one.id) for one in status.members if not one.client_address]
        if silent:
            raise ClusterError(
                f"{status.endpoint} does not know where clients reach node {', '.join(silent)}: is it up?"
            )
        yield GivenCluster(admin, [one.client_address for one in status.members])


@asynccontextmanager
async def testbed(options: TestbedOptions) -> AsyncIterator[Testbed]:
    """Start a cluster; end everything that was started, however the block ends. Raises RaftKVError."""
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
