"""Which writes are under way, and what their confirmation is worth.

Writes are numbered and become durable in order. A confirmation says "everything up to write n is durable"; what that
means for the log is the last index that write n left behind, *lowered by every truncation queued since*: an entry that
a later write replaces counts for nothing, although the disk did hold it for a moment (raft-bugs 11; why a number, and
not a position, is in docs/adr/0001).
"""

from __future__ import annotations

from collections import deque

from raftkv.invariant import invariant
from raftkv.raft.types import Index


class PendingWrites:
    """The writes that the driver has been given and has not confirmed."""

    __slots__ = ("_queue", "newest")

    def __init__(self) -> None:
        self.newest = 0
        """Number of the last write handed out; 0: none yet."""
        self._queue: deque[tuple[int, Index]] = deque()

    def queue(self, last_index: Index) -> int:
        """Number a write that leaves the log ending at `last_index`."""
        self.newest += 1
        self._queue.append((self.newest, last_index))
        return self.newest

    def truncate(self, first: Index) -> None:
        """Note that the entries from `first` on are being replaced."""
        if self._queue and self._queue[-1][1] >= first:
            self._queue = deque((number, Index(min(last, first - 1))) for number, last in self._queue)

    def restore(self, durable: Index) -> None:
        """Note that a snapshot replaces the whole log: what is under way raises nothing above `durable` any more."""
        self._queue = deque((number, min(last, durable)) for number, last in self._queue)

    def confirm(self, number: int) -> Index | None:
        """Return the index up to which the log is durable once write `number` is; None when that was known before."""
        invariant(number <= self.newest, "write {} was confirmed but only {} were handed out", number, self.newest)
        durable: Index | None = None
        while self._queue and self._queue[0][0] <= number:
            durable = self._queue.popleft()[1]
        return durable

    def __len__(self) -> int:
        return len(self._queue)
