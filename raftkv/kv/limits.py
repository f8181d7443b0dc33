"""What a request may ask for at most, and the checks that say so.

Each `*_fault` function names the limit that a request breaks, or returns None. The server turns it into an error before
it proposes anything; the state machine asks the same function again at apply, where the answer is a
`Rejected` result: a command that slipped past a server is judged alike on every node and never stops one.

The limits are part of the replicated state machine: every node of a cluster must judge by the same numbers, so they are
constants and not settings.
"""

from __future__ import annotations

from raftkv.errors import InvalidArgument
from raftkv.kv.commands import Acquire, Fence, FenceMode, GrantLease, KeepAlive, LockKind, Proclaim, Release

MAX_KEY_BYTES = 500
"""Longest key; each zero byte counts twice. So that the stored key fits in `store.MAX_KEY_BYTES` (see `keys`)."""

PLAIN_KEY_BYTES = MAX_KEY_BYTES // 2
"""Keys up to this length are storable, whatever is in them: their zeros need not be counted."""

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

MAX_ENTRY_RESULT_BYTES = 4 << 20
"""Once the transactions of one entry have read so much (4 MiB), those behind them are refused, to come again: an entry
is applied in one go, and sessions remember what it gives."""

MAX_TXN_WORK = 20_000
"""Most work of one transaction's compares, deletes and ranges, in units of `ranges.row_cost`, as MAX_DELETE_WORK."""

MIN_LEASE_TTL_MS = 500
"""Shortest lease: shorter ones would end whenever a leader is replaced."""

MAX_LEASE_TTL_MS = 31_536_000_000
"""Longest lease (365 days)."""

MAX_GIVEN_LEASE = 2**63 - 1
"""Highest lease id that a client may choose: the store's own ids go on above it."""

MAX_LEASES = 100_000
"""Most leases at a time."""

MAX_LEASE_KEYS = 5_000
"""Most keys attached to one lease, a place in a line counting as PLACE_WEIGHT: they are deleted in one go."""

PLACE_WEIGHT = 4
"""Leaving a line takes as long as deleting so many keys (20 us, and 6)."""

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

MAX_EXPIRED_KEYS = 2_500
"""One Expire ends leases until so many keys went with them; a place counts as PLACE_WEIGHT, and a lease as one more
than what is attached to it."""

MAX_GRANTS = 1_000
"""Most contenders for locks that the commands of one entry grant: readers behind a writer, or those next in the lines
that a lease leaves; fewer where it ended leases (GRANT_WEIGHT). Whoever is left over is granted by the next Expire,
which the leader proposes at once."""

GRANT_WEIGHT = 5
"""A grant takes as long as deleting so many keys: what an entry ends by ending leases, it grants less of. So ending the
heaviest lease there can be, and granting what that makes room for, stays below 50 ms."""

MIN_GRANTS = 100
"""An entry may grant so many, whatever leases it has ended: lines go on."""

MAX_GRANTED_BYTES = 4 << 20
"""The same bound for the values that grants write anew (4 MiB); the first grant of an entry is always made."""

SESSION_TTL_MS = 3_600_000
"""A session ends after this much cluster time without a write (1 hour)."""

SESSION_WINDOW = 16_384
"""A sequence may run at most this far ahead of acknowledged_below: bounds the results that one session remembers."""

SESSION_RESULT_BYTES = 16 << 20
"""Results that one session remembers, together (16 MiB); a write on top is refused until some are acknowledged,
unless its result is of a few bytes (see session)."""

ALL_RESULTS_BYTES = 256 << 20
"""Results that all sessions remember, together (256 MiB); more ends the least recently active sessions, but for those
that were active within SESSION_SAFE_MS: then writes are refused that may have long results."""

SESSION_SAFE_MS = 300_000
"""For so much cluster time after a write (5 minutes), a session is not ended to make room for results of others."""

MAX_SESSIONS = 10_000
"""Most sessions at a time; one more ends the least recently active one."""

_FENCE_MODES = frozenset(map(int, FenceMode))
_LOCK_KINDS = frozenset(map(int, LockKind))


