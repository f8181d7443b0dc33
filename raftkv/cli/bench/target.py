"""The cluster under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from raftkv.cli.exits import say
from raftkv.cli.tls_flags import given_tls
from raftkv.client import Tls
from raftkv.testing.cluster import LocalCluster


@dataclass(frozen=True, slots=True)
class Target:
    """Where it is."""

    endpoints: str
    tls: Tls | None
    nodes: int | None
    """How many of our own; None: somebody's cluster."""


@asynccontextmanager
async def existing_cluster(endpoints: str) -> AsyncIterator[Target]:
    """A cluster that runs already."""
    yield Target(endpoints, given_tls(), None)


@asynccontextmanager
async def own_cluster(nodes: int, directory: Path | None, node_flags: tuple[str, ...] = ()) -> AsyncIterator[Target]:
    """Node processes on this machine, with default settings but for `node_flags`: every write is synced to disk."""
    cluster = LocalCluster(nodes, directory=directory, arguments=node_flags)
    say(f"starting a cluster of {nodes} in {cluster.directory}")
    async with cluster:
        await cluster.leader()
        yield Target(cluster.url, cluster.tls, nodes)
