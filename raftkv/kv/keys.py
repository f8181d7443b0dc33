r"""The layout of the one ordered keyspace: which row lives where.

The first byte of a stored key names its table:

    META      b"\x01"                                      one row: where the machine stands (records.Meta)
    VERSIONS  b"\x02" escaped-key 00 00 inverse-revision   one row per version of a key
    SESSIONS  b"\x03" session                              one row per session (records.SessionHead)
    RESULTS   b"\x04" session log-index                    the results that one entry added to one session

Numbers are 8 bytes, big-endian, so that they sort. `inverse-revision` is 2**64 - 1 - mod_revision: the newest version
of a key is its first row, and the version at revision r is the first row at or after the inverse of r.

Within a key a zero byte is written 00 FF and the key is closed by 00 00. That keeps the order of the keys (the end of a
key sorts before everything that could continue it), and no escaped key is a prefix of another, so the versions of one
key lie together.
"""

from __future__ import annotations

import struct
from typing import Final

from raftkv.kv.limits import MAX_KEY_BYTES

META: Final = b"\x01"
VERSIONS: Final = b"\x02"
SESSIONS: Final = b"\x03"
RESULTS: Final = b"\x04"

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

_U64 = struct.Struct(">Q")
_RESULTS_KEY = struct.Struct(">cQQ")
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
    session: int = _U64.unpack(stored_key[1:9])[0]
    return session


def results_key(session: int, index: int) -> bytes:
    """Return the stored key of the results that entry `index` added to a session."""
    return _RESULTS_KEY.pack(RESULTS, session, index)


def index_of(results_key: bytes) -> int:
    """Return the log index in a key of RESULTS."""
    index: int = _U64.unpack(results_key[9:])[0]
    return index


def _bound(key: bytes) -> bytes:
    # A bound may be longer than any stored key. Two bytes more than the longest escaped key decide every comparison:
    # where a stored key is a prefix of the bound, they still tell its end (00 00) from what continues the bound.
    return VERSIONS + key.replace(b"\0", b"\0\xff")[: MAX_KEY_BYTES + 2]
