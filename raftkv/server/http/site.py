"""The HTTP server of one node, from before its start to after its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from raftkv.server.http.health import Health
from raftkv.server.http.listener import listening
from raftkv.server.http.pages import Pages, Source
from raftkv.server.http.tls import Contexts
from raftkv.server.metrics.families import Numbers, families
from raftkv.server.node import Node
from raftkv.server.write_quorum import write_quorum
from raftkv.v1 import cluster_pb2 as pb


class Site:
    """What a node tells its HTTP server."""

    def __init__(self) -> None:
        self._health = Health()
        self.pages = Pages(self._health)

    def begin(
        self, node: Node, confirm: Callable[[float], Awaitable[None]], status: Callable[[], pb.StatusResponse]
    ) -> None:
        """The node takes requests. `confirm` raises unless it can serve linearizable reads; see `Reads.confirm`."""
        self._health.begin(node, confirm)
        self.pages.source = Source(status, lambda ready: families(status(), numbers_of(node, ready=ready)))

    def stopping(self) -> None:
        """The node is about to stop; say so before anything else happens."""
        self._health.stopping()

    def end(self) -> None:
        """The node has stopped: nothing may be asked of it any more."""
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
async def http_site(address: str | None, contexts: Contexts) -> AsyncIterator[Site]:
    """Serve a node's pages at `address` (None: nowhere) for the length of the block. Raises ConfigurationError."""
    site = Site()
    if address is None:
        yield site
        return
    async with listening(address, site.pages.answer, contexts):
        yield site
