"""Calls about the upkeep of nodes, for code without an event loop."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.client.maintenance_calls import SILENCE_S, Writable
from raftkv.client.node_status import CheckpointStatus, StateComparison
from raftkv.client.results import SavedSnapshot, SnapshotProgress
from raftkv.client.sync_core import SyncCore


class SyncMaintenanceCalls(SyncCore):
    """The twin of MaintenanceCalls."""

    def checkpoint(self, endpoint: str, *, timeout: float | None = None) -> CheckpointStatus:
        """See AsyncClient.checkpoint."""
        return self._run(self._async.checkpoint(endpoint, timeout=timeout))

    def compare_states(self, *, timeout: float | None = None) -> StateComparison:
        """See AsyncClient.compare_states."""
        return self._run(self._async.compare_states(timeout=timeout))

    def save_snapshot(
        self,
        file: Writable,
        *,
        revision: int = 0,
        stale: bool = False,
        endpoint: str | None = None,
        progress: Callable[[SnapshotProgress], object] | None = None,
        timeout: float = SILENCE_S,
    ) -> SavedSnapshot:
        """See AsyncClient.save_snapshot. `progress` is called in the clients' background thread."""
        return self._run(
            self._async.save_snapshot(
                file, revision=revision, stale=stale, endpoint=endpoint, progress=progress, timeout=timeout
            )
        )
