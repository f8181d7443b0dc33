"""Which configuration is in force: the newest one in the log, committed or not (paper 6).

So a follower that drops an entry drops the configuration in it (raft-bugs 21), and a node that starts takes the newest
one that its log holds, not the newest committed one (raft-bugs 20, 22).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from raftkv.raft.membership import decode_configuration
from raftkv.raft.quorum import Configuration
from raftkv.raft.types import Entry, EntryKind, Index


class Configurations:
    """The configurations of one node's log, oldest first; the first is that of what lies before the log."""

    __slots__ = ("_configurations", "_indexes", "current")

    def __init__(self, base: Configuration, base_index: Index, entries: Sequence[Entry]) -> None:
        self._indexes = [base_index]
        self._configurations = [base]
        self.current = base
        """What is in force."""
        self.append(entries)

    @property
    def index(self) -> Index:
        """Where the current one stands in the log."""
        return self._indexes[-1]

    @property
    def previous(self) -> Configuration:
        """The one before it; where there is none, itself."""
        return self._configurations[max(0, len(self._configurations) - 2)]

    def append(self, entries: Sequence[Entry]) -> bool:
        """Take up the configurations among new entries. Return whether another one is in force now.

        Raises ValueError for one that cannot be read.
        """
        before = self.current
        for entry in entries:
            if entry.kind is EntryKind.CONFIGURATION:
                self._indexes.append(entry.index)
                self._configurations.append(decode_configuration(entry.data))
        self.current = self._configurations[-1]
        return self.current is not before

    def truncate(self, first: Index) -> None:
        """The entries from `first` on are gone."""
        while self._indexes[-1] >= first and len(self._indexes) > 1:
            self._indexes.pop()
            self._configurations.pop()
        self.current = self._configurations[-1]

    def at(self, index: Index) -> Configuration:
        """Return the one that was in force with `index` the last entry."""
        return self._configurations[bisect_right(self._indexes, index) - 1]

    def compact(self, base_index: Index) -> None:
        """The entries up to `base_index` are gone, and are covered by a snapshot."""
        base = self.at(base_index)
        keep = bisect_right(self._indexes, base_index)
        self._indexes = [base_index, *self._indexes[keep:]]
        self._configurations = [base, *self._configurations[keep:]]
