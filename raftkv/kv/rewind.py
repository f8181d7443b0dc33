"""The state as it was at an earlier revision, as rows: what a backup `--revision` is made of.

What is kept, for a revision R that is not compacted:

 - Keys and their history up to R: every read at a revision from the compacted one to R is answered as before.
 - Keys that were there at R on a lease that has ended since are deleted, lease by lease, at the revisions after R: they
   would otherwise outlive, for ever, what they were to end with.
 - Leases of now that are alive, with the keys that they had at R.
 - Locks without anybody in line: their newest tokens, which fences are judged by, stay those of now. Who stood in line,
   and the history of that, is gone.
 - Counters and cluster time of now: ids and tokens are not given twice, and no deadline moves away.
 - No sessions: what they remember was done after R.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from raftkv.errors import FutureRevision
from raftkv.kv.changes import Changed, decode_changed, encode_changed
from raftkv.kv.keys import (
    CHANGES,
    LEASE_KEYS,
    LEASES,
    LINES,
    LOCKS,
    META,
    VERSIONS,
    VERSIONS_END,
    attachment_key,
    changes_key,
    is_place,
    number_of,
    revision_of,
    version_suffix,
)
from raftkv.kv.records import (
    TOMBSTONE,
    VERSION_BYTES,
    Meta,
    decode_lease_head,
    decode_lock_head,
    decode_version,
    encode_lock_head,
    encode_meta,
    read_meta,
)
from raftkv.kv.store import Reader
from raftkv.kv.versions import compacted

Row = tuple[bytes, bytes]

_CHANGES_END = bytes((CHANGES[0] + 1,))


class _Leased(NamedTuple):
    """What was attached at a revision."""

    alive: dict[int, list[bytes]]
    """Prefixes of the keys of each lease that is alive, in order."""
    ended: dict[bytes, int]
    """By prefix of a key whose lease has ended: the revision that deletes it."""
    last_revision: int


def rewind(reader: Reader, revision: int) -> Iterator[Row]:
    """Yield the rows of the state at `revision`, in the order of their keys, META first. Reads all versions twice.

    Raises Compacted, FutureRevision, CorruptRow.
    """
    meta = _meta(reader, revision)
    leased = _leased(reader, revision)
    yield META, encode_meta(meta._replace(revision=leased.last_revision))
    yield from _versions(reader, revision, leased.ended)
    yield from _changes(reader, revision)
    yield from _deletions(leased.ended)
    for stored_key, row in reader.scan(LEASES, LEASE_KEYS):
        if number_of(stored_key) in leased.alive:
            yield stored_key, row
    for lease in sorted(leased.alive):
        for prefix in leased.alive[lease]:
            yield attachment_key(lease, prefix), b""
    for stored_key, row in reader.scan(LOCKS, LINES):
        head = decode_lock_head(row)
        # The next grant is to shut out all before it, and tickets, which are revisions, go back to `revision`.
        yield stored_key, encode_lock_head(head._replace(shared=False, last_granted=0, holders=0, waiting=0))


def _meta(reader: Reader, revision: int) -> Meta:
    meta = read_meta(reader)
    if revision > meta.revision:
        raise FutureRevision(f"revision {revision} is in the future: the store is at {meta.revision}")
    if revision < max(meta.compacted_revision, 1):
        raise compacted(revision, meta.compacted_revision)
    return meta


def _leased(reader: Reader, revision: int) -> _Leased:
    """Find the keys that were there at `revision` on a lease."""
    now_ms = read_meta(reader).time_ms
    alive: dict[int, list[bytes]] = {}
    for stored_key, row in reader.scan(LEASES, LEASE_KEYS):
        if now_ms < decode_lease_head(row).deadline_ms:
            alive[number_of(stored_key)] = []
    ended: dict[int, list[bytes]] = {}
    settled = b""
    for stored_key, header, _ in reader.heads(VERSIONS, VERSIONS_END, VERSION_BYTES):
        prefix = stored_key[:-8]
        if prefix == settled or revision_of(stored_key) > revision:
            continue
        settled = prefix
        lease = decode_version(header)[2]
        if lease and not is_place(prefix):
            (alive if lease in alive else ended).setdefault(lease, []).append(prefix)
    deleted = {prefix: at for at, lease in enumerate(sorted(ended), revision + 1) for prefix in ended[lease]}
    return _Leased(alive, deleted, revision + len(ended))


def _versions(reader: Reader, revision: int, ended: Mapping[bytes, int]) -> Iterator[Row]:
    settled = b""
    for stored_key, row in reader.scan(VERSIONS, VERSIONS_END):
        if revision_of(stored_key) > revision:
            continue
        prefix = stored_key[:-8]
        if is_place(prefix):
            continue
        if prefix != settled:
            settled = prefix
            if prefix in ended:
                yield prefix + version_suffix(ended[prefix]), TOMBSTONE
        yield stored_key, row


def _changes(reader: Reader, revision: int) -> Iterator[Row]:
    for _, row in reader.scan(CHANGES, _CHANGES_END):
        kept = [
            Changed(at, tuple([prefix for prefix in prefixes if not is_place(prefix)]))
            for at, prefixes in decode_changed(row)
            if at <= revision
        ]
        # A revision that only moved a line stays, with nothing in it: there are no gaps within a row.
        if any(prefixes for _, prefixes in kept):
            yield changes_key(kept[-1].revision), encode_changed(kept)


def _deletions(ended: Mapping[bytes, int]) -> Iterator[Row]:
    by_revision: dict[int, list[bytes]] = {}
    for prefix, at in ended.items():
        by_revision.setdefault(at, []).append(prefix)
    for at in sorted(by_revision):
        yield changes_key(at), encode_changed([Changed(at, tuple(by_revision[at]))])
