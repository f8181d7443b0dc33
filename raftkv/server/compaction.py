"""When a checkpoint is due, and what may be forgotten once it is durable. Decisions only; the driver acts on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from raftkv.raft import Index

STORE_SHARE: Final = 4
"""A checkpoint copies the whole store, so it is due at most once for every quarter of the store's size that is written:
copying costs a bounded share of writing, however large the store is. Its size when counting began, that is: a store may
grow by more than four bytes for each byte of log (rows that share their pages with nothing), and would outrun the log
for ever."""

MARGIN: Final = 3
"""For followers that answer, and need it, the log is kept for so many times what makes a checkpoint due: that much can
be written while one receives a checkpoint, and it need not begin again with the next."""


class CompactionPolicy:
    """Counts what is applied, and says when that is enough for a checkpoint.

    Counting begins anew when one is begun, whatever becomes of it: the next one comes after as much again.
    """

    def __init__(self, due_bytes: int, due_entries: int) -> None:
        """So much log, or so many entries, after a checkpoint make another one due."""
        self._due_bytes = due_bytes
        self._due_entries = due_entries
        self._bytes = 0
        self._entries = 0
        self._store_bytes: int | None = None
        self._scale = 1.0
        self._marks: deque[_Mark] = deque()
        """Checkpoints, oldest first, and how much had been applied when each was made."""
        self._all_bytes = 0
        self._all_entries = 0

    def applied(self, size_bytes: int) -> None:
        """An entry of so many bytes was applied."""
        self._bytes += size_bytes
        self._entries += 1
        self._all_bytes += size_bytes
        self._all_entries += 1

    def due(self, store_bytes: int) -> bool:
        """Whether to make a checkpoint now, of a store of this size. Ask after each entry or few."""
        if self._store_bytes is None:
            self._store_bytes = store_bytes
            # Both limits rise with a large store: many small entries must not have it copied any more often.
            self._scale = max(1.0, store_bytes / STORE_SHARE / self._due_bytes)
        return self._bytes >= self._scale * self._due_bytes or self._entries >= self._scale * self._due_entries

    def begun(self) -> None:
        """One is being made: what is applied from now on counts for the next."""
        self._bytes = self._entries = 0
        self._store_bytes = None

    def made(self, index: Index, fallback: Index, needed: Collection[Index] = ()) -> Index:
        """A checkpoint at `index` is durable. Return the first entry to keep: those below it may go.

        `fallback` is the checkpoint that takes its place if it turns out to be damaged (0: the log from its beginning).
        `needed` are the first entries that followers lack, which answer: they are kept too, within `MARGIN`.
        """
        floor = Index(0)
        for mark in self._marks:
            if (
                self._all_bytes - mark.applied_bytes >= MARGIN * self._scale * self._due_bytes
                or self._all_entries - mark.applied_entries >= MARGIN * self._scale * self._due_entries
            ):
                floor = mark.checkpoint
        while self._marks and self._marks[0].checkpoint < floor:
            self._marks.popleft()
        self._marks.append(_Mark(index, self._all_bytes, self._all_entries))
        wanted = max(min(needed, default=index), floor + 1)
        return Index(min(wanted, fallback + 1, index + 1))

    def restored(self, index: Index) -> None:
        """State and log were replaced by a checkpoint at `index`."""
        self._marks.clear()
        self._marks.append(_Mark(index, self._all_bytes, self._all_entries))
        self.begun()


class _Mark(NamedTuple):
    checkpoint: Index
    applied_bytes: int
    applied_entries: int
