r"""The layout of the one ordered keyspace: which row lives where.

The first byte of a stored key names its table:

    META        b"\x01"                                      one row: where the machine stands (records.Meta)
    VERSIONS    b"\x02" escaped-key 00 00 inverse-revision   one row per version of a key
                b"\x02" 00 01 escaped-lock 00 00 ticket inverse-revision     the same of a place in a lock's line
    SESSIONS    b"\x03" session                              one row per session (records.SessionHead)
    RESULTS     b"\x04" session log-index                    the results that one entry added to one session
    CHANGES     b"\x05" revision                             what one entry changed, by its last revision (`changes`)
    LEASES      b"\x06" lease                                one row per lease (records.LeaseHead)
    LEASE_KEYS  b"\x07" lease escaped-key 00 00              one empty row per key that is attached to a lease
    LOCKS       b"\x08" escaped-lock 00 00                   one row per lock that was ever granted (records.LockHead)
    LINES       b"\x09" escaped-lock 00 00 ticket            one row per place in a line (records.PlaceRecord)
    UNFINISHED  b"\x0a" escaped-lock 00 00                   one empty row per lock with grants left over (`line`)

Numbers are 8 bytes, big-endian, so that they sort. `inverse-revision` is 2**64 - 1 - mod_revision: the newest version
of a key is its first row, and the version at revision r is the first row at or after the inverse of r.

Within a key a zero byte is written 00 FF and the key is closed by 00 00. That keeps the order of the keys (the end of a
key sorts before everything that could continue it), and no escaped key is a prefix of another, so the versions of one
key lie together. 00 01 occurs in no escaped key: places in line have versions, so that they can be watched, and lie
before the first key that a range can name.

What a key's versions begin with, its **prefix**, stands for the key wherever keys and places are treated alike.
"""

from __future__ import annotations

import struct
from typing import Final

from raftkv.kv.limits import MAX_KEY_BYTES

META: Final = b"\x01"
VERSIONS: Final = b"\x02"
SESSIONS: Final = b"\x03"
RESULTS: Final = b"\x04"
CHANGES: Final = b"\x05"
LEASES: Final = b"\x06"
LEASE_KEYS: Final = b"\x07"
LOCKS: Final = b"\x08"
LINES: Final = b"\x09"
UNFINISHED: Final = b"\x0a"
TABLES_END: Final = b"\x0b"

VERSIONS_END: Final = SESSIONS
"""Upper bound of the VERSIONS table."""

ONE_KEY: Final = b""
"""As range_end: the one key."""

FROM_KEY: Final = b"\0"
"""As range_end: no upper bound."""

OLDEST: Final = b"\xff" * 8
"""Closes the history of a key: the inverse of revision 0, at which nothing is ever written."""

MAX_PREFIX_BYTES: Final = len(VERSIONS) + MAX_KEY_BYTES + 2
"""Length of `version_prefix` of the longest key."""

_PLACES: Final = VERSIONS + b"\0\1"
_U64 = struct.Struct(">Q")
_TWO_U64 = struct.Struct(">cQQ")
_MAX_U64 = 2**64 - 1


def version_prefix(key: bytes) -> bytes:
    """Return what all versions of `key` begin with; `version_prefix(key) + OLDEST` lies behind them."""
    return VERSIONS + key.replace(b"\0", b"\0\xff") + b"\0\0"


def version_suffix(revision: int) -> bytes:
    """Return what follows the prefix of a key in the row written at `revision`: its inverse."""
    return _U64.pack(_MAX_U64 - revision)


def user_key(prefix: bytes) -> bytes:
    """Return the key of a `version_prefix`."""
    return prefix[1:-2].replace(b"\0\xff", b"\0")


def revision_of(version_key: bytes) -> int:
    """Return the mod_revision in the stored key of a version."""
    inverse: int = _U64.unpack(version_key[-8:])[0]
    return _MAX_U64 - inverse


def range_bounds(key: bytes, range_end: bytes) -> tuple[bytes, bytes]:
    """Return (start, stop) around the versions of one key, [key, range_end), or all from `key` on (FROM_KEY)."""
    if range_end == ONE_KEY:
        return _bound(key), _bound(key + b"\0")
    return _bound(key), VERSIONS_END if range_end == FROM_KEY else _bound(range_end)


