"""Changes as events on the wire, encoded once for all who are told of them."""

from __future__ import annotations

from raftkv.invariant import invariant
from raftkv.kv.keys import is_place, ticket_of, user_key
from raftkv.kv.line import contender_of
from raftkv.kv.records import TOMBSTONE, VERSION_BYTES, decode_version
from raftkv.kv.versions import LongRow, size_of
from raftkv.kv.view import View
from raftkv.kv.writing import Change
from raftkv.server.wire_locks import fill_contender
from raftkv.v1 import kv_pb2, lock_pb2, watch_pb2


class Event:
    """A change, and how it is said."""

    __slots__ = ("_plain", "_with_previous", "change", "deleted", "weight")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.deleted = change.row == TOMBSTONE
        self._plain: bytes | None = None
        self._with_previous: bytes | None = None
        previous = 0 if change.previous is None else size_of(change.previous)
        self.weight = 500 + 3 * len(change.prefix) + 3 * len(change.row) + 2 * previous
        """About how many bytes it takes, encoded forms included, and what may yet be read for it (`unread`). So that
        also bounds how much a single revision in the hub's ring makes somebody read in one go."""

    def encoded(self, *, with_previous: bool) -> bytes:
        """Return it as a field of a WatchResponse, tag and length included: such fields may be strung together."""
        if not with_previous or self.change.previous is None:
            if self._plain is None:
                self._plain = _encode(self.change, deleted=self.deleted, with_previous=False)
            return self._plain
        if self._with_previous is None:
            self._with_previous = _encode(self.change, deleted=self.deleted, with_previous=True)
        return self._with_previous

    @property
    def unread(self) -> bool:
        """Whether the version before it is still to be read, before it is encoded with it."""
        return type(self.change.previous) is LongRow

    def read_previous(self, view: View) -> int:
        """Read the version before it, as large as it may be; return its size. Compaction may have removed it: then it
        is not told."""
        change = self.change
        row = view.version(change.prefix, change.previous_revision)
        if row is None:
            self.change = change._replace(previous=None, previous_revision=0)
            return 0
        self.change = change._replace(previous=row)
        return len(row)


def _encode(change: Change, *, deleted: bool, with_previous: bool) -> bytes:
    event = watch_pb2.Event(kind=watch_pb2.Event.DELETE if deleted else watch_pb2.Event.PUT)
    revision, prefix, row, previous, previous_revision = change
    if is_place(prefix):
        event.kv.mod_revision = revision
        _fill_contender(event.contender, prefix, row, deleted=deleted)
    else:
        key = user_key(prefix)
        if deleted:
            event.kv.key, event.kv.mod_revision = key, revision
        else:
            _fill_pair(event.kv, key, revision, row)
        if with_previous and previous is not None:
            invariant(isinstance(previous, bytes), "revision {} is told before the version before it is read", revision)
            assert isinstance(previous, bytes)
            _fill_pair(event.prev_kv, key, previous_revision, previous)
    return watch_pb2.WatchResponse(events=[event]).SerializeToString()


def _fill_pair(pair: kv_pb2.KeyValue, key: bytes, revision: int, row: bytes) -> None:
    pair.key = key
    pair.create_revision, pair.version, pair.lease = decode_version(row)
    pair.mod_revision = revision
    pair.value = row[VERSION_BYTES:]


def _fill_contender(target: lock_pb2.Contender, prefix: bytes, row: bytes, *, deleted: bool) -> None:
    if deleted:
        target.ticket = ticket_of(prefix)
    else:
        fill_contender(target, contender_of(prefix, row))
