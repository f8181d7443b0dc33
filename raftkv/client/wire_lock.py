"""Messages of locks, and what they say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftkv.client.results import Contender, LockKind, LockState
from raftkv.client.spans import to_bytes
from raftkv.client.wire import check_u64
from raftkv.errors import InvalidArgument
from raftkv.v1 import kv_pb2, lock_pb2

MAX_NAME_BYTES: Final = 200
MAX_VALUE_BYTES: Final = 1 << 16
MAX_LIMIT: Final = 1_000_000
_MAX_U32: Final = 2**32 - 1

_KINDS: Final = {
    LockKind.MUTEX: lock_pb2.LockKind.MUTEX,
    LockKind.READ_WRITE: lock_pb2.LockKind.READ_WRITE,
    LockKind.SEMAPHORE: lock_pb2.LockKind.SEMAPHORE,
    LockKind.ELECTION: lock_pb2.LockKind.ELECTION,
}
_FROM_WIRE: Final = {number: kind for kind, number in _KINDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSpec:
    """What one contender wants: which lock, of which kind, and how."""

    name: bytes
    kind: LockKind
    exclusive: bool
    limit: int = 0
    """Of a semaphore; else 0."""


def lock_name(name: bytes | str) -> bytes:
    """Return the name of a lock. Raises InvalidArgument unless it is 1 to 200 bytes, zero bytes counted twice."""
    found = to_bytes(name)
    if not found:
        raise InvalidArgument("the name of the lock is empty")
    if len(found) + found.count(0) > MAX_NAME_BYTES:
        raise InvalidArgument(f"the name of the lock is too long: {len(found)} bytes, at most {MAX_NAME_BYTES}")
    return found


def lock_value(value: bytes | str) -> bytes:
    """Return the value that a contender shows. Raises InvalidArgument above 64 KiB."""
    found = to_bytes(value)
    if len(found) > MAX_VALUE_BYTES:
        raise InvalidArgument(f"the value is too large: {len(found)} bytes, at most {MAX_VALUE_BYTES}")
    return found


def semaphore_limit(limit: int) -> int:
    """Return how many may hold a semaphore. Raises InvalidArgument unless it is from 1 to 1,000,000."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(f"limit is {limit!r}, not a number from 1 to {MAX_LIMIT}")
    return limit


def acquire_operation(spec: LockSpec, lease: int, value: bytes, *, wait: bool) -> kv_pb2.Operation:
    """Return an acquire, without its id."""
    return kv_pb2.Operation(
        lock_acquire=lock_pb2.LockAcquireRequest(
            name=spec.name,
            lease=lease,
            kind=_KINDS[spec.kind],
            exclusive=spec.exclusive,
            limit=spec.limit,
            value=value,
            no_wait=not wait,
        )
    )


def release_operation(name: bytes, lease: int) -> kv_pb2.Operation:
    """Return a release, without its id."""
    return kv_pb2.Operation(lock_release=lock_pb2.LockReleaseRequest(name=name, lease=lease))


def proclaim_operation(name: bytes, lease: int, token: int, value: bytes) -> kv_pb2.Operation:
    """Return a proclamation, without its id."""
    request = lock_pb2.LockProclaimRequest(name=name, lease=lease, token=token, value=value)
    return kv_pb2.Operation(lock_proclaim=request)


def query_operation(name: bytes, limit: int = 0) -> kv_pb2.Operation:
    """Return a question about a lock, without its id. `limit` 0: as many contenders as an answer holds."""
    check_u64("limit", limit)
    if limit > _MAX_U32:
        raise InvalidArgument(f"limit is {limit}, at most {_MAX_U32}")
    return kv_pb2.Operation(lock_query=lock_pb2.LockQueryRequest(name=name, limit=limit))


def to_contender(one: lock_pb2.Contender) -> Contender:
    """Decode somebody in line."""
    kind = _FROM_WIRE.get(one.kind, LockKind.MUTEX)
    return Contender(one.ticket, one.token, one.lease, one.exclusive, one.value, kind, one.limit)


def to_lock_state(answer: lock_pb2.LockQueryResponse) -> LockState:
    """Decode the answer to a question about a lock."""
    return LockState(
        tuple(to_contender(one) for one in answer.contenders),
        answer.more,
        answer.newest_token,
        answer.floor_token,
        answer.revision,
    )
