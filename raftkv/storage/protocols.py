"""What the driver asks of a log store. The WAL and its in-memory twin both pass tests/storage's contract suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raftkv.errors import StorageError
from raftkv.raft.types import Entry, HardState, Index


@dataclass(frozen=True, slots=True)
class WalPosition:
    """Where a log ends. The checksum covers the whole log before it, so equal positions mean equal logs."""

    segment: int
    offset: int
    crc: int


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """What a log store held when it was opened: a prefix of what was appended, with everything that was confirmed."""

    hard_state: HardState
    entries: tuple[Entry, ...]
    """Contiguous, from index 1 on."""
    torn_bytes: int = 0
    """Length of the unconfirmed write that a crash tore and recovery removed. Harmless, worth a line in the log."""
    torn_at: str = ""
    """The file and offset of those bytes, and what was wrong with them; empty when nothing was torn."""

    @property
    def last_index(self) -> Index:
        return self.entries[-1].index if self.entries else Index(0)

    def require_covers(self, applied: Index) -> None:
        """Refuse a state store that has applied entries this log does not hold.

        Raises StorageError. It cannot happen as long as entries are applied only once they are durable *here*; if it
        does, the log lost confirmed entries, or store and log do not belong together. The driver calls it before the
        node takes part in anything.
        """
        if applied > self.last_index:
            raise StorageError(
                f"the state store has applied entry {applied}, but the write-ahead log ends at entry "
                f"{self.last_index}: the log lost entries, or the store is another node's. {RESTORE_FROM_PEERS}"
            )


RESTORE_FROM_PEERS = (
    "The way out: restore this node from its peers. Remove it from the cluster, and add it again, under a new node id, "
    "with an empty data directory."
)


class LogStore(Protocol):
    """The durable log of one node: hard state and entries."""

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Make a new hard state and further entries durable, as one step.

        `entries` are contiguous; when the first one's index lies at or below the last appended one, it replaces that
        entry and everything after it. On return everything is on stable storage. A crash before the return leaves all
        or nothing of it; of a batch too large for one record (16 MiB), the hard state and a prefix of the entries,
        with the commit index held down to that prefix. At most one call is under way at a time (the caller
        coalesces). Cancelling the call does not undo the write.

        Raises StorageError when the write or the flush failed. The store is then dead: every later call raises too,
        and the node must stop, because a failed fsync marks dirty pages clean and a retry would lie (raft-bugs 39).
        Raises InvariantViolation for an append that no correct Raft node makes (`LogShape` has the list); nothing is
        written then.
        """
        ...

    def size_bytes(self) -> int:
        """Bytes that the log occupies."""
        ...

    async def close(self) -> None:
        """Finish the write under way and release every resource. Idempotent.

        Raises StorageError, the first time, when the store had failed: its end is not known, and no clean one.
        """
        ...
