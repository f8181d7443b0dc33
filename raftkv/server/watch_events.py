"""Changes as events on the wire, encoded once for all who are told of them."""

from __future__ import annotations

from raftkv.kv.keys import is_place, ticket_of, user_key
from raftkv.kv.line import contender_of
from raftkv.kv.records import TOMBSTONE, VERSION_BYTES, decode_version
from raftkv.kv.writing import Change
from raftkv.server.wire_locks import fill_contender
from raftkv.v1 import kv_pb2, lock_pb2, watch_pb2


class Event:
    """A change, and how it is said."""

    __slots__ = ("_plain", "_with_previous", "change", "deleted")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.deleted = change.row == TOMBSTONE
        self._plain: bytes | None = None
        self._with_previous: bytes | None = None

    def encoded(self, *, with_previous: bool) -> bytes:
        """Return it as a field of a WatchResponse, tag and length included: such fields may be strung together."""
        if not with_previous or self.change.previous is None:
            if self._plain is None:
                self._plain = _encode(self.change, deleted=self.deleted, with_previous=False)
            return self._plain
        if self._with_previous is None:
            self._with_previous = _encode(self.change, deleted=self.deleted, with_previous=True)
        return self._with_previous

    def weight(self) -> int:
        """Return about how many bytes it takes, encoded forms included."""
        change = self.change
        return 500 + 3 * len(change.prefix) + 3 * len(change.row) + 2 * len(change.previous or b"")


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
