"""How a log is cut for being applied again at a start, where nobody waits for what is in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from raftkv.raft import Entry
from raftkv.raft.log import entry_bytes

REPLAY_BYTES: Final = 256 << 10
"""Entries of so many bytes share a transaction: enough that its own cost does not count, few enough that what it keeps
in memory does not, and that a start which is interrupted ends at once."""


def in_slices(entries: Sequence[Entry], most_bytes: int) -> Iterator[Sequence[Entry]]:
    """Cut `entries` into slices of at most so many bytes, or of one entry.

    One without a payload begins a slice: whether it may be skipped depends on what was applied before it.
    """
    first = size = 0
    for position, entry in enumerate(entries):
        more = entry_bytes(entry)
        if position > first and (size + more > most_bytes or not entry.data):
            yield entries[first:position]
            first, size = position, 0
        size += more
    if first < len(entries):
        yield entries[first:]
