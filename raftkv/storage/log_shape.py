"""What a sequence of appends may look like: one set of rules for writing a log and for reading it back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from raftkv.raft.types import Entry, HardState, Index, Term

NO_INDEX: Final = Index(0)
NO_TERM: Final = Term(0)
NO_HARD_STATE: Final = HardState()


class LogShape:
    """Terms and extent of a log, without its data. Invariants, in force after every `advance`:

    1. Entries are contiguous from the base on, their terms never decrease and never exceed the hard state's.
    2. The hard state's term never goes back; within a term a vote, once given, stays (paper 5.2; raft-bugs 2, 3).
    3. The commit index never goes back, lies within the log, and no entry at or below it is replaced (raft-bugs 16).

    The base is the last entry that the log does not hold any more, (0, 0) for a whole log. It is committed, whatever
    the commit index says, which is only a hint.
    """

    __slots__ = ("_base_term", "_run_starts", "_run_terms", "first_index", "hard_state", "last_index")

    def __init__(
        self, base_index: Index = NO_INDEX, base_term: Term = NO_TERM, hard_state: HardState = NO_HARD_STATE
    ) -> None:
        self.first_index = Index(base_index + 1)
        self.last_index = base_index
        self.hard_state = hard_state
        self._base_term = base_term
        self._run_starts: list[Index] = []
        self._run_terms: list[Term] = []

    def term_at(self, index: Index) -> Term:
        """Return the term of the entry at `index`, or 0 outside log and base."""
        if index == self.first_index - 1:
            return self._base_term
        if not self.first_index <= index <= self.last_index:
            return Term(0)
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def violation(self, hard_state: HardState, entries: Sequence[Entry]) -> str | None:
        """Return which invariant an append would break, or None."""
        last_index = entries[-1].index if entries else self.last_index
        return self._entries_violation(hard_state, entries) or self._hard_state_violation(hard_state, last_index)

    def _hard_state_violation(self, new: HardState, last_index: Index) -> str | None:
        old = self.hard_state
        if new.term < old.term:
            return f"the term goes back from {old.term} to {new.term}"
        if new.term == old.term and old.vote is not None and new.vote != old.vote:
            return f"the vote in term {old.term} changes from {old.vote} to {new.vote}"
        if new.commit < old.commit:
            return f"the commit index goes back from {old.commit} to {new.commit}"
        if new.commit > last_index:
            return f"the commit index {new.commit} lies beyond the last entry {last_index}"
        return None

    def _entries_violation(self, hard_state: HardState, entries: Sequence[Entry]) -> str | None:
        if not entries:
            return None
        index = entries[0].index
        if index > self.last_index + 1:
            return f"entry {index} leaves a gap after entry {self.last_index}"
        if index < self.first_index:
            return f"entry {index} lies before the first entry {self.first_index}"
        if index <= self.hard_state.commit:
            return f"entry {index} replaces a committed one (commit index {self.hard_state.commit})"
        term = self.term_at(Index(index - 1))
        for entry in entries:
            if entry.index != index:
                return f"entry {entry.index} where entry {index} is due"
            if entry.term < term:
                return f"the term of entry {index} is {entry.term}, below its predecessor's {term}"
            term = entry.term
            index = Index(index + 1)
        if term > hard_state.term:
            return f"an entry of term {term} with the node in term {hard_state.term}"
        return None

    def restart_violation(self, hard_state: HardState, index: Index, term: Term) -> str | None:
        """Return why the log must not be replaced by an empty one that begins after `index`, or None."""
        if term > hard_state.term:
            return f"the log is to begin after an entry of term {term} with the node in term {hard_state.term}"
        if hard_state.commit > index:
            return f"the commit index {hard_state.commit} lies beyond entry {index}, after which the log is to begin"
        # What is left to check is the same as for an append whose entries end there.
        return self._hard_state_violation(HardState(hard_state.term, hard_state.vote, index), index)

    def advance(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """Take over an append that breaks nothing."""
        self.hard_state = hard_state
        if not entries:
            return
        while self._run_starts and self._run_starts[-1] >= entries[0].index:
            self._run_starts.pop()
            self._run_terms.pop()
        for entry in entries:
            if not self._run_terms or entry.term != self._run_terms[-1]:
                self._run_starts.append(entry.index)
                self._run_terms.append(entry.term)
        self.last_index = entries[-1].index
