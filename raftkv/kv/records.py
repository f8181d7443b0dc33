"""The values of the rows (`keys` says where each lives).

Fixed binary headers where a row is read or written once per write, msgpack where it is read only at start. There is one
format number for the whole store, in the META row: `read_meta` refuses a store of another format before anything else
of it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgpack

from raftkv.errors import StorageError
from raftkv.kv import packing
from raftkv.kv.commands import Result
from raftkv.kv.keys import META
from raftkv.kv.store import Reader

FORMAT: Final = 2


class CorruptRow(StorageError):
    """A row of the ordered store does not decode.

    Way out: discard the working store; the node rebuilds it from its checkpoint and log.
    """


class Meta(NamedTuple):
    """Where the machine stands. Written in every transaction that changes any other row (raft-bugs 37)."""

    applied_index: int
    applied_term: int
    revision: int
    """The store's revision. Stored, not derived from the rows, so that removing rows cannot lower it (raft-bugs 48)."""
    compacted_revision: int
    """Reads below it fail. 0: nothing was ever compacted."""
    time_ms: int
    """Cluster time."""
    last_session: int
    """Id of the session registered last; ids count up and are never used again."""
    last_lease: int
    """The highest lease id ever chosen by the store; ids count up from it and are never used again."""
    last_token: int
    """The fencing token granted last, of whatever lock. Only ever grows: it outlives locks, leases and restores."""


EMPTY_META: Final = Meta(
    applied_index=0,
    applied_term=0,
    revision=1,
    compacted_revision=0,
    time_ms=0,
    last_session=0,
    last_lease=0,
    last_token=0,
)
"""An empty store. Its revision is 1 and the first write makes revision 2, exactly as in etcd."""

_META = struct.Struct(">BQQQQQQQQ")


def encode_meta(meta: Meta) -> bytes:
    return _META.pack(FORMAT, *meta)


def read_meta(reader: Reader) -> Meta:
    """Return the META row, or EMPTY_META for a new store. Raises CorruptRow."""
    row = reader.get(META)
    return EMPTY_META if row is None else decode_meta(row)


def decode_meta(row: bytes) -> Meta:
    """Raises CorruptRow."""
    if row[:1] != bytes((FORMAT,)):
        raise CorruptRow(f"state store of format {row[:1].hex()}; this build reads format {FORMAT:02x}")
    try:
        return Meta._make(_META.unpack(row)[1:])
    except struct.error as error:
        raise CorruptRow(f"meta row of {len(row)} bytes: {error}") from error


_VERSION = struct.Struct(">QQQB")
VERSION_BYTES: Final = _VERSION.size
"""Length of the header of a row of VERSIONS: create_revision, version, lease, flags. The value follows it."""
_NO_FLAGS: Final = 0
TOMBSTONE: Final = _VERSION.pack(0, 0, 0, _NO_FLAGS)
"""The row that says that a key is deleted: its version is 0."""


def encode_version(create_revision: int, version: int, lease: int, value: bytes) -> bytes:
    return _VERSION.pack(create_revision, version, lease, _NO_FLAGS) + value


def decode_version(row: bytes) -> tuple[int, int, int]:
    """Return (create_revision, version, lease) of a row of VERSIONS. Raises CorruptRow."""
    try:
        create_revision, version, lease, flags = _VERSION.unpack_from(row)
    except struct.error as error:
        raise CorruptRow(f"version row of {len(row)} bytes: {error}") from error
    if flags:
        raise CorruptRow(f"version row with unknown flags {flags:#x}")
    return create_revision, version, lease


class SessionHead(NamedTuple):
    """A row of SESSIONS."""

    last_active_ms: int
    """Cluster time of the last write that named the session."""
    low: int
    """Sequences below it are acknowledged: never applied again, their results forgotten."""


_HEAD = struct.Struct(">QQ")


def encode_session_head(head: SessionHead) -> bytes:
    return _HEAD.pack(*head)


