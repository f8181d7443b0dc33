"""The commands of leases: grant, keep alive, revoke, expire; and reading them.

A lease takes everything with it that is attached to it, at one revision of its own: its keys, and its places in the
lines of locks, where whoever is next is granted in the same revision.

The texts of rejections are part of the replicated state, because sessions remember them.
"""

from __future__ import annotations

from typing import NamedTuple

from raftkv.errors import ErrorCode
from raftkv.invariant import invariant
from raftkv.kv.commands import (
    Expired,
    GrantLease,
    KeepAlive,
    KeptAlive,
    LeaseGranted,
    Rejected,
    Revoked,
    RevokeLease,
)
from raftkv.kv.keys import (
    LEASE_KEYS,
    LOCKS,
    attached_keys_start,
    attached_prefix,
    is_place,
    lease_key,
    lease_keys_prefix,
    lock_of_place,
    number_of,
    ticket_of,
    user_key,
)
from raftkv.kv.lease_table import Counters, LeaseTable
from raftkv.kv.limits import MAX_EXPIRED_KEYS, MAX_LEASES, grant_fault, keep_alive_fault
from raftkv.kv.line import Granting
from raftkv.kv.records import decode_lease_head
from raftkv.kv.store import Reader
from raftkv.kv.versions import live_head
from raftkv.kv.writing import Writing

__all__ = [
    "Counters",
    "LeaseInfo",
    "LeaseTable",
    "expire",
    "grant",
    "keep_alive",
    "lease_ids",
    "lease_info",
    "not_found",
    "revoke",
]

_MAX_U64 = 2**64 - 1


def grant(
    writing: Writing, leases: LeaseTable, counters: Counters, command: GrantLease, now_ms: int
) -> LeaseGranted | Rejected:
    """Open a lease.

    Where the id given is that of a dead lease, that one is ended first, keys and all, at a revision of its own. To
    refuse instead would tell a client of a lease that is gone by every other answer, until some `Expire` happens by.
    """
    fault = grant_fault(command)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    lease = command.lease
    if lease in leases:
        if leases.alive(lease, now_ms):
            return Rejected(ErrorCode.LEASE_EXISTS, f"lease {lease} exists already")
        _end(writing, leases, Granting(writing, leases, counters, now_ms), lease)
    elif len(leases) >= MAX_LEASES:
        return Rejected(ErrorCode.LIMIT_EXCEEDED, f"there are {MAX_LEASES} leases, the most there may be at a time")
    lease = lease or counters.last_lease + 1
    counters.last_lease = max(counters.last_lease, lease)
    leases.grant(writing.writer, lease, command.ttl_ms, now_ms)
    return LeaseGranted(lease, command.ttl_ms)


def keep_alive(writing: Writing, leases: LeaseTable, command: KeepAlive, now_ms: int) -> KeptAlive | Rejected:
    """Renew leases. Makes no revision."""
    fault = keep_alive_fault(command)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    return KeptAlive(tuple([leases.renew(writing.writer, lease, now_ms) for lease in command.leases]))


def revoke(
    writing: Writing, leases: LeaseTable, counters: Counters, command: RevokeLease, now_ms: int
) -> Revoked | Rejected:
    """End a lease. It makes a revision when anything was attached. Places in lines do not count as deleted keys."""
    if not leases.alive(command.lease, now_ms):
        return not_found(command.lease)
    deleted = _end(writing, leases, Granting(writing, leases, counters, now_ms), command.lease)
    return Revoked(writing.revision, deleted)


def expire(writing: Writing, leases: LeaseTable, counters: Counters, now_ms: int) -> Expired:
    """End dead leases, oldest deadline first; then go on with the grants that earlier commands left over.

    At least one lease where any is dead, and as many as MAX_EXPIRED_KEYS allows. There is more to do while
    `leases.next_deadline_ms()` is not above the cluster time.
    """
    granting = Granting(writing, leases, counters, now_ms)
    ended = work = 0
    while lease := leases.due(now_ms):
        work += 1 + leases.weight(lease)
        if ended and work > MAX_EXPIRED_KEYS:
            break
        _end(writing, leases, granting, lease)
        ended += 1
    for lock in leases.unfinished():
        if granting.exhausted:
            break
        mark = writing.mark()
        granting.go_on(lock)
        writing.commit(mark)
    return Expired(ended)


def not_found(lease: int) -> Rejected:
    """Return the answer to a command whose lease does not exist, or is dead."""
    return Rejected(ErrorCode.LEASE_NOT_FOUND, f"lease {lease} is unknown or has expired")


def _end(writing: Writing, leases: LeaseTable, granting: Granting, lease: int) -> int:
    """End a lease at one revision; return how many keys went with it, places in lines not counted."""
    writer = writing.writer
    mark = writing.mark()
    deleted = 0
    granting.ends(leases.weight(lease))
    start = lease_keys_prefix(lease)
    # Listed before anything is written: a view must not be written while it is scanned.
    attached = [attached_prefix(key) for key, _ in writer.scan(start, _after(lease))]
    for prefix in attached:
        if is_place(prefix):
            granting.leave(lock_of_place(prefix), ticket_of(prefix))
        else:
            found = live_head(writer, prefix)
            invariant(found is not None, "lease {} has a key that does not exist: {}", lease, prefix)
            assert found is not None
            writing.delete(prefix, found)
            deleted += 1
    writing.commit(mark)
    leases.end(writer, lease)
    return deleted


# --- reading -------------------------------------------------------------------------------------------------------


class LeaseInfo(NamedTuple):
    """What is known of a lease."""

    ttl_ms: int
    deadline_ms: int
    """Cluster time at which it ends. Where `View.meta.time_ms` has reached it, it is dead: to be shown as gone."""
    keys: tuple[bytes, ...]
    """The keys attached to it, in order, where they were asked for; places in lines are not among them."""


def lease_info(reader: Reader, lease: int, *, with_keys: bool = False) -> LeaseInfo | None:
    """Return what is known of a lease, None: there is none. At most MAX_LEASE_KEYS keys. Raises CorruptRow."""
    row = reader.get(lease_key(lease))
    if row is None:
        return None
    keys: tuple[bytes, ...] = ()
    if with_keys:
        rows = reader.scan(attached_keys_start(lease), _after(lease))
        keys = tuple([user_key(attached_prefix(key)) for key, _ in rows])
    return LeaseInfo(*decode_lease_head(row), keys)


def lease_ids(reader: Reader, after: int, limit: int) -> tuple[tuple[int, ...], bool]:
    """Return (at most `limit` ids above `after`, in order; whether there are more). Dead ones are among them."""
    ids: list[int] = []
    if after >= _MAX_U64:
        return (), False
    for stored_key, _ in reader.scan(lease_key(after + 1), LEASE_KEYS):
        if len(ids) == limit:
            return tuple(ids), True
        ids.append(number_of(stored_key))
    return tuple(ids), False


def _after(lease: int) -> bytes:
    """Return the end of the rows of a lease's keys."""
    return lease_keys_prefix(lease + 1) if lease < _MAX_U64 else LOCKS
