"""Rows of CHANGES: which keys each revision changed.

One row per log entry that changed something, under its last revision:

    [first revision, [prefix or [prefix, ...], ...]]

with an item per revision, from the first on without a gap. What the change was lies in VERSIONS. The rows lead a watch
through the past (`history`), and a sweep to what compaction has given up (`compaction`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgpack

from raftkv.kv import packing
from raftkv.kv.records import CorruptState
from raftkv.kv.writing import Change


class Changed(NamedTuple):
    """The keys that one revision changed, by their prefixes, in order."""

    revision: int
    prefixes: tuple[bytes, ...]


def changed(changes: Iterable[Change]) -> list[Changed]:
    """Return what `changes`, in the order of their revisions, touched."""
    found: list[Changed] = []
    prefixes: list[bytes] = []
    revision = 0
    for change in changes:
        if change.revision != revision:
            if prefixes:
                found.append(Changed(revision, tuple(prefixes)))
            revision, prefixes = change.revision, []
        prefixes.append(change.prefix)
    if prefixes:
        found.append(Changed(revision, tuple(prefixes)))
    return found


def encode_changed(revisions: list[Changed]) -> bytes:
    """Return the row for consecutive revisions, at least one."""
    items = [prefixes[0] if len(prefixes) == 1 else prefixes for _, prefixes in revisions]
    row: bytes = msgpack.packb((revisions[0].revision, items))
    return row


def decode_changed(row: bytes) -> list[Changed]:
    """Return what `encode_changed` was given. Raises CorruptState."""
    try:
        first, items = packing.fields(packing.unpack(row), 2, "changes")
        return [
            Changed(revision, (item,) if type(item) is bytes else tuple([packing.raw(one, "prefix") for one in item]))
            for revision, item in enumerate(items, packing.number(first, "revision"))
        ]
    except (ValueError, TypeError) as error:
        raise CorruptState(f"changes row of {len(row)} bytes: {error}") from error
