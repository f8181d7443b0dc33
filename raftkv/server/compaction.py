"""When a checkpoint is due, and what may be forgotten once it is durable. Decisions only; the driver acts on them."""

from __future__ import annotations

from raftkv.raft import Index

STORE_SHARE = 4
"""A checkpoint copies the whole store, so it is due at most once for every quarter of the store's size that is written:
copying costs a bounded share of writing, however large the store is. Its size when counting began, that is: a store may
grow by more than four bytes for each byte of log (rows that share their pages with nothing), and would outrun the log
for ever."""


class CompactionPolicy:
    """Counts what is applied, and says when that is enough for a checkpoint."""

    def __init__(self, due_bytes: int, newest: Index) -> None:
        """`due_bytes` of log after a checkpoint make another one due; `newest` is the index of the newest one, or 0."""
        self._due_bytes = due_bytes
        self._newest = newest
        self._bytes = 0
        self._store_bytes: int | None = None

    def applied(self, size_bytes: int) -> None:
        """An entry of so many bytes was applied."""
        self._bytes += size_bytes

    def due(self, store_bytes: int) -> bool:
        """Whether to make a checkpoint now, of a store of this size. Ask after each entry or few."""
        if self._store_bytes is None:
            self._store_bytes = store_bytes
        return self._bytes >= max(self._due_bytes, self._store_bytes // STORE_SHARE)

    def begun(self) -> None:
        """One is being made: what is applied from now on counts for the next."""
        self._count_anew()

    def made(self, index: Index) -> Index:
        """A checkpoint at `index` is durable. Return the first entry to keep: those below it may go.

        What was written since the checkpoint before stays, for followers that are behind.
        """
        before, self._newest = self._newest, index
        return Index(min(before, index) + 1)

    def restored(self, index: Index) -> None:
        """State and log were replaced by a checkpoint at `index`."""
        self._newest = index
        self._count_anew()

    def _count_anew(self) -> None:
        self._bytes = 0
        self._store_bytes = None
