"""Reading the versions of a key: the rows of VERSIONS behind its prefix, newest first."""

from __future__ import annotations

from typing import NamedTuple

from raftkv.errors import Compacted
from raftkv.kv.commands import KeyValue
from raftkv.kv.keys import OLDEST, revision_of, version_suffix
from raftkv.kv.records import VERSION_BYTES, decode_version
from raftkv.kv.store import Reader


class Live(NamedTuple):
    """A version of a key that is no tombstone."""

    revision: int
    row: bytes


def newest_row(reader: Reader, prefix: bytes, at: int | None = None) -> tuple[bytes, bytes] | None:
    """Return the newest row of a key, now or at revision `at`, be it a tombstone, with its stored key; None: it has
    none."""
    return reader.first(prefix if at is None else prefix + version_suffix(at), prefix + OLDEST)


def live(reader: Reader, prefix: bytes, at: int | None = None) -> Live | None:
    """Return the version that a key has, now or at revision `at`, None where it does not exist. Raises CorruptState."""
    found = newest_row(reader, prefix, at)
    if found is None or not decode_version(found[1])[1]:
        return None
    return Live(revision_of(found[0]), found[1])


def value_of(row: bytes) -> bytes:
    """Return the value in a row of VERSIONS."""
    return row[VERSION_BYTES:]


def pair_of(key: bytes, revision: int, row: bytes) -> KeyValue:
    """Return a version of a key as a pair. Raises CorruptState."""
    create_revision, version, lease = decode_version(row)
    return KeyValue(key, create_revision, revision, version, lease, value_of(row))


def compacted(revision: int, begins: int) -> Compacted:
    """Return the error for a revision before `begins`, where history begins."""
    return Compacted(f"revision {revision} is compacted: history begins at {begins}", number=begins)
