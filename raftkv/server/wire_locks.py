"""Leases and locks between their protobuf form and commands, queries, and what they give."""

from __future__ import annotations

from typing import Final

from raftkv.errors import InvalidArgument
from raftkv.kv.commands import Acquire, GrantLease, KeepAlive, Proclaim, Release, RevokeLease
from raftkv.kv.lease import LeaseInfo
from raftkv.kv.limits import (
    acquire_fault,
    grant_fault,
    keep_alive_fault,
    lock_fault,
    proclaim_fault,
    release_fault,
)
from raftkv.kv.line import Contender, LockState
from raftkv.kv.view import View
from raftkv.server.queries import LeaseListQuery, LeaseQuery, LockQuery
from raftkv.v1 import kv_pb2, lease_pb2, lock_pb2

MAX_LISTED_LEASES: Final = 10_000
"""Leases in one answer."""

MAX_CONTENDERS: Final = 1_000
"""Contenders in one answer."""


def decode_grant(sequence: int, request: lease_pb2.LeaseGrantRequest) -> GrantLease:
    """Raises InvalidArgument, as all of these do."""
    command = GrantLease(sequence, request.id, request.ttl_ms)
    _refuse(grant_fault(command))
    return command


def decode_keep_alive(sequence: int, request: lease_pb2.LeaseKeepAliveRequest) -> KeepAlive:
    command = KeepAlive(sequence, tuple(request.ids))
    _refuse(keep_alive_fault(command))
    return command


def decode_revoke(sequence: int, request: lease_pb2.LeaseRevokeRequest) -> RevokeLease:
    return RevokeLease(sequence, _lease(request.id))


def decode_time_to_live(request: lease_pb2.LeaseTimeToLiveRequest) -> LeaseQuery:
    return LeaseQuery(_lease(request.id), request.keys)


def decode_lease_list(request: lease_pb2.LeaseListRequest) -> LeaseListQuery:
    return LeaseListQuery(request.after)


def decode_acquire(sequence: int, request: lock_pb2.LockAcquireRequest) -> Acquire:
    # Whoever wants a mutex or an election means to have it alone, and need not say so.
    exclusive = request.exclusive or request.kind in (lock_pb2.MUTEX, lock_pb2.ELECTION)
    command = Acquire(
        sequence,
        request.name,
        request.lease,
        request.kind,
        exclusive,
        request.limit,
        request.value,
        not request.no_wait,
    )
    _refuse(acquire_fault(command))
    return command


def decode_release(sequence: int, request: lock_pb2.LockReleaseRequest) -> Release:
    command = Release(sequence, request.name, request.lease)
    _refuse(release_fault(command))
    return command


def decode_proclaim(sequence: int, request: lock_pb2.LockProclaimRequest) -> Proclaim:
    command = Proclaim(sequence, request.name, request.lease, request.token, request.value)
    _refuse(proclaim_fault(command))
    return command


def decode_lock_query(request: lock_pb2.LockQueryRequest) -> LockQuery:
    _refuse(lock_fault(request.name))
    return LockQuery(request.name, min(request.limit or MAX_CONTENDERS, MAX_CONTENDERS))


def _lease(lease: int) -> int:
    if not lease:
        raise InvalidArgument("lease is 0: ids of leases begin at 1")
    return lease


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise InvalidArgument(fault)


def answer(view: View, query: LeaseQuery | LeaseListQuery | LockQuery, now_ms: int) -> kv_pb2.OperationResult:
    """Answer a query at cluster time `now_ms`; the id is left to be set."""
    result = kv_pb2.OperationResult()
    match query:
        case LeaseQuery(lease, with_keys):
            result.lease_time_to_live.SetInParent()
            _fill_lease(result.lease_time_to_live, view.lease(lease, with_keys=with_keys), now_ms, with_keys=with_keys)
        case LeaseListQuery(after):
            ids, more = view.leases(after, MAX_LISTED_LEASES)
            result.lease_list.ids.extend(ids)
            result.lease_list.more = more
        case LockQuery(lock, limit):
            _fill_line(result.lock_query, view.line(lock, limit), view.meta.revision)
    return result


def _fill_lease(
    answer: lease_pb2.LeaseTimeToLiveResponse, info: LeaseInfo | None, now_ms: int, *, with_keys: bool
) -> None:
    """Say how long a lease lasts at cluster time `now_ms`. One that is due is gone, be it removed or not."""
    if info is None or info.deadline_ms <= now_ms:
        return
    answer.granted_ttl_ms = info.ttl_ms
    answer.ttl_ms = min(info.deadline_ms - now_ms, info.ttl_ms)
    if with_keys:
        answer.keys.extend(info.keys)


def _fill_line(answer: lock_pb2.LockQueryResponse, line: LockState, revision: int) -> None:
    """Say who stands in line."""
    answer.newest_token = line.newest_token
    answer.floor_token = line.floor_token
    answer.revision = revision
    answer.more = line.more
    for contender in line.contenders:
        fill_contender(answer.contenders.add(), contender)


def fill_contender(target: lock_pb2.Contender, contender: Contender) -> None:
    """Write somebody in line into their wire form."""
    target.ticket = contender.ticket
    target.token = contender.token
    target.lease = contender.lease
    target.kind = lock_pb2.LockKind.ValueType(contender.kind)
    target.exclusive = contender.exclusive
    target.limit = contender.limit
    target.value = contender.value