def session_key(session: int) -> bytes:
    """Return the stored key of a session's head."""
    return SESSIONS + _U64.pack(session)


def session_of(stored_key: bytes) -> int:
    """Return the session of a key of SESSIONS or RESULTS."""
    return number_of(stored_key)


def results_key(session: int, index: int) -> bytes:
    """Return the stored key of the results that entry `index` added to a session."""
    return _TWO_U64.pack(RESULTS, session, index)


def index_of(results_key: bytes) -> int:
    """Return the log index in a key of RESULTS."""
    index: int = _U64.unpack(results_key[9:])[0]
    return index


def changes_key(revision: int) -> bytes:
    """Return the stored key of what an entry changed, by its last revision."""
    return CHANGES + _U64.pack(revision)


def lease_key(lease: int) -> bytes:
    """Return the stored key of a lease's head."""
    return LEASES + _U64.pack(lease)


def number_of(stored_key: bytes) -> int:
    """Return the number behind the table of a key: the revision of CHANGES, the lease of LEASES and LEASE_KEYS."""
    number: int = _U64.unpack(stored_key[1:9])[0]
    return number


def lease_keys_prefix(lease: int) -> bytes:
    """Return what the rows of the keys of a lease begin with."""
    return LEASE_KEYS + _U64.pack(lease)


def attachment_key(lease: int, prefix: bytes) -> bytes:
    """Return the stored key of the row that attaches the key of a prefix to a lease."""
    return LEASE_KEYS + _U64.pack(lease) + prefix[1:]


def attached_keys_start(lease: int) -> bytes:
    """Return where the rows of a lease's keys begin: those of its places in lines lie before."""
    return LEASE_KEYS + _U64.pack(lease) + b"\0\2"


def attached_prefix(stored_key: bytes) -> bytes:
    """Return the prefix in a key of LEASE_KEYS."""
    return VERSIONS + stored_key[9:]


def lock_key(lock: bytes) -> bytes:
    """Return the stored key of a lock's head."""
    return LOCKS + _closed(lock)


def line_prefix(lock: bytes) -> bytes:
    """Return what the stored keys of a lock's line begin with."""
    return LINES + _closed(lock)


def line_key(lock: bytes, ticket: int) -> bytes:
    """Return the stored key of a place in line."""
    return LINES + _closed(lock) + _U64.pack(ticket)


def ticket_of(line_key: bytes) -> int:
    """Return the ticket in a key of LINES, or in the prefix of a place."""
    ticket: int = _U64.unpack(line_key[-8:])[0]
    return ticket


def unfinished_key(lock: bytes) -> bytes:
    """Return the stored key of the row that says that more of a lock's line is to be granted."""
    return UNFINISHED + _closed(lock)


def lock_of_unfinished(stored_key: bytes) -> bytes:
    """Return the lock of a key of UNFINISHED."""
    return stored_key[1:-2].replace(b"\0\xff", b"\0")


def place_prefix(lock: bytes, ticket: int) -> bytes:
    """Return the prefix of the versions of a place in line."""
    return _PLACES + _closed(lock) + _U64.pack(ticket)


def is_place(prefix: bytes) -> bool:
    """Whether a prefix is that of a place in a line, and not of a key."""
    return prefix.startswith(_PLACES)


def lock_of_place(prefix: bytes) -> bytes:
    """Return the lock of the prefix of a place."""
    return prefix[len(_PLACES) : -10].replace(b"\0\xff", b"\0")


def places_bounds(lock: bytes) -> tuple[bytes, bytes]:
    """Return (start, stop) around the prefixes of all places of a lock's line."""
    start = _PLACES + _closed(lock)
    return start, start[:-1] + b"\1"


def _closed(name: bytes) -> bytes:
    return name.replace(b"\0", b"\0\xff") + b"\0\0"


def _bound(key: bytes) -> bytes:
    # A bound may be longer than any stored key. Two bytes more than the longest escaped key decide every comparison:
    # where a stored key is a prefix of the bound, they still tell its end (00 00) from what continues the bound.
    return VERSIONS + key.replace(b"\0", b"\0\xff")[: MAX_KEY_BYTES + 2]
