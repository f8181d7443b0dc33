"""Leases and locks of the scripted cluster. No time passes in it: leases end when a test says so."""

from __future__ import annotations

from dataclasses import dataclass, field

from raftkv.errors import ErrorCode, RaftKVError
from raftkv.v1 import kv_pb2, lease_pb2, lock_pb2


class Refused(RaftKVError):
    """The store says no."""

    def __init__(self, code: ErrorCode, *, number: int = 0) -> None:
        super().__init__(code.name, number=number)
        self.code = code


@dataclass
class FakeLine:
    """One lock."""

    contenders: list[lock_pb2.Contender] = field(default_factory=list)
    newest_token: int = 0


class FakeLocks:
    """All leases and locks."""

    def __init__(self) -> None:
        self.ttls_ms: dict[int, int] = {}
        """Of the leases that are alive."""
        self.lines: dict[bytes, FakeLine] = {}
        self.last_lease = 0
        self.last_token = 0
        self.grants: list[tuple[bytes, int, int]] = []
        """(lock, ticket, token) of every grant."""

    def apply(self, operation: kv_pb2.Operation, result: kv_pb2.OperationResult, revision: int) -> None:
        """Answer an operation on leases or locks. Raises Refused."""
        match operation.WhichOneof("operation"):
            case "lease_grant":
                self.last_lease += 1
                lease = operation.lease_grant.id or 1000 + self.last_lease
                if lease in self.ttls_ms:
                    raise Refused(ErrorCode.LEASE_EXISTS)
                self.ttls_ms[lease] = operation.lease_grant.ttl_ms
                result.lease_grant.CopyFrom(lease_pb2.LeaseGrantResponse(id=lease, ttl_ms=self.ttls_ms[lease]))
            case "lease_keep_alive":
                ttls = [self.ttls_ms.get(lease, 0) for lease in operation.lease_keep_alive.ids]
                result.lease_keep_alive.CopyFrom(lease_pb2.LeaseKeepAliveResponse(ttls_ms=ttls))
            case "lease_revoke":
                self._alive(operation.lease_revoke.id)
                self.end(operation.lease_revoke.id)
                result.lease_revoke.CopyFrom(lease_pb2.LeaseRevokeResponse(revision=revision))
            case "lock_acquire":
                result.lock_acquire.CopyFrom(self._acquire(operation.lock_acquire, revision))
            case "lock_release":
                request = operation.lock_release
                held = self._leave(request.name, request.lease)
                result.lock_release.CopyFrom(lock_pb2.LockReleaseResponse(held=held, revision=revision))
            case "lock_proclaim":
                self._proclaim(operation.lock_proclaim)
                result.lock_proclaim.CopyFrom(lock_pb2.LockProclaimResponse(revision=revision))

    def read(self, operation: kv_pb2.Operation, result: kv_pb2.OperationResult, revision: int) -> None:
        """Answer a question about leases or locks."""
        match operation.WhichOneof("operation"):
            case "lease_time_to_live":
                ttl_ms = self.ttls_ms.get(operation.lease_time_to_live.id, 0)
                result.lease_time_to_live.CopyFrom(
                    lease_pb2.LeaseTimeToLiveResponse(granted_ttl_ms=ttl_ms, ttl_ms=ttl_ms // 2)
                )
            case "lease_list":
                ids = sorted(lease for lease in self.ttls_ms if lease > operation.lease_list.after)
                result.lease_list.CopyFrom(lease_pb2.LeaseListResponse(ids=ids[:2], more=len(ids) > 2))
            case "lock_query":
                line = self.lines.get(operation.lock_query.name, FakeLine())
                result.lock_query.CopyFrom(
                    lock_pb2.LockQueryResponse(
                        contenders=line.contenders[: operation.lock_query.limit or None],
                        newest_token=line.newest_token,
                        revision=revision,
                    )
                )

    def end(self, lease: int) -> None:
        """The lease is over, and with it its places."""
        self.ttls_ms.pop(lease, None)
        for name in self.lines:
            self._leave(name, lease)

    def _alive(self, lease: int) -> None:
        if lease not in self.ttls_ms:
            raise Refused(ErrorCode.LEASE_NOT_FOUND)

    def _acquire(self, request: lock_pb2.LockAcquireRequest, revision: int) -> lock_pb2.LockAcquireResponse:
        self._alive(request.lease)
        line = self.lines.setdefault(request.name, FakeLine())
        mine = next((one for one in line.contenders if one.lease == request.lease), None)
        if mine is None:
            mine = lock_pb2.Contender(
                ticket=revision,
                lease=request.lease,
                exclusive=request.exclusive,
                value=request.value,
                kind=request.kind,
                limit=request.limit,
            )
            line.contenders.append(mine)
            self._admit(request.name, line)
            if request.no_wait and not mine.token:
                line.contenders.remove(mine)
                raise Refused(ErrorCode.LOCK_BUSY)
        return lock_pb2.LockAcquireResponse(token=mine.token, ticket=mine.ticket, revision=revision)

    def _leave(self, name: bytes, lease: int) -> bool:
        line = self.lines.get(name, FakeLine())
        staying = [one for one in line.contenders if one.lease != lease]
        left = len(staying) < len(line.contenders)
        line.contenders = staying
        self._admit(name, line)
        return left

    def _admit(self, name: bytes, line: FakeLine) -> None:
        for holders, one in enumerate(line.contenders):
            shared = not one.exclusive and all(not before.exclusive for before in line.contenders[:holders])
            if holders and not (shared and (one.limit == 0 or holders < one.limit)):
                return
            if not one.token:
                self.last_token += 1
                one.token = line.newest_token = self.last_token
                self.grants.append((name, one.ticket, one.token))

    def _proclaim(self, request: lock_pb2.LockProclaimRequest) -> None:
        line = self.lines.get(request.name, FakeLine())
        for one in line.contenders:
            if one.lease == request.lease and one.token == request.token:
                one.value = request.value
                return
        raise Refused(ErrorCode.STALE_FENCE, number=line.newest_token)
