"""Putting and deleting keys, after etcd's model.

Every command that changes something makes one revision of the store. A put adds a version to its key; a delete adds a
tombstone to each key it removes, all at the same revision. Nothing is overwritten: history stays until it is compacted,
so that a range can read any revision.

The functions never raise on a decoded command: what breaks a limit is `Rejected`, with nothing written.

The texts of rejections are part of the replicated state, because sessions remember them: nodes with different texts
have different state hashes. Change one like a format.
"""

from __future__ import annotations

from typing import Final

from raftkv.errors import ErrorCode
from raftkv.kv.commands import Delete, Deleted, Put, Rejected, Written
from raftkv.kv.keys import range_bounds, version_prefix
from raftkv.kv.limits import MAX_DELETE_WORK, MAX_DELETED_KEYS, put_fault, range_fault
from raftkv.kv.ranges import LiveHeads
from raftkv.kv.store import Reader
from raftkv.kv.versions import LiveHead, live_head
from raftkv.kv.writing import Writing

_new_tuple: Final = tuple.__new__


def put(writing: Writing, command: Put) -> Written | Rejected:
    """Set a key."""
    _, key, value = command
    fault = put_fault(key, value)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    return _new_tuple(Written, (writing.put_alone(version_prefix(key), value),))  # as Written(...), at half its cost


def delete(writing: Writing, command: Delete) -> Deleted | Rejected:
    """Delete a key or a range. A delete that finds nothing makes no revision."""
    _, key, range_end = command
    fault = range_fault(key, range_end)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    found = find(writing.writer, key, range_end, MAX_DELETE_WORK)
    if isinstance(found, Rejected):
        return found
    mark = writing.mark()
    for prefix, newest in found.keys:
        writing.delete(prefix, newest)
    return Deleted(writing.commit(mark), len(found.keys))


class Found:
    """The keys that a delete removes."""

    __slots__ = ("keys", "work")

    def __init__(self, keys: list[tuple[bytes, LiveHead]], work: int) -> None:
        self.keys = keys
        """(prefix, newest version) of each."""
        self.work = work
        """What finding them took, in units of `ranges.row_cost`."""


def find(reader: Reader, key: bytes, range_end: bytes, max_work: int) -> Found | Rejected:
    """Return what a delete of a key or a range removes."""
    if not range_end:
        prefix = version_prefix(key)
        newest = live_head(reader, prefix)
        return Found([] if newest is None else [(prefix, newest)], 1)
    found: list[tuple[bytes, LiveHead]] = []
    keys = LiveHeads(reader, *range_bounds(key, range_end))
    keys.work = max_work
    while (one := keys.next()) is not None:
        if len(found) == MAX_DELETED_KEYS:
            return Rejected(
                ErrorCode.LIMIT_EXCEEDED,
                f"the range holds more than {MAX_DELETED_KEYS} keys, the most that one delete removes; "
                "delete it in parts: read a page of keys, delete up to the last of them, repeat",
            )
        found.append(one)
    if keys.done:
        return Found(found, max_work - keys.work)
    return Rejected(
        ErrorCode.LIMIT_EXCEEDED,
        f"finding the keys of the range takes more than {max_work} steps, the most that is left for it "
        "(one for each version read, deleted keys included, and one for every 4 KiB of it); delete it in parts: read a "
        "page of keys, delete up to the last of them, repeat, or delete key by key",
    )
