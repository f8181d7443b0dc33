"""What happened in the past: the changes of revisions, read back from the rows of CHANGES and VERSIONS.

For watches that begin in the past, or lag too far behind for the node to have kept in memory what they missed. A long
past must neither hold up the loop nor pin a snapshot, so it is read in steps of bounded work, each over a snapshot of
its own:

    cursor = Cursor(first)
    while cursor.revision < stop:
        with machine.view() as view:
            stretch = view.history(cursor, stop, wants, 500)
        ...
        cursor = stretch.next

Revisions are immutable, so what a later snapshot shows goes on where the earlier one ended, unless compaction has come
by: then it raises Compacted. The compacted revision itself can still be read, what lies before it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from raftkv.kv.changes import decode_changed
from raftkv.kv.keys import CHANGES, changes_key, version_suffix
from raftkv.kv.ranges import row_cost, size_cost
from raftkv.kv.records import CorruptRow, read_meta
from raftkv.kv.store import Reader
from raftkv.kv.versions import compacted, live, size_of
from raftkv.kv.writing import Change

_END: Final = bytes((CHANGES[0] + 1,))
_PREFIXES_PER_WORK: Final = 16


class Want(IntEnum):
    """What is to be read of a change."""

    NOTHING = 0
    CHANGE = 1
    WITH_PREVIOUS = 2
    STOP = 3
    """Not this change nor any behind it: the step ends here. Not to be said of the first one that is asked about."""


class Cursor(NamedTuple):
    """Where to go on: the change number `skip`, from 0, of a revision."""

    revision: int
    skip: int = 0


class Stretch(NamedTuple):
    """A part of the past."""

    changes: list[Change]
    """Those that were wanted. `previous` is no `LongRow`; it is None where it was not asked for, or has been compacted
    away."""
    next: Cursor
    """Everything before it has been read."""


def read_history(
    reader: Reader, start: Cursor, stop: int, wants: Callable[[int, bytes], Want], max_work: int
) -> Stretch:
    """Read the changes from `start` on, before revision `stop`, until about `max_work` is done (at least one change).

    `wants(revision, prefix)` is asked before any row of a version is read. Work is counted in rows (`row_cost`).
    Raises Compacted, CorruptRow.
    """
    meta = read_meta(reader)
    if start.revision < meta.compacted_revision:
        raise compacted(start.revision, meta.compacted_revision)
    stop = min(stop, meta.revision + 1)
    found: list[Change] = []
    work = 0.0
    for _, row in reader.scan(changes_key(start.revision), _END):
        work += row_cost(row)
        for revision, prefixes in decode_changed(row):
            if revision < start.revision:
                continue
            if revision >= stop:
                return Stretch(found, Cursor(stop))
            skip = start.skip if revision == start.revision else 0
            for number in range(skip, len(prefixes)):
                if work >= max_work and (revision, number) != start:
                    return Stretch(found, Cursor(revision, number))
                prefix = prefixes[number]
                work += 1 / _PREFIXES_PER_WORK
                want = wants(revision, prefix)
                if want is Want.STOP:
                    return Stretch(found, Cursor(revision, number))
                if want is not Want.NOTHING:
                    change = _read_change(reader, revision, prefix, with_previous=want is Want.WITH_PREVIOUS)
                    found.append(change)
                    work += row_cost(change.row)
                    work += 1 if change.previous is None else size_cost(size_of(change.previous))
    return Stretch(found, Cursor(max(stop, start.revision)))


def _read_change(reader: Reader, revision: int, prefix: bytes, *, with_previous: bool) -> Change:
    row = reader.get(prefix + version_suffix(revision))
    if row is None:
        raise CorruptRow(f"the version that revision {revision} made of {prefix.hex()} is missing")
    previous, previous_revision = None, 0
    if with_previous:
        before = live(reader, prefix, revision - 1)
        if before is not None:
            previous_revision, previous = before
    return Change(revision, prefix, row, previous, previous_revision)
