"""The HTTP server of one node, from before its start to after its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from raftkv.server.http.health import Health
from raftkv.server.http.listener import listening
from raftkv.server.http.no_site import NoSite
from raftkv.server.http.pages import Pages, Source
from raftkv.server.http.tls import Contexts
from raftkv.server.metrics.families import Numbers, families
from raftkv.server.node import Node
from raftkv.server.write_quorum import write_quorum
from raftkv.v1 import cluster_pb2 as pb


class Site(NoSite):
    """What a node tells its HTTP server."""

    def __init__(self) -> None:
        self._health = Health()
        self.pages = Pages(self._health)

    def begin(
        self, node: Node, confirm: Callable[[float], Awaitable[None]], status: Callable[[], pb.StatusResponse]
    ) -> None:
        self._health.begin(node, confirm)
        self.pages.source = Source(status, lambda ready: families(status(), numbers_of(node, ready=ready)))

    def stopping(self) -> None:
        self._health.stopping()

    def end(self) -> None:
        self._health.stopping()
        self.pages.source = None


def numbers_of(node: Node, *, ready: bool) -> Numbers:
    """Return what a node tells beside its status."""
    return Numbers(
        ready=ready,
        tallies=node.tallies,
        pending_writes=node.pending_writes,
        delay_s=node.tallies.delays.at(node.now_ms() / 1000),
        failovers=node.failovers.counts,
        quorum=write_quorum(node.raft),
    )


@asynccontextmanager
async def http_site(address: str, contexts: Contexts) -> AsyncIterator[Site]:
    """Serve a node's pages at `address` for the length of the block. Raises ConfigurationError."""
    site = Site()
    async with listening(address, site.pages.answer, contexts):
        yield site
