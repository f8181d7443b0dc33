"""Calls about leases and locks, and the objects made of them."""

from __future__ import annotations

from raftkv.client import wire, wire_lease, wire_lock
from raftkv.client.calls import Kind
from raftkv.client.election import AsyncElection
from raftkv.client.lease import AsyncLease
from raftkv.client.lock import AsyncLock, AsyncReadWriteLock, LockHost
from raftkv.client.results import LeaseGrant, LeaseStatus, LockKind, LockState
from raftkv.client.watch_calls import WatchCalls
from raftkv.client.wire_lease import LeaseLike
from raftkv.client.wire_lock import LockSpec, lock_name, lock_value, semaphore_limit
from raftkv.errors import InvalidArgument

DEFAULT_TTL_S = 10.0


class CoordinationCalls(WatchCalls):
    """Leases, locks, elections. Waiting in line is a watch."""

    def lease(self, ttl: float = DEFAULT_TTL_S) -> AsyncLease:
        """Make a lease of `ttl` seconds (0.5 to 31,536,000) that the client keeps alive. See AsyncLease.

        Raises InvalidArgument for a ttl out of range.

        Example::

            async with client.lease(ttl=10.0) as lease:
                await client.put("workers/7", "here", lease=lease)
        """
        return AsyncLease(self._kept_leases, ttl)

    def lock(self, name: bytes | str, *, ttl: float = DEFAULT_TTL_S, timeout: float | None = None) -> AsyncLock:
        """Make a contender for a lock that one at a time holds. See AsyncLock.

        `name`: 1 to 200 bytes. `ttl`: seconds after which the lock of a client that is gone is free (0.5 to
        31,536,000). `timeout`: how many seconds to wait in line; None: for ever. Raises InvalidArgument beyond that.

        Example::

            async with client.lock("jobs/reindex", ttl=10.0) as held:
                await client.put("jobs/reindex/state", "running", fence=held.fence())
        """
        spec = LockSpec(name=lock_name(name), kind=LockKind.MUTEX, exclusive=True)
        return AsyncLock(self._lock_host(), spec, ttl=ttl, timeout=timeout)

    def rwlock(
        self, name: bytes | str, *, ttl: float = DEFAULT_TTL_S, timeout: float | None = None
    ) -> AsyncReadWriteLock:
        """Make a lock that many readers share, or one writer has alone. See AsyncReadWriteLock; parameters as `lock`.

        Each `reader()` and each `writer()` is a contender of its own.

        Example::

            async with client.rwlock("catalogue").reader():
                print(await client.count("catalogue/"))
        """
        return AsyncReadWriteLock(self._lock_host(), lock_name(name), ttl=ttl, timeout=timeout)

    def semaphore(
        self, name: bytes | str, *, limit: int, ttl: float = DEFAULT_TTL_S, timeout: float | None = None
    ) -> AsyncLock:
        """Make a contender for a lock that `limit` at a time hold (1 to 1,000,000; all contenders of a time must
        agree).

        Otherwise as `lock`.

        Example::

            async with client.semaphore("downloads", limit=3):
                await client.put("downloads/busy", "yes")
        """
        limit = semaphore_limit(limit)
        spec = LockSpec(name=lock_name(name), kind=LockKind.SEMAPHORE, exclusive=False, limit=limit)
        return AsyncLock(self._lock_host(), spec, ttl=ttl, timeout=timeout)

    def election(
        self,
        name: bytes | str,
        value: bytes | str = b"",
        *,
        ttl: float = DEFAULT_TTL_S,
        timeout: float | None = None,
    ) -> AsyncElection:
        """Make a candidate that shows `value` (at most 64 KiB) when it leads. See AsyncElection; otherwise as `lock`.

        All candidates of one name are of one election; no lock may have that name at a time.

        Example::

            async with client.election("scheduler", "host-7:8000") as led:
                await client.put("scheduler/state", "running", fence=led.fence())
        """
        return AsyncElection(
            self._lock_host(),
            self._watch_line,
            lock_name(name),
            lock_value(value),
            ttl=ttl,
            timeout=timeout,
            closed=lambda: self.closed,
        )

    async def lock_state(self, name: bytes | str, *, limit: int = 0, timeout: float | None = None) -> LockState:
        """Return who holds a lock of any kind and who waits for it, at most `limit` of them (0: 1,000).
        Linearizable.

        Example::

            state = await client.lock_state("jobs/reindex")
            print([one.token for one in state.contenders], state.newest_token)
        """
        operation = wire_lock.query_operation(lock_name(name), limit)
        answer = await self._perform(Kind.READ, operation, wire.size_estimate(operation.lock_query.name), timeout)
        return wire_lock.to_lock_state(answer.lock_query)

    async def grant_lease(self, ttl: float, *, lease: int = 0, timeout: float | None = None) -> LeaseGrant:
        """Open a lease of `ttl` seconds (0.5 to 31,536,000) that nobody renews: it outlives this client. `lease` is
        for most.

        `lease`: the id that it shall have; 0: the store chooses, and gives no id twice. **An id of your own can be
        granted again once its lease has ended**: whoever has not noticed then renews, uses or revokes the new lease as
        if it were the old one. Choose each id once. Raises LeaseExists, LimitExceeded, without effect.

        Example::

            granted = await client.grant_lease(60.0)
            await client.put("maintenance", "for a minute", lease=granted.id)
        """
        operation = wire_lease.grant_operation(ttl, lease)
        return wire_lease.to_grant((await self._perform(Kind.WRITE, operation, wire_lease.SIZE, timeout)).lease_grant)

    async def renew_leases(self, *leases: LeaseLike, timeout: float | None = None) -> tuple[float, ...]:
        """Renew 1 to 1,000 leases that were opened with `grant_lease`. Return for how many seconds each lasts; 0: it
        is gone.

        Example::

            granted = await client.grant_lease(60.0)
            (ttl,) = await client.renew_leases(granted.id)
        """
        if not 1 <= len(leases) <= wire_lease.MAX_RENEWED:
            raise InvalidArgument(f"{len(leases)} leases are to be renewed, not 1 to {wire_lease.MAX_RENEWED}")
        operation = wire_lease.keep_alive_operation([wire_lease.some_lease_id(one) for one in leases])
        size_bytes = wire_lease.keep_alive_size(len(leases))
        answer = await self._perform(Kind.WRITE, operation, size_bytes, timeout)
        return tuple(ttl_ms / 1000 for ttl_ms in answer.lease_keep_alive.ttls_ms)

    async def revoke_lease(self, lease: LeaseLike, *, timeout: float | None = None) -> int:
        """End a lease, and delete the keys attached to it at one revision. Return how many. Raises LeaseNotFound.

        Example::

            granted = await client.grant_lease(60.0)
            print(await client.revoke_lease(granted.id))
        """
        operation = wire_lease.revoke_operation(wire_lease.some_lease_id(lease))
        return (await self._perform(Kind.WRITE, operation, wire_lease.SIZE, timeout)).lease_revoke.deleted

    async def lease_status(
        self, lease: LeaseLike, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseStatus | None:
        """Return what the store knows of a lease, with the `keys` attached if wanted; None: there is none.
        Linearizable.

        Example::

            granted = await client.grant_lease(60.0)
            status = await client.lease_status(granted.id, keys=True)
            print(None if status is None else status.remaining)
        """
        number = wire_lease.some_lease_id(lease)
        operation = wire_lease.time_to_live_operation(number, keys=keys)
        answer = await self._perform(Kind.READ, operation, wire_lease.SIZE, timeout)
        return wire_lease.to_status(number, answer.lease_time_to_live)

    async def lease_ids(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Return the ids of all leases, in ascending order. `timeout` is for each 10,000.

        Example::

            for lease in await client.lease_ids():
                print(await client.lease_status(lease))
        """
        found: list[int] = []
        more = True
        while more:
            operation = wire_lease.list_operation(found[-1] if found else 0)
            answer = (await self._perform(Kind.READ, operation, wire_lease.SIZE, timeout)).lease_list
            found.extend(answer.ids)
            more = answer.more and bool(answer.ids)
        return tuple(found)

    def _lock_host(self) -> LockHost:
        return LockHost(
            keeper=self._kept_leases, perform=self._perform, watch_turn=self._watch_turn, timeout=self._timeout
        )
