"""Calls about the upkeep of one node, for code without an event loop."""

from __future__ import annotations

from raftkv.client.node_status import CheckpointStatus
from raftkv.client.sync_core import SyncCore


class SyncMaintenanceCalls(SyncCore):
    """The twin of MaintenanceCalls."""

    def checkpoint(self, endpoint: str, *, timeout: float | None = None) -> CheckpointStatus:
        """See AsyncClient.checkpoint."""
        return self._run(self._async.checkpoint(endpoint, timeout=timeout))
