"""A node without an HTTP server, which need not load one: that takes a quarter of the time in which a node starts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from raftkv.server.node import Node
from raftkv.v1 import cluster_pb2 as pb


class NoSite:
    """Takes what a node tells its HTTP server, and does nothing with it. `site.Site` is a server's."""

    def begin(
        self, node: Node, confirm: Callable[[float], Awaitable[None]], status: Callable[[], pb.StatusResponse]
    ) -> None:
        """The node takes requests. `confirm` raises unless it can serve linearizable reads; see `Reads.confirm`."""

    def stopping(self) -> None:
        """The node is about to stop; say so before anything else happens."""

    def end(self) -> None:
        """The node has stopped: nothing may be asked of it any more."""