def decode_session_head(row: bytes) -> SessionHead:
    """Raises CorruptRow."""
    try:
        return SessionHead._make(_HEAD.unpack(row))
    except struct.error as error:
        raise CorruptRow(f"session row of {len(row)} bytes: {error}") from error


class LeaseHead(NamedTuple):
    """A row of LEASES."""

    ttl_ms: int
    deadline_ms: int
    """Cluster time at which it ends unless it is renewed before."""


_LEASE = struct.Struct(">QQ")


def encode_lease_head(head: LeaseHead) -> bytes:
    return _LEASE.pack(*head)


def decode_lease_head(row: bytes) -> LeaseHead:
    """Raises CorruptRow."""
    try:
        return LeaseHead._make(_LEASE.unpack(row))
    except struct.error as error:
        raise CorruptRow(f"lease row of {len(row)} bytes: {error}") from error


class LockHead(NamedTuple):
    """A row of LOCKS: what is true of a lock as a whole. It stays when the line is empty, for the tokens' sake."""

    kind: int
    """A `commands.LockKind`: of those in line, or of the last who were."""
    limit: int
    """Of a semaphore, else 0."""
    shared: bool
    """The newest grant was a shared one, and to a contender of this kind: later shared ones leave the floor alone."""
    newest_token: int
    """0: never granted."""
    floor_token: int
    """Tokens from here on are of grants that no later one excludes; 0: never granted."""
    last_granted: int
    """The ticket granted last. All places up to it are granted, all behind it wait."""
    holders: int
    """How many places are granted now."""
    waiting: int
    """How many are not."""


_LOCK = struct.Struct(">BIBQQQQQ")


def encode_lock_head(head: LockHead) -> bytes:
    return _LOCK.pack(*head)


def decode_lock_head(row: bytes) -> LockHead:
    """Raises CorruptRow."""
    try:
        kind, limit, shared, *numbers = _LOCK.unpack(row)
    except struct.error as error:
        raise CorruptRow(f"lock row of {len(row)} bytes: {error}") from error
    if shared > 1:
        raise CorruptRow(f"lock row with unknown flags {shared:#x}")
    return LockHead(kind, limit, shared == 1, *numbers)


class PlaceRecord(NamedTuple):
    """A place in a line: a row of LINES (without the value), and the value of a version of the place (with it)."""

    token: int
    """Fencing token of its grant; 0: it waits."""
    lease: int
    kind: int
    exclusive: bool
    limit: int
    value: bytes


_PLACE = struct.Struct(">QQBBI")


def encode_place(place: PlaceRecord) -> bytes:
    token, lease, kind, exclusive, limit, value = place
    return _PLACE.pack(token, lease, kind, exclusive, limit) + value


def decode_place(row: bytes, start: int = 0) -> PlaceRecord:
    """Return the place in a row of LINES, or in one of VERSIONS (`start` is VERSION_BYTES). Raises CorruptRow."""
    try:
        token, lease, kind, exclusive, limit = _PLACE.unpack_from(row, start)
    except struct.error as error:
        raise CorruptRow(f"place of {len(row) - start} bytes: {error}") from error
    if exclusive > 1:
        raise CorruptRow(f"place with unknown flags {exclusive:#x}")
    return PlaceRecord(token, lease, kind, exclusive == 1, limit, row[start + _PLACE.size :])


def encode_results(results: Iterable[tuple[int, Result]]) -> bytes:
    """Return a row of RESULTS: [[sequence, tag, *fields], ...]."""
    row: bytes = msgpack.packb(packing.pack_results(results))
    return row


def decode_results(row: bytes) -> list[tuple[int, Result]]:
    """Return what `encode_results` was given. Raises CorruptRow, and nothing else, on any other bytes."""
    try:
        return [
            (packing.number(sequence, "sequence"), packing.unpack_result(tuple(packed)))
            for sequence, *packed in packing.array(packing.unpack(row), "results")
        ]
    except (ValueError, TypeError) as error:
        raise CorruptRow(f"results row of {len(row)} bytes: {error}") from error
