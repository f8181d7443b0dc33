"""What the driver asks of a log store. The WAL and its in-memory twin both pass tests/storage/contract suites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raftkv.raft.types import Entry, HardState


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What a log store held when it was opened: a prefix of what was appended, with everything that was confirmed."""

    hard_state: HardState
    entries: tuple[Entry, ...]
    """Contiguous, from index 1 on."""


class LogStore(Protocol):
    """The durable log of one node: hard state and entries."""

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Make a new hard state and further entries durable, as one atomic step.

        `entries` are contiguous; when the first one's index lies at or below the last appended one, it replaces that
        entry and everything after it. On return everything is on stable storage. At most one call is under way at a
        time (the caller coalesces). Cancelling the call does not undo the write.

        Raises StorageError when the write or the flush failed. The store is then dead: every later call raises too,
        and the node must stop, because a failed fsync marks dirty pages clean and a retry would lie (raft-bugs 39).
        """
        ...

    def size_bytes(self) -> int:
        """Bytes that the log occupies."""
        ...

    async def close(self) -> None:
        """Finish the write under way and release every resource. Idempotent."""
        ...
