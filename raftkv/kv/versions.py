"""Reading the versions of a key: the rows of VERSIONS behind its prefix, newest first."""

from __future__ import annotations

from typing import Final, NamedTuple

from raftkv.errors import Compacted
from raftkv.kv.commands import KeyValue
from raftkv.kv.keys import OLDEST, revision_of, version_suffix
from raftkv.kv.records import VERSION_BYTES, decode_version
from raftkv.kv.store import Reader

WHOLE_ROW_BYTES: Final = 4096
"""Rows up to this size (4 KiB) are read whole by a write that replaces or deletes them, for watches. Of larger ones it
reads the beginning: a write costs the same whatever it replaces."""


class LongRow(NamedTuple):
    """A row of VERSIONS of more than WHOLE_ROW_BYTES whose value was not read. It lies in the store until compacted."""

    header: bytes
    """Its first VERSION_BYTES."""
    size: int


Row = bytes | LongRow


class Live(NamedTuple):
    """A version of a key that is no tombstone."""

    revision: int
    row: bytes


class LiveHead(NamedTuple):
    """The same, for who is going to replace or delete it."""

    revision: int
    row: Row


def row_of(beginning: bytes, size: int) -> Row:
    """Return a row of `size` bytes, of which at least WHOLE_ROW_BYTES were read, if it has so many.

    What it is depends on the size alone: it is part of what an entry is said to have done, on all nodes.
    """
    return beginning if size <= WHOLE_ROW_BYTES else LongRow(beginning[:VERSION_BYTES], size)


def header_of(row: Row) -> bytes:
    """Return what `decode_version` asks for."""
    return row if isinstance(row, bytes) else row.header


def size_of(row: Row) -> int:
    return len(row) if isinstance(row, bytes) else row.size


def newest_row(reader: Reader, prefix: bytes, at: int | None = None) -> tuple[bytes, bytes] | None:
    """Return the newest row of a key, now or at revision `at`, be it a tombstone, with its stored key; None: it has
    none."""
    return reader.first(prefix if at is None else prefix + version_suffix(at), prefix + OLDEST)


def live(reader: Reader, prefix: bytes, at: int | None = None) -> Live | None:
    """Return the version that a key has, now or at revision `at`, None where it does not exist. Raises CorruptRow."""
    found = newest_row(reader, prefix, at)
    if found is None or not decode_version(found[1])[1]:
        return None
    return Live(revision_of(found[0]), found[1])


def newest_head(
    reader: Reader, prefix: bytes, at: int | None = None, most: int = WHOLE_ROW_BYTES
) -> tuple[bytes, bytes, int] | None:
    """As `newest_row`, but of the row at most its first `most` bytes, and its size."""
    return reader.head(prefix if at is None else prefix + version_suffix(at), prefix + OLDEST, most)


def live_head(reader: Reader, prefix: bytes) -> LiveHead | None:
    """As `live`, of now, without the value of a LongRow."""
    found = newest_head(reader, prefix)
    if found is None or not decode_version(found[1])[1]:
        return None
    return LiveHead(revision_of(found[0]), row_of(found[1], found[2]))


def value_of(row: bytes) -> bytes:
    """Return the value in a row of VERSIONS."""
    return row[VERSION_BYTES:]


def pair_of(key: bytes, revision: int, row: bytes) -> KeyValue:
    """Return a version of a key as a pair. Raises CorruptRow."""
    create_revision, version, lease = decode_version(row)
    return KeyValue(key, create_revision, revision, version, lease, value_of(row))


def compacted(revision: int, begins: int) -> Compacted:
    """Return the error for a revision before `begins`, where history begins."""
    return Compacted(f"revision {revision} is compacted: history begins at {begins}", number=begins)
