"""Rows of CHANGES: which keys each revision changed.

One row per log entry that changed something, under its last revision:

    [first revision, [prefix or [prefix, ...], ...]]

with an item per revision, from the first on without a gap. What the change was lies in VERSIONS. The rows lead a watch
through the past (`history`), and a sweep to what compaction has given up (`compaction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import msgpack

from raftkv.kv import packing
from raftkv.kv.records import CorruptRow
from raftkv.kv.writing import Change


class Changed(NamedTuple):
    """The keys that one revision changed, by their prefixes, in order."""

    revision: int
    prefixes: tuple[bytes, ...]


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Return the row for the changes of an entry, at least one, in the order of their revisions."""
    first = changes[0].revision
    revisions = changes[-1].revision - first + 1
    if len(changes) == revisions:  # most entries: one key each
        return _pack(first, [change[1] for change in changes])
    items: list[bytes | list[bytes]] = []
    for _, same in groupby(changes, attrgetter("revision")):
        prefixes = [change.prefix for change in same]
        items.append(prefixes[0] if len(prefixes) == 1 else prefixes)
    return _pack(first, items)


def encode_changed(revisions: Sequence[Changed]) -> bytes:
    """Return the row for consecutive revisions, at least one."""
    return _pack(revisions[0].revision, [prefixes[0] if len(prefixes) == 1 else prefixes for _, prefixes in revisions])


def _pack(first: int, items: Sequence[bytes | Sequence[bytes]]) -> bytes:
    row: bytes = msgpack.packb((first, items))
    return row


def decode_changed(row: bytes) -> list[Changed]:
    """Return what `encode_changed` was given. Raises CorruptRow."""
    try:
        first, items = packing.fields(packing.unpack(row), 2, "changes")
        return [
            Changed(revision, (item,) if type(item) is bytes else tuple([packing.raw(one, "prefix") for one in item]))
            for revision, item in enumerate(items, packing.number(first, "revision"))
        ]
    except (ValueError, TypeError) as error:
        raise CorruptRow(f"changes row of {len(row)} bytes: {error}") from error
