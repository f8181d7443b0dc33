"""What the driver asks of a log store. The WAL and its in-memory twin both pass tests/storage's contract suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftkv.errors import StorageError
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.log_shape import NO_TERM
from raftkv.storage.way_out import REPAIR_NODE

FIRST_INDEX: Final = Index(1)
"""Where a log begins that was never compacted."""


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
    """Contiguous, from `first_index` on."""
    first_index: Index = FIRST_INDEX
    """Index of the first entry that the log holds, or of the next one when it holds none."""
    base_term: Term = NO_TERM
    """Term of the entry before the first one; 0 for a log that begins at 1."""
    torn_bytes: int = 0
    """Length of the unconfirmed write that a crash tore and recovery removed. Harmless, worth a line in the log."""
    torn_at: str = ""
    """The file and offset of those bytes, and what was wrong with them; empty when nothing was torn."""

    @property
    def last_index(self) -> Index:
        return Index(self.first_index - 1 + len(self.entries))

    def term_at(self, index: Index) -> Term | None:
        """Return the term of the entry at `index`, also of the one before the first; None for any other."""
        if index == self.first_index - 1:
            return self.base_term
        return self.entries[index - self.first_index].term if self.first_index <= index <= self.last_index else None

    def after(self, index: Index) -> tuple[Entry, ...]:
        """Return the entries that follow `index`, which is at least the one before the first."""
        return self.entries[index + 1 - self.first_index :]

    def require_covers(self, applied: Index) -> None:
        """Refuse a state store that has applied entries this log does not hold, or that needs entries it has dropped.

        Raises StorageError. It cannot happen as long as entries are applied only once they are durable *here*, and
        dropped only once a checkpoint has them; if it does, the log lost confirmed entries, or store and log do not
        belong together. The driver calls it before the node takes part in anything.
        """
        if applied < self.first_index - 1:
            raise StorageError(
                f"the state store has applied entry {applied}, but the write-ahead log begins at entry "
                f"{self.first_index}: the entries between are gone. {RESTORE_FROM_PEERS}"
            )
        if applied > self.last_index:
            raise StorageError(
                f"the state store has applied entry {applied}, but the write-ahead log ends at entry "
                f"{self.last_index}: the log lost entries, or the store is another node's. {RESTORE_FROM_PEERS}"
            )


RESTORE_FROM_PEERS: Final = REPAIR_NODE
"""What a refusal to start ends with."""


class LogStore(Protocol):
    """The durable log of one node: hard state and entries."""

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Make a new hard state and further entries durable, as one step.

        `entries` are contiguous; when the first one's index lies at or below the last appended one, it replaces that
        entry and everything after it. On return everything is on stable storage. A crash before the return leaves all
        or nothing of it; of a batch too large for one record (16 MiB), the hard state and a prefix of the entries,
        with the commit index held down to that prefix. At most one call is under way at a time (the caller
        coalesces). Cancelling the call does not undo the write.

        Raises NoRoom where the disk is full: nothing is confirmed, and the next append must be this one again. Raises
        StorageError when the write or the flush failed. The store is then dead: every later call raises too,
        and the node must stop, because a failed fsync marks dirty pages clean and a retry would lie (raft-bugs 39).
        Raises InvariantViolation for an append that no correct Raft node makes (`LogShape` has the list); nothing is
        written then.
        """
        ...

    async def compact(self, first_kept: Index) -> None:
        """Drop entries below `first_kept`, as many as can be dropped cheaply; term, vote and commit are kept.

        Only entries that are committed and that a durable checkpoint has. Appends may be under way meanwhile, and wait
        for it no longer than for another append. A crash at any point, or a cancelled call, leaves some of the
        entries to be dropped, and otherwise the log as it was.

        Raises StorageError as `append` does.
        """
        ...

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        """Replace all entries by what a checkpoint stands for: the next entry is `index` + 1, after one of `term`.

        For a snapshot install. On return it is durable; a crash before leaves the old log or the new one, whole, and
        the old entries never come back (raft-bugs 26, 28). The new commit index is `index`. Not while an append is
        under way. Cancelling the call does not undo it.

        Raises StorageError as `append` does, and InvariantViolation when the term would go back, the vote change
        within the term, or the commit index go back.
        """
        ...

    def size_bytes(self) -> int:
        """Bytes that the log occupies."""
        ...

    def reserved_bytes(self) -> int:
        """Bytes that appends may write, together, before the log needs more room than it has reserved. An estimate
        while one is under way.
        """
        ...

    async def close(self) -> None:
        """Finish the write under way and release every resource. Idempotent.

        Raises StorageError, the first time, when the store had failed: its end is not known, and no clean one.
        """
        ...