def key_fault(key: bytes) -> str | None:
    """Say why `key` cannot be stored, or None."""
    if not key:
        return "key is empty"
    if len(key) <= PLAIN_KEY_BYTES:
        return None  # most of them
    if len(key) + key.count(0) > MAX_KEY_BYTES:
        return f"key is too long: {len(key)} bytes, of which {key.count(0)} zero; at most {MAX_KEY_BYTES}, zeros twice"
    return None


def put_fault(key: bytes, value: bytes) -> str | None:
    """Say which limit a put breaks, or None."""
    if 0 < len(key) <= PLAIN_KEY_BYTES and len(value) <= MAX_VALUE_BYTES:
        return None  # most of them
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


def grant_fault(command: GrantLease) -> str | None:
    """Say which limit a GrantLease breaks, or None."""
    if not MIN_LEASE_TTL_MS <= command.ttl_ms <= MAX_LEASE_TTL_MS:
        return f"ttl of {command.ttl_ms} ms; a lease lasts from {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms"
    if command.lease > MAX_GIVEN_LEASE:
        return f"lease id {command.lease} is too large: at most {MAX_GIVEN_LEASE}; 0 lets the store choose"
    return None


def keep_alive_fault(command: KeepAlive) -> str | None:
    """Say which limit a KeepAlive breaks, or None."""
    if not command.leases:
        return "no lease is named"
    if len(command.leases) > MAX_KEPT_ALIVE:
        return f"too many leases in one request: {len(command.leases)}, at most {MAX_KEPT_ALIVE}"
    return None


def lock_fault(lock: bytes) -> str | None:
    """Say why a lock cannot have this name, or None."""
    if not lock:
        return "name of the lock is empty"
    if len(lock) + lock.count(0) > MAX_LOCK_NAME_BYTES:
        return (
            f"name of the lock is too long: {len(lock)} bytes, of which {lock.count(0)} zero; "
            f"at most {MAX_LOCK_NAME_BYTES}, zeros twice"
        )
    return None


def acquire_fault(command: Acquire) -> str | None:
    """Say which limit an Acquire breaks, or what about it makes no sense, or None."""
    return (
        lock_fault(command.lock)
        or _lease_fault(command.lease)
        or _lock_value_fault(command.value)
        or _admission_fault(command.kind, command.exclusive, command.limit)
    )


def release_fault(command: Release) -> str | None:
    """Say which limit a Release breaks, or None."""
    return lock_fault(command.lock) or _lease_fault(command.lease)


def proclaim_fault(command: Proclaim) -> str | None:
    """Say which limit a Proclaim breaks, or None."""
    fault = lock_fault(command.lock) or _lease_fault(command.lease) or _lock_value_fault(command.value)
    if fault is None and not command.token:
        return "token is 0: that of a contender who waits"
    return fault


def fence_fault(fence: Fence) -> str | None:
    """Say what about a fence makes no sense, or None."""
    fault = lock_fault(fence.lock)
    if fault is not None:
        return f"fence: {fault}"
    if not fence.token:
        return "fence: token is 0: that of a contender who waits"
    if fence.mode not in _FENCE_MODES:
        return f"fence: unknown mode {fence.mode}"
    return None


def _lease_fault(lease: int) -> str | None:
    return None if lease else "lease is 0: a place in a lock's line needs a lease"


def _lock_value_fault(value: bytes) -> str | None:
    if len(value) > MAX_LOCK_VALUE_BYTES:
        return f"value of a contender is too large: {len(value)} bytes, at most {MAX_LOCK_VALUE_BYTES}"
    return None


def _admission_fault(kind: int, exclusive: bool, limit: int) -> str | None:
    if kind == LockKind.SEMAPHORE:
        if exclusive:
            return "a semaphore cannot be held exclusively; one of limit 1 is a mutex"
        if not 1 <= limit <= MAX_SEMAPHORE_LIMIT:
            return f"limit of a semaphore is {limit}, not from 1 to {MAX_SEMAPHORE_LIMIT}"
        return None
    if kind not in _LOCK_KINDS:
        return f"unknown kind of lock {kind}"
    if limit:
        return f"limit {limit} for a lock that is no semaphore; it must be 0"
    if kind != LockKind.READ_WRITE and not exclusive:
        return "a mutex or an election is always held exclusively"
    return None
