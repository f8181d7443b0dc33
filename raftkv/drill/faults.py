"""What can be done to a leader, and to put it right again."""

from __future__ import annotations

import ipaddress
from typing import Protocol

from raftkv.client import AsyncClient
from raftkv.drill.measure.record import How
from raftkv.errors import ConfigurationError, RaftKVError
from raftkv.testing.cluster import LocalCluster, NodeProcess


class Refused(RaftKVError):
    """The drill was not begun, or not gone on with: the cluster is not fit for it. Nothing was done to it."""


class NotOurs(ConfigurationError):
    """The node cannot be killed or paused from here, or may be another one. The message says what to do."""


def is_loopback(host: str) -> bool:
    """Whether a host, as endpoints name it, is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Fault(Protocol):
    """One thing that is done to one node."""

    @property
    def text(self) -> str:
        """What will be done, to what: shown before it is."""
        ...

    async def begin(self) -> None:
        """Do it. Raises RaftKVError, with nothing done."""
        ...

    async def end(self) -> None:
        """Put it right, whatever state the node is in; return when it runs. May be called again."""
        ...


class Way(Protocol):
    """How nodes are reached."""

    async def aim(self, how: How, node: int, endpoint: str) -> Fault:
        """Prepare a fault; raises NotOurs. Touches nothing."""
        ...


class Transfer:
    """The leader is asked to hand over, to whichever follower is best."""

    def __init__(self, client: AsyncClient, node: int) -> None:
        self._client = client
        self.text = f"ask node {node} to hand leadership over; nothing stops"

    async def begin(self) -> None:
        await self._client.transfer_leader()

    async def end(self) -> None:
        pass


class OwnNodes:
    """The nodes of a cluster that the drill started itself."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def aim(self, how: How, node: int, endpoint: str) -> Fault:
        return OwnFault(self._cluster.node(node), how)


class OwnFault:
    """A fault of one of our own processes."""

    def __init__(self, node: NodeProcess, how: How) -> None:
        self._node = node
        self._how = how
        self._paused = False
        self.text = f"{'SIGKILL' if how is How.KILL else 'SIGSTOP'} to node {node.id}, process {node.pid}"

    async def begin(self) -> None:
        if self._how is How.KILL:
            await self._node.kill()
        else:
            self._node.pause()
            self._paused = True

    async def end(self) -> None:
        if self._paused:
            self._node.resume()
            self._paused = False
        if not self._node.running:
            await self._node.start()
