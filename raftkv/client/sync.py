"""The synchronous twin of `aio`: the same names, for code without an event loop."""

from __future__ import annotations

from raftkv.client.sync_cluster import SyncClusterCalls
from raftkv.client.sync_coordination import SyncCoordinationCalls
from raftkv.client.sync_kv import SyncKeyValueCalls
from raftkv.client.sync_maintenance import SyncMaintenanceCalls
from raftkv.client.sync_service import Service
from raftkv.client.sync_watch import SyncWatchCalls


class Client(SyncKeyValueCalls, SyncWatchCalls, SyncCoordinationCalls, SyncClusterCalls, SyncMaintenanceCalls):
    """A client of one cluster, for any number of threads. Everything is as AsyncClient says, but blocks.

    All clients of a process share one background thread. Calls made by several threads at a time share messages.
    Ctrl-C abandons the call it interrupts. What is still open at exit is closed. Neither a client
    nor gRPC survives a fork: make clients after it. In a child forked later, calls raise ConfigurationError.
    """

    def service(self, name: str) -> Service:
        """See AsyncClient.service."""
        return Service(self._run, self._async.service(name))
