"""Calls about leases and locks, for code without an event loop."""

from __future__ import annotations

from raftkv.client.coordination_calls import DEFAULT_TTL_S
from raftkv.client.results import LeaseGrant, LeaseStatus, LockState
from raftkv.client.sync_core import SyncCore
from raftkv.client.sync_lease import Lease
from raftkv.client.sync_lock import Election, Lock, ReadWriteLock
from raftkv.client.wire_lease import LeaseLike


class SyncCoordinationCalls(SyncCore):
    """The twin of CoordinationCalls."""

    def lease(self, ttl: float = DEFAULT_TTL_S) -> Lease:
        """See AsyncClient.lease."""
        return Lease(self._run, self._async.lease(ttl))

    def lock(self, name: bytes | str, *, ttl: float = DEFAULT_TTL_S, timeout: float | None = None) -> Lock:
        """See AsyncClient.lock."""
        return Lock(self._run, self._async.lock(name, ttl=ttl, timeout=timeout))

    def rwlock(self, name: bytes | str, *, ttl: float = DEFAULT_TTL_S, timeout: float | None = None) -> ReadWriteLock:
        """See AsyncClient.rwlock."""
        return ReadWriteLock(self._run, self._async.rwlock(name, ttl=ttl, timeout=timeout))

    def semaphore(
        self, name: bytes | str, *, limit: int, ttl: float = DEFAULT_TTL_S, timeout: float | None = None
    ) -> Lock:
        """See AsyncClient.semaphore."""
        return Lock(self._run, self._async.semaphore(name, limit=limit, ttl=ttl, timeout=timeout))

    def election(
        self,
        name: bytes | str,
        value: bytes | str = b"",
        *,
        ttl: float = DEFAULT_TTL_S,
        timeout: float | None = None,
    ) -> Election:
        """See AsyncClient.election."""
        return Election(self._run, self._async.election(name, value, ttl=ttl, timeout=timeout))

    def lock_state(self, name: bytes | str, *, limit: int = 0, timeout: float | None = None) -> LockState:
        """See AsyncClient.lock_state."""
        return self._run(self._async.lock_state(name, limit=limit, timeout=timeout))

    def grant_lease(self, ttl: float, *, lease: int = 0, timeout: float | None = None) -> LeaseGrant:
        """See AsyncClient.grant_lease."""
        return self._run(self._async.grant_lease(ttl, lease=lease, timeout=timeout))

    def renew_leases(self, *leases: LeaseLike, timeout: float | None = None) -> tuple[float, ...]:
        """See AsyncClient.renew_leases."""
        return self._run(self._async.renew_leases(*leases, timeout=timeout))

    def revoke_lease(self, lease: LeaseLike, *, timeout: float | None = None) -> int:
        """See AsyncClient.revoke_lease."""
        return self._run(self._async.revoke_lease(lease, timeout=timeout))

    def lease_status(self, lease: LeaseLike, *, keys: bool = False, timeout: float | None = None) -> LeaseStatus | None:
        """See AsyncClient.lease_status."""
        return self._run(self._async.lease_status(lease, keys=keys, timeout=timeout))

    def lease_ids(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """See AsyncClient.lease_ids."""
        return self._run(self._async.lease_ids(timeout=timeout))
