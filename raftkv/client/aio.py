"""The client for asyncio."""

from __future__ import annotations

from raftkv.client.cluster_calls import ClusterCalls
from raftkv.client.coordination_calls import CoordinationCalls
from raftkv.client.kv_calls import KeyValueCalls
from raftkv.client.maintenance_calls import MaintenanceCalls
from raftkv.client.service import AsyncService
from raftkv.client.watch_calls import WatchCalls


class AsyncClient(KeyValueCalls, CoordinationCalls, WatchCalls, ClusterCalls, MaintenanceCalls):
    """A client of one cluster, for one event loop: that of its first call. On any other it raises WrongEventLoop.

    Any number of tasks may use it; calls made in one turn of the loop share a message. Connects at the first call or on
    entering `async with`. While a node is down or a leader is elected, calls wait and are sent again; a write is
    applied at most once however often that happens.

    **Timeouts** are in seconds, more than 0 and at most one day, and cover everything that a call does. `timeout=None`
    takes the client's.

    **Errors** are those of `raftkv.errors`. Any call may raise
    - DeadlineExceeded: no answer in time. `ambiguous` on a write that may have taken effect, or may yet.
    - NoLeader, Overloaded, ConnectionFailed: the time is up, and the request provably had no effect (`ambiguous` False;
      ConnectionFailed of a client that was closed meanwhile says so).
    - InvalidArgument: the request breaks a limit, or makes no sense.
    and a write SessionExpired, ambiguous: the client was cut off for so long that the store forgot its session, and
    an earlier attempt may have been applied.
    **Cancelling** a call abandons it: a write may still take effect.
    """

    def service(self, name: str) -> AsyncService:
        """Return a service under which instances register, and are found. See AsyncService.

        Raises InvalidArgument for a name that is empty, longer than 200 bytes, or has a slash.

        Example::

            async with client.service("api").register("10.0.0.7:8000", {"zone": "a"}):
                print(await client.service("api").instances())
        """
        return AsyncService(self, name)
