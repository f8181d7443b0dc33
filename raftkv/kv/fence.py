"""Fences: a write is refused unless its token is good, by the state at which the write is applied.

A lock alone cannot stop a holder that was paused and wakes up late; this can (notes/testing.md, fencing). Time enters
as the cluster time of the entry only, so every node judges alike.
"""

from __future__ import annotations

from raftkv.errors import ErrorCode
from raftkv.kv.commands import Fence, FenceMode, LockKind, Rejected
from raftkv.kv.lease_table import LeaseTable
from raftkv.kv.limits import fence_fault
from raftkv.kv.line import holder_with, read_head
from raftkv.kv.store import Reader


def check(reader: Reader, leases: LeaseTable, fence: Fence, now_ms: int) -> Rejected | None:
    """Say why a write with this fence is refused, or None.

    HOLDER: a granted place of the lock has the token, and its lease is alive. MAX_SEEN: the token is not older than the
    newest grant that excludes earlier ones (the floor), nor newer than any; a mutex knows one such token at a time,
    readers that share a lock share the floor. So while they do, a token of another lock that lies between passes: what
    readers that have left held is not remembered, and no other lock is looked at.
    """
    fault = fence_fault(fence)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    lock, token, mode = fence
    head = read_head(reader, lock)
    if head is None or not head.newest_token:
        return Rejected(ErrorCode.STALE_FENCE, f"token {token} is stale: lock {lock!r} was never granted")
    if mode == FenceMode.HOLDER:
        place = holder_with(reader, lock, head, token)
        if place is not None and leases.alive(place.lease, now_ms):
            return None
        why = "does not hold"
    else:
        if head.kind == LockKind.SEMAPHORE:
            return Rejected(
                ErrorCode.FAILED_PRECONDITION,
                f"lock {lock!r} is a semaphore, where no grant excludes earlier ones: "
                "fence with the mode that asks for a holder",
            )
        if head.floor_token <= token <= head.newest_token:
            return None
        why = "is older than the newest grant of" if token < head.floor_token else "is not of"
    return Rejected(
        ErrorCode.STALE_FENCE,
        f"token {token} is stale: it {why} lock {lock!r}, whose newest token is {head.newest_token}",
        head.newest_token,
    )
