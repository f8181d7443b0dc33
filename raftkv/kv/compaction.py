"""Giving up history: what no read can see any more is removed.

`compact` moves the mark below which reads fail. The rows behind it go in steps, each a command of its own: they are
part of the state that nodes compare, so every node removes the same ones at the same entry, and no entry holds up the
loop that sends heartbeats.

A change below the mark puts the version before it out of sight, and a delete also the tombstone that it left. The rows
of CHANGES up to the mark name all such changes, so a sweep costs as much as was written, however large the store is.
What happened at the mark itself stays: a watch may begin there.
"""

from __future__ import annotations

from raftkv.errors import ErrorCode
from raftkv.kv.changes import Changed, decode_changed, encode_changed
from raftkv.kv.commands import Compact, Compacted, Rejected, Swept
from raftkv.kv.keys import CHANGES, changes_key, version_suffix
from raftkv.kv.limits import MAX_SWEPT_VERSIONS
from raftkv.kv.records import decode_version
from raftkv.kv.store import Reader, Writer
from raftkv.kv.versions import compacted, newest_head


def compact(command: Compact, revision: int, compacted_revision: int) -> Compacted | Rejected:
    """Judge a compaction of a store at `revision`, whose history begins at `compacted_revision`."""
    wanted = command.revision
    if wanted == 0:
        return Rejected(ErrorCode.INVALID_ARGUMENT, "revision is 0; the first one that can be compacted to is 1")
    if wanted > revision:
        return Rejected(ErrorCode.FUTURE_REVISION, f"revision {wanted} is in the future: the store is at {revision}")
    if wanted <= compacted_revision:
        error = compacted(wanted, compacted_revision)
        return Rejected(error.code, error.message, error.number)
    return Compacted(wanted)


def unswept(reader: Reader, compacted_revision: int) -> bool:
    """Whether compaction has left something for `sweep`."""
    return reader.first(CHANGES, changes_key(compacted_revision)) is not None


def sweep(writer: Writer, compacted_revision: int) -> Swept:
    """Remove some of what is out of sight."""
    looked_at = removed = 0
    while looked_at < MAX_SWEPT_VERSIONS:
        found = writer.first(CHANGES, changes_key(compacted_revision))
        if found is None:
            return Swept(removed, False)
        stored_key, row = found
        rest: list[Changed] = []
        for revision, prefixes in decode_changed(row):
            take = prefixes[: max(MAX_SWEPT_VERSIONS - looked_at, 0)]
            looked_at += len(take)
            removed += sum([_remove_out_of_sight(writer, prefix, revision) for prefix in take])
            if len(take) < len(prefixes):
                rest.append(Changed(revision, prefixes[len(take) :]))
        if rest:
            writer.put(stored_key, encode_changed(rest))
        else:
            writer.delete(stored_key)
    return Swept(removed, unswept(writer, compacted_revision))


def _remove_out_of_sight(writer: Writer, prefix: bytes, revision: int) -> int:
    """Remove what the change of a key at `revision` has put out of sight; return how many versions.

    The version before it, however old that is: an earlier compaction may have kept it and forgotten who made it. And
    the change itself where it was a deletion, for then nothing is left to hide.
    """
    removed = 0
    before = newest_head(writer, prefix, revision - 1)
    if before is not None:
        writer.delete(before[0])
        removed += 1
    stored_key = prefix + version_suffix(revision)
    change = newest_head(writer, prefix, revision)
    if change is not None and change[0] == stored_key and not decode_version(change[1])[1]:
        writer.delete(stored_key)
        removed += 1
    return removed
