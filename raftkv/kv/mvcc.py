"""Writing versions of keys, after etcd's model.

Every command that changes something makes one revision of the store. A put adds a version to its key; a delete adds a
tombstone to each key it removes, all at the same revision. Nothing is overwritten: history stays until it is compacted
(a later milestone), so that a range can read any revision.

The functions are given the revision that the command will make if it changes anything. They never raise on a decoded
command: what breaks a limit is `Rejected`, with nothing written.

The texts of rejections are part of the replicated state, because sessions remember them: nodes with different texts
have different state hashes. Change one like a format.
"""

from __future__ import annotations

from raftkv.errors import ErrorCode
from raftkv.kv.commands import Delete, Deleted, Put, Rejected, Written
from raftkv.kv.keys import OLDEST, range_bounds, version_prefix, version_suffix
from raftkv.kv.limits import MAX_DELETE_WORK, MAX_DELETED_KEYS, put_fault, range_fault
from raftkv.kv.ranges import LiveKeys
from raftkv.kv.records import TOMBSTONE, decode_version, encode_version
from raftkv.kv.store import Reader, Writer


def put(writer: Writer, command: Put, revision: int) -> Written | Rejected:
    """Set a key at `revision`, which must be the one after the store's."""
    _, key, value = command
    fault = put_fault(key, value)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    prefix = version_prefix(key)
    newest = writer.first(prefix, prefix + OLDEST)
    create_revision, version = revision, 1
    if newest is not None:
        created, before, _ = decode_version(newest[1])
        if before:
            create_revision, version = created, before + 1
    writer.put(prefix + version_suffix(revision), encode_version(create_revision, version, 0, value))
    return Written(revision)


def delete(writer: Writer, command: Delete, revision: int) -> Deleted | Rejected:
    """Delete a key or a range at `revision`, which must be the one after the store's.

    A delete that finds nothing makes no revision: Deleted(revision - 1, 0).
    """
    _, key, range_end = command
    fault = range_fault(key, range_end)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    found = _live_prefixes(writer, key, range_end) if range_end else _live_prefix(writer, key)
    if isinstance(found, Rejected):
        return found
    suffix = version_suffix(revision)
    for prefix in found:
        writer.put(prefix + suffix, TOMBSTONE)
    return Deleted(revision if found else revision - 1, len(found))


def _live_prefix(reader: Reader, key: bytes) -> list[bytes]:
    prefix = version_prefix(key)
    newest = reader.first(prefix, prefix + OLDEST)
    return [prefix] if newest is not None and decode_version(newest[1])[1] else []


def _live_prefixes(reader: Reader, key: bytes, range_end: bytes) -> list[bytes] | Rejected:
    found: list[bytes] = []
    keys = LiveKeys(reader, *range_bounds(key, range_end))
    keys.work = MAX_DELETE_WORK
    while (row := keys.next()) is not None:
        if len(found) == MAX_DELETED_KEYS:
            return Rejected(
                ErrorCode.LIMIT_EXCEEDED,
                f"the range holds more than {MAX_DELETED_KEYS} keys, the most that one delete removes; "
                "delete it in parts: read a page of keys, delete up to the last of them, repeat",
            )
        found.append(row[0][:-8])
    if keys.done:
        return found
    return Rejected(
        ErrorCode.LIMIT_EXCEEDED,
        f"finding the keys of the range takes more than {MAX_DELETE_WORK} steps, the most that one delete may take "
        "(one for each version read, deleted keys included, and one for every 4 KiB of it); delete it in parts: read a "
        "page of keys, delete up to the last of them, repeat, or delete key by key",
    )
