"""Calls about watches, for code without an event loop."""

from __future__ import annotations

from raftkv.client.sync_core import SyncCore
from raftkv.client.watch_sync import Watch


class SyncWatchCalls(SyncCore):
    """The twin of WatchCalls."""

    def watch(
        self,
        key: bytes | str | None = None,
        *,
        prefix: bytes | str | None = None,
        start: bytes | str | None = None,
        end: bytes | str | None = None,
        start_revision: int = 0,
        previous: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress: bool = False,
        timeout: float | None = None,
    ) -> Watch:
        """See AsyncClient.watch."""
        watch = self._async.watch(
            key,
            prefix=prefix,
            start=start,
            end=end,
            start_revision=start_revision,
            previous=previous,
            puts=puts,
            deletes=deletes,
            progress=progress,
            timeout=timeout,
        )
        return Watch(watch, self._run)
