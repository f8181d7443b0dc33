"""The log as the core sees it: entries in memory, and how far each of them has come.

    first_index        durable      last_index
         |                |              |
    [ ...|................|..............|
                ^         ^
             applied  commit (either side of durable)

Invariants, checked by `validate`:
  L1  indexes are contiguous and terms never decrease.
  L2  applied <= handed_out <= min(commit, durable): only what is committed *and* on this node's own disk is applied,
      so the state on disk is never ahead of the log on disk.
  L3  commit <= last_index; durable <= last_index; handed_over <= last_index.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.invariant import InvariantViolation, invariant
from raftkv.raft.types import Entry, Index, Term

ENTRY_OVERHEAD_BYTES = 24
"""What an entry costs beside its data, roughly, on the wire and in the WAL."""


def entry_bytes(entry: Entry) -> int:
    """Return the size that limits and in-flight accounting use for `entry`."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class Log:
    """One node's log. Mutable; knows nothing of roles, messages or quorums."""

    __slots__ = (
        "_base_index",
        "_base_term",
        "_entries",
        "applied",
        "commit",
        "durable",
        "handed_out",
        "handed_over",
        "last_index",
    )

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        commit: Index,
        applied: Index,
        base_index: Index = Index(0),  # noqa: B008 - a number
        base_term: Term = Term(0),  # noqa: B008
    ) -> None:
        """`entries` follow (base_index, base_term), the last entry that a snapshot covers."""
        self._base_index = base_index
        self._base_term = base_term
        self._entries: list[Entry] = list(entries)
        _check_order(self._base_index, self._base_term, self._entries)
        self.last_index = last = Index(base_index + len(self._entries))
        """Index of the last entry, or, where there is none, of the last compacted one."""
        invariant(
            applied <= last,
            "the state has applied entry {} but the log ends at {}: they are not of the same node",
            applied,
            last,
        )
        invariant(
            applied >= base_index,
            "the state has applied entry {} but the log begins behind entry {}: entries are missing",
            applied,
            base_index,
        )
        self.commit = Index(max(min(commit, last), applied))
        """Highest index known to be committed."""
        self.durable = last
        """Highest index that this node's own disk has confirmed (and nothing queued will overwrite)."""
        self.handed_over = last
        """Highest index given to the driver to write."""
        self.handed_out = applied
        """Highest index given to the driver to apply."""
        self.applied = applied
        """Highest index that the driver has applied."""
        self.validate()

    @property
    def first_index(self) -> Index:
        """The lowest index whose entry is here (one above the compacted ones)."""
        return Index(self._base_index + 1)

    @property
    def last_term(self) -> Term:
        return self._entries[-1].term if self._entries else self._base_term

    def term(self, index: Index) -> Term | None:
        """Return the term at `index`; 0 at index 0; None where the log does not reach (or no longer)."""
        position = index - self._base_index - 1
        if position < 0:
            return self._base_term if position == -1 else None
        return self._entries[position].term if position < len(self._entries) else None

    def matches(self, index: Index, term: Term) -> bool:
        """Return whether this log holds an entry of `term` at `index` (paper 5.3, the consistency check)."""
        return self.term(index) == term

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Return whether a log ending at (last_term, last_index) is as up-to-date as this one or more (paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def slice(self, start: Index, stop: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Return the entries in [start, stop), ending after `max_bytes`, but at least one where there is one."""
        invariant(
            self.first_index <= start and stop <= self.last_index + 1,
            "entries [{}, {}) are not all in [{}, {}]",
            start,
            stop,
            self.first_index,
            self.last_index,
        )
        low = start - self._base_index - 1
        high = stop - self._base_index - 1
        taken = tuple(self._entries[low:high])
        if len(taken) > 1:
            size_bytes = 0
            for count, entry in enumerate(taken):
                size_bytes += entry_bytes(entry)
                if size_bytes > max_bytes and count > 0:
                    return taken[:count]
        return taken

    def append(self, entries: Sequence[Entry]) -> None:
        """Add `entries`; where the first one's index is taken, it and all that follow are replaced.

        Raises InvariantViolation for a gap, for replacing what is committed (raft-bugs 16), and for a breach of L1.
        """
        if not entries:
            return
        first = entries[0].index
        invariant(
            self.first_index <= first <= self.last_index + 1,
            "appending entry {} to a log of [{}, {}] leaves a gap",
            first,
            self.first_index,
            self.last_index,
        )
        invariant(first > self.commit, "entry {} would replace a committed one (commit index {})", first, self.commit)
        _check_order(Index(first - 1), self.term(Index(first - 1)) or Term(0), entries)
        if first <= self.last_index:
            del self._entries[first - self._base_index - 1 :]
            self.durable = Index(min(self.durable, first - 1))
            self.handed_over = Index(min(self.handed_over, first - 1))
        self._entries.extend(entries)
        self.last_index = entries[-1].index

    def compact(self, base_index: Index) -> None:
        """Forget the entries up to `base_index`, which are applied and covered by a durable snapshot."""
        term = self.term(base_index)
        invariant(
            term is not None and base_index <= self.applied,
            "compacting up to entry {}, of a log that starts at {} and is applied up to {}",
            base_index,
            self.first_index,
            self.applied,
        )
        del self._entries[: base_index - self._base_index]
        self._base_index, self._base_term = base_index, term or Term(0)

    def restore(self, index: Index, term: Term) -> None:
        """Forget everything: the log goes on behind a snapshot that stands at `index`.

        Until `restored`, nothing of it is durable and nothing is handed out to apply. What was durable above what is
        handed out has been dropped.
        """
        invariant(index > self.commit, "a snapshot of entry {} for a log committed up to {}", index, self.commit)
        self._entries.clear()
        self._base_index, self._base_term = index, term
        self.last_index = self.commit = self.handed_over = index
        self.durable = self.handed_out

    def restored(self) -> None:
        """The driver has put the snapshot that `restore` named into force."""
        self.durable = Index(max(self.durable, self._base_index))
        self.handed_out = Index(max(self.handed_out, self._base_index))
        self.applied = Index(max(self.applied, self._base_index))

    def new_entries(self, previous_index: Index, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the part of `entries` from the first one that this log lacks or contradicts.

        A delayed request whose entries are all here thus truncates nothing (raft-bugs 15; paper figure 2,
        AppendEntries step 3).
        """
        for offset, entry in enumerate(entries):
            if entry.index != previous_index + 1 + offset:
                raise InvariantViolation("the entries of a request must be contiguous")
            if not self.matches(entry.index, entry.term):
                return entries[offset:]
        return ()

    def hint(self, index: Index, term: Term) -> tuple[Index, Term]:
        """Return the highest index <= `index` whose term is <= `term`, and that term.

        No index above it can match a log that has `term` at `index`: terms never decrease along a log. Both sides use
        it, so that one refused request skips a whole term (paper 5.3).
        """
        probe = Index(min(index, self.last_index))
        while probe > self._base_index:
            found = self.term(probe)
            if found is None or found <= term:
                break
            probe = Index(probe - 1)
        return probe, self.term(probe) or Term(0)

    def unwritten(self) -> tuple[Entry, ...]:
        """Return the entries that the driver has not been given to write."""
        return tuple(self._entries[self.handed_over - self._base_index :])

    def applicable(self, max_bytes: int) -> tuple[Entry, ...]:
        """Return the next entries to apply: committed and durable here (L2)."""
        end = self.commit if self.commit < self.durable else self.durable
        if self.handed_out >= end:
            return ()
        return self.slice(Index(self.handed_out + 1), Index(end + 1), max_bytes)

    def validate(self) -> None:
        """Raise InvariantViolation unless L2 and L3 hold (L1 is checked by `_check_order`, where entries come in)."""
        last, commit, durable, handed_out = self.last_index, self.commit, self.durable, self.handed_out
        # After every input of every node: so the calls that name what is wrong are made only when something is.
        if commit <= last and durable <= last and self.handed_over <= last:
            if self.applied <= handed_out <= commit and handed_out <= durable:
                return
            raise InvariantViolation(
                f"L2: applied {self.applied}, handed out {handed_out}, commit {commit}, durable {durable}"
            )
        raise InvariantViolation(
            f"L3: commit {commit}, durable {durable} or handed over {self.handed_over} is above the last index {last}"
        )


def _check_order(index: Index, term: Term, entries: Sequence[Entry]) -> None:
    """Raise InvariantViolation unless L1 holds for `entries` placed behind (index, term)."""
    for entry in entries:
        if entry.index != index + 1 or entry.term < term:
            raise InvariantViolation(
                f"L1: entry {entry.index} of term {entry.term} stands behind entry {index} of term {term}"
            )
        index, term = entry.index, entry.term
