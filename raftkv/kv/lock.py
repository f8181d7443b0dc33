"""The commands of locks: acquire, release, proclaim. `line` has the rows and says who is next.

The rules, those of DESIGN.md 5 and of the issue:

 - First come, first served, without overtaking: a reader behind a writer that waits, waits, whoever holds.
 - Ticket: the revision of the acquire. Token: the next number over all locks, drawn at the grant.
 - A lease has at most one place in a line. To ask again is answered with that place and changes nothing.
 - Kind and limit are those of whoever is in line; the first one in an empty line chooses anew.
 - A dead lease has no place, by every answer to its owner. For others its place stays until the lease is ended.

The texts of rejections are part of the replicated state, because sessions remember them.
"""

from __future__ import annotations

from raftkv.errors import ErrorCode
from raftkv.kv.commands import Acquire, LockKind, Place, Proclaim, Proclaimed, Rejected, Release, Released
from raftkv.kv.lease import not_found
from raftkv.kv.lease_table import Counters, LeaseTable
from raftkv.kv.limits import MAX_LEASE_KEYS, PLACE_WEIGHT, acquire_fault, proclaim_fault, release_fault
from raftkv.kv.line import Granting, fits, read_head, read_place, show, ticket_held
from raftkv.kv.records import LockHead, PlaceRecord
from raftkv.kv.writing import Writing


def acquire(
    writing: Writing, leases: LeaseTable, counters: Counters, command: Acquire, now_ms: int
) -> Place | Rejected:
    """Stand in line, or take the lock at once. Makes a revision where it makes a place."""
    fault = acquire_fault(command)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    lock, lease = command.lock, command.lease
    if not leases.alive(lease, now_ms):
        return not_found(lease)
    head = read_head(writing.writer, lock) or LockHead(command.kind, command.limit, False, 0, 0, 0, 0, 0)
    if not head.holders and not head.waiting:
        # Nobody is in line. Under another kind, grants before do not share the floor with those that come.
        same = head.kind == command.kind
        head = head._replace(kind=command.kind, limit=command.limit, shared=head.shared and same)
    elif (head.kind, head.limit) != (command.kind, command.limit):
        return Rejected(
            ErrorCode.FAILED_PRECONDITION,
            f"lock {lock!r} is in use as {_described(head.kind, head.limit)}, "
            f"not as {_described(command.kind, command.limit)}",
        )
    ticket = ticket_held(writing.writer, lock, lease)
    if ticket:
        return _again(writing, command, ticket)
    at_once = not head.waiting and fits(head, command.exclusive)
    if not at_once and not command.wait:
        return _busy(lock)
    if not leases.room(lease, PLACE_WEIGHT):
        return Rejected(
            ErrorCode.LIMIT_EXCEEDED,
            f"lease {lease} has no room for another place in line, which counts as {PLACE_WEIGHT} of the "
            f"{MAX_LEASE_KEYS} keys that it may have",
        )
    mark = writing.mark()
    place = PlaceRecord(0, lease, command.kind, command.exclusive, command.limit, command.value)
    ticket, place = Granting(writing, leases, counters, now_ms).join(lock, head, place, at_once=at_once)
    return Place(place.token, ticket, writing.commit(mark))


def release(
    writing: Writing, leases: LeaseTable, counters: Counters, command: Release, now_ms: int
) -> Released | Rejected:
    """Give a lock back, or leave its line. Makes a revision where there was a place."""
    fault = release_fault(command)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    ticket = 0
    if leases.alive(command.lease, now_ms):
        ticket = ticket_held(writing.writer, command.lock, command.lease)
    if not ticket:
        return Released(False, writing.revision)
    mark = writing.mark()
    Granting(writing, leases, counters, now_ms).leave(command.lock, ticket)
    return Released(True, writing.commit(mark))


def proclaim(writing: Writing, leases: LeaseTable, command: Proclaim, now_ms: int) -> Proclaimed | Rejected:
    """Change the value that a holder shows. Makes a revision, also where the value is the same."""
    fault = proclaim_fault(command)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    lock, lease = command.lock, command.lease
    if not leases.alive(lease, now_ms):
        return not_found(lease)
    ticket = ticket_held(writing.writer, lock, lease)
    if not ticket or read_place(writing.writer, lock, ticket).token != command.token:
        head = read_head(writing.writer, lock)
        newest = 0 if head is None else head.newest_token
        return Rejected(
            ErrorCode.STALE_FENCE,
            f"lease {lease} does not hold lock {lock!r} with token {command.token}",
            newest,
        )
    mark = writing.mark()
    show(writing, lock, ticket, command.value)
    return Proclaimed(writing.commit(mark))


def _again(writing: Writing, command: Acquire, ticket: int) -> Place | Rejected:
    """Answer somebody who has a place already. Kind and limit are known to be those of the line."""
    place = read_place(writing.writer, command.lock, ticket)
    if place.exclusive != command.exclusive:
        return Rejected(
            ErrorCode.FAILED_PRECONDITION,
            f"lease {command.lease} is in the line of lock {command.lock!r} as {_role(place.exclusive)}; release that "
            f"place before asking for one as {_role(command.exclusive)}",
        )
    if not place.token and not command.wait:
        return _busy(command.lock)
    return Place(place.token, ticket, writing.revision)


def _busy(lock: bytes) -> Rejected:
    return Rejected(ErrorCode.LOCK_BUSY, f"lock {lock!r} is not to be had without waiting")


def _described(kind: int, limit: int) -> str:
    if kind == LockKind.SEMAPHORE:
        return f"a semaphore of {limit}"
    return {
        LockKind.MUTEX: "a mutex",
        LockKind.READ_WRITE: "a read-write lock",
        LockKind.ELECTION: "an election",
    }[LockKind(kind)]


def _role(exclusive: bool) -> str:
    return "writer" if exclusive else "reader"
