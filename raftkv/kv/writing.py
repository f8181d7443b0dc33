"""Writing versions: every change of a key, or of a place in line, goes through here.

One `Writing` lasts as long as a transaction of the store. Each command that changes something makes one revision:

    mark = writing.mark()
    writing.put(prefix, value, lease)      # any number of changes, all at the revision `writing.next`
    writing.delete(prefix)
    writing.commit(mark)                   # the store is at the next revision, if anything has changed
    writing.undo(mark)                     # or: nothing has happened

A prefix may be changed once in a revision, for its versions are named by their revisions.

`commit` also keeps the leases true: a key that was written with another lease than before moves to that one.
"""

from __future__ import annotations

from types import EllipsisType
from typing import NamedTuple, Protocol

from raftkv.kv.keys import revision_of, version_suffix
from raftkv.kv.records import TOMBSTONE, VERSION_BYTES, decode_version, encode_version
from raftkv.kv.store import Writer
from raftkv.kv.versions import WHOLE_ROW_BYTES, LiveHead, LongRow, Row, header_of, newest_head


class Change(NamedTuple):
    """What one revision did to one key."""

    revision: int
    prefix: bytes
    row: bytes
    """The new version; `records.TOMBSTONE`: it was deleted."""
    previous: Row | None
    """The version before it; None: there was no such key. A `LongRow`: it has not been read, and can be read from the
    store as the version of `previous_revision`, unless it has been compacted away."""
    previous_revision: int
    """The mod_revision of `previous`, or 0."""


_new_tuple = tuple.__new__


class Attachments(Protocol):
    """Who is told which lease a key is attached to (`lease.LeaseTable`)."""

    def attach(self, writer: Writer, lease: int, prefix: bytes) -> None: ...

    def detach(self, writer: Writer, lease: int, prefix: bytes) -> None: ...


class Writing:
    """The changes of one transaction of the store."""

    __slots__ = ("_attachments", "_moved", "changes", "revision", "writer")

    def __init__(self, writer: Writer, attachments: Attachments, revision: int) -> None:
        self.writer = writer
        self.revision = revision
        """The store's revision: that of the last command that changed something."""
        self.changes: list[Change] = []
        """In the order of their revisions, since they were taken last."""
        self._attachments = attachments
        self._moved: list[tuple[bytes, int, int]] = []
        """Of the revision under way: (prefix, lease before, lease now), 0 for none."""

    @property
    def next(self) -> int:
        """The revision that is being made."""
        return self.revision + 1

    def mark(self) -> int:
        """Begin a revision."""
        return len(self.changes)

    def put(
        self,
        prefix: bytes,
        value: bytes,
        lease: int = 0,
        newest: tuple[bytes, bytes, int] | EllipsisType | None = ...,
    ) -> Change:
        """Add a version. The lease, if any, must exist and have room.

        `newest`: what `newest_head` returns, where the caller has asked already.
        """
        writer = self.writer
        revision = self.revision + 1
        if newest is ...:
            newest = newest_head(writer, prefix)
        previous: Row | None = None
        previous_revision = 0
        create_revision, version, lease_before = revision, 1, 0
        if newest is not None:
            stored_key, row, size = newest
            created, before, lease_before = decode_version(row)
            if before:
                create_revision, version = created, before + 1
                # As row_of(...).
                previous = row if size <= WHOLE_ROW_BYTES else LongRow(row[:VERSION_BYTES], size)
                previous_revision = revision_of(stored_key)
        if lease != lease_before:
            self._moved.append((prefix, lease_before, lease))
        row = encode_version(create_revision, version, lease, value)
        writer.put(prefix + version_suffix(revision), row)
        # As Change(...), at half its cost: every put of every node comes here.
        change = _new_tuple(Change, (revision, prefix, row, previous, previous_revision))
        self.changes.append(change)
        return change

    def put_alone(self, prefix: bytes, value: bytes) -> int:
        """Make a revision of one put. Return it."""
        self.put(prefix, value)
        if self._moved:
            return self.commit(self.mark() - 1)
        self.revision += 1
        return self.revision

    def delete(self, prefix: bytes, found: LiveHead) -> Change:
        """Delete a key that exists; `found` is its newest version."""
        revision = self.revision + 1
        lease_before = decode_version(header_of(found.row))[2]
        if lease_before:
            self._moved.append((prefix, lease_before, 0))
        self.writer.put(prefix + version_suffix(revision), TOMBSTONE)
        change = Change(revision, prefix, TOMBSTONE, found.row, found.revision)
        self.changes.append(change)
        return change

    def commit(self, mark: int) -> int:
        """End a revision; where nothing has changed since `mark`, there is none. Return the store's revision."""
        if len(self.changes) == mark:
            return self.revision
        if self._moved:
            for prefix, before, lease in self._moved:
                if before:
                    self._attachments.detach(self.writer, before, prefix)
                if lease:
                    self._attachments.attach(self.writer, lease, prefix)
            self._moved.clear()
        self.revision += 1
        return self.revision

    def take(self) -> list[Change]:
        """Return the changes, and begin anew."""
        changes, self.changes = self.changes, []
        return changes

    def undo(self, mark: int) -> None:
        """Take back what was changed since `mark`."""
        for change in self.changes[mark:]:
            self.writer.delete(change.prefix + version_suffix(change.revision))
        del self.changes[mark:]
        self._moved.clear()
