"""What a request may ask for at most, and the checks that say so.

Each `*_fault` function names the limit that a request breaks, or returns None. The server turns it into an error before
it proposes anything; the state machine asks the same function again at apply, where the answer is a
`Rejected` result: a command that slipped past a server is judged alike on every node and never stops one.

The limits are part of the replicated state machine: every node of a cluster must judge by the same numbers, so they are
constants and not settings.
"""

from __future__ import annotations

from raftkv.errors import InvalidArgument

MAX_KEY_BYTES = 500
"""Longest key; each zero byte counts twice. So that the stored key fits in `store.MAX_KEY_BYTES` (see `keys`)."""

MAX_VALUE_BYTES = 1 << 20
"""Largest value (1 MiB)."""

MAX_REQUEST_BYTES = 3 << 19
"""Largest request, all operations of a batch together (1.5 MiB, as etcd)."""

MAX_DELETED_KEYS = 5_000
"""Most keys that one Delete removes."""

MAX_DELETE_WORK = 30_000
"""Most work that one Delete spends on finding its keys, in units of `ranges.row_cost`: the deleted ones cost too.

It keeps apply below 50 ms: the loop that applies is the one that sends heartbeats.
"""

PAGE_BYTES = 1 << 20
"""A page of a range ends before its keys and values exceed this (1 MiB); a single pair always fits."""

PAGE_PAIRS = 2_000
"""A page of a range holds at most this many pairs: turning them into an answer takes some 10 ms, in one go."""

MAX_TXN_OPERATIONS = 128
"""Most operations of one transaction, all branches together (as etcd)."""

MAX_TXN_COMPARES = 128
"""Most compares of one transaction, all branches together."""

MAX_TXN_DEPTH = 8
"""Most branches within one another."""

MAX_FENCES = 16
"""Most fences of one write."""

MAX_TXN_RESULT_BYTES = 1 << 20
"""Most that the ranges and previous values of one transaction may give (1 MiB): its session remembers it."""

MAX_TXN_WORK = 30_000
"""Most work of one transaction's compares, deletes and ranges, in units of `ranges.row_cost`, as MAX_DELETE_WORK."""

MIN_LEASE_TTL_MS = 500
"""Shortest lease: shorter ones would end whenever a leader is replaced."""

MAX_LEASE_TTL_MS = 31_536_000_000
"""Longest lease (365 days)."""

MAX_LEASES = 100_000
"""Most leases at a time."""

MAX_LEASE_KEYS = 5_000
"""Most keys (places in lines included) attached to one lease: they are deleted in one go."""

MAX_KEPT_ALIVE = 1_000
"""Most leases that one KeepAlive renews."""

MAX_LOCK_NAME_BYTES = 200
"""Longest name of a lock; each zero byte counts twice."""

MAX_LOCK_VALUE_BYTES = 1 << 16
"""Largest value that a contender shows (64 KiB)."""

MAX_SEMAPHORE_LIMIT = 1_000_000
"""Most holders of a semaphore at a time."""

MAX_SWEPT_VERSIONS = 1_000
"""Most versions that one Sweep looks at."""

MAX_EXPIRED_KEYS = 5_000
"""One Expire ends leases until so many keys went with them."""

SESSION_TTL_MS = 3_600_000
"""A session ends after this much cluster time without a write (1 hour)."""

SESSION_WINDOW = 16_384
"""A sequence may run at most this far ahead of acknowledged_below: bounds the results that one session remembers."""

SESSION_RESULT_BYTES = 16 << 20
"""Results that one session remembers, together (16 MiB); a write on top is refused until some are acknowledged."""

MAX_SESSIONS = 10_000
"""Most sessions at a time; one more ends the least recently active one."""


def key_fault(key: bytes) -> str | None:
    """Say why `key` cannot be stored, or None."""
    if not key:
        return "key is empty"
    if len(key) + key.count(0) > MAX_KEY_BYTES:
        return f"key is too long: {len(key)} bytes, of which {key.count(0)} zero; at most {MAX_KEY_BYTES}, zeros twice"
    return None


def put_fault(key: bytes, value: bytes) -> str | None:
    """Say which limit a put breaks, or None."""
    if 0 < len(key) <= MAX_KEY_BYTES // 2 and len(value) <= MAX_VALUE_BYTES:
        return None  # most of them: with a key so short, zeros need not be counted
    if len(value) > MAX_VALUE_BYTES:
        return f"value is too large: {len(value)} bytes, at most {MAX_VALUE_BYTES}"
    return key_fault(key)


def range_fault(key: bytes, range_end: bytes) -> str | None:
    """Say which limit a range or a delete breaks, or None.

    The bounds of a range need not be storable keys (the next page starts at the last key and a zero byte), so their
    length is limited by that of the request only.
    """
    if not range_end:
        return key_fault(key)
    if not key:
        return "key is empty; every key from the first on is key=one zero byte, range_end=one zero byte"
    if range_end != b"\0" and range_end < key:
        return "range_end lies before key"
    return None


def validate_request_bytes(size_bytes: int) -> None:
    """Raise InvalidArgument, naming the limit, unless a request of this size (on the wire, as a whole) is allowed."""
    if size_bytes > MAX_REQUEST_BYTES:
        raise InvalidArgument(f"request is too large: {size_bytes} bytes, at most {MAX_REQUEST_BYTES}; split it")


def fence_fault(fence: object) -> str | None:
    return None
