"""Leases for asyncio: keys that live as long as this client does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from raftkv.client import tenure
from raftkv.client.keeper import Keeper, KeptLease, expired
from raftkv.client.shielded import finished
from raftkv.errors import InvalidArgument


class AsyncLease:
    """A lease that the client keeps alive: `client.lease(ttl)` makes one, `async with` (or `grant`) opens it.

    Renewed at a third of its ttl, together with all other leases of the client. It counts as lost when it could not be
    renewed by its ttl, counted from before the grant or the last renewal was sent, less a margin of 5 % and at least
    0.1 s for clocks that do not run alike and for the time it takes to notice. So the client knows before the store
    deletes what is attached.

    Leaving the `async with` revokes it, and deletes the keys attached, at one revision. When the lease was lost inside,
    and the body raised nothing itself, LeaseExpired is raised on leaving. The body is not cancelled: see `lost`.

    Example::

        async with client.lease(ttl=10.0) as lease:
            await client.put("workers/7", "here", lease=lease)
            print(lease.remaining(), lease.lost.is_set())
    """

    def __init__(self, keeper: Callable[[], Keeper], ttl: float) -> None:
        """`ttl` in seconds, from 0.5 to 31,536,000 (365 days), else InvalidArgument."""
        tenure.ttl_ms(ttl)
        self._keeper = keeper
        self._ttl = float(ttl)
        self.kept: KeptLease | None = None
        self._granted_by: Keeper | None = None
        self._granting = False
        self._lost = asyncio.Event()
        self._revoked = False

    def __repr__(self) -> str:
        kept = self.kept
        return f"<{type(self).__name__} {'not granted' if kept is None else kept.id} ttl={self._ttl:g}>"

    async def __aenter__(self) -> Self:
        return await self.grant()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        kept = self._opened()
        lost = not kept.alive() and not self._revoked
        await self.revoke()
        if lost and kind is None:
            raise expired(kept)

    async def grant(self, *, timeout: float | None = None) -> Self:
        """Open the lease, and keep it alive from now on. Once only: InvalidArgument after that.

        `timeout` in seconds; None: the client's. Raises LimitExceeded, SpaceExceeded, without effect.

        Example::

            lease = await client.lease(ttl=10.0).grant()
            await lease.revoke()
        """
        if self.kept is not None or self._granting:
            raise InvalidArgument("the lease is granted already; make another with client.lease()")
        self._granting = True
        try:
            keeper = self._keeper()
            self.kept = await keeper.grant(self._ttl, timeout)
            self._granted_by = keeper
        finally:
            self._granting = False
        self.kept.on_end(self._lost.set)
        return self

    @property
    def id(self) -> int:
        """Its id. Raises InvalidArgument before it is granted."""
        return self._opened().id

    @property
    def ttl(self) -> float:
        """Seconds that it lasts from its grant and from each renewal."""
        return self._ttl

    @property
    def lost(self) -> asyncio.Event:
        """Set as soon as the lease must be taken for ended, be it lost or revoked."""
        if self.kept is not None and not self.kept.alive():
            self._lost.set()
        return self._lost

    def remaining(self) -> float:
        """Return for how many seconds it may still be relied on, if it is not renewed meanwhile; 0: not any more.

        Example::

            async with client.lease(ttl=10.0) as lease:
                print(f"{lease.remaining():.1f} s")
        """
        kept = self._opened()
        return kept.remaining() if kept.alive() else 0.0

    def check(self) -> None:
        """Raise LeaseExpired unless it may still be relied on. Looks at the clock, so right even if the loop hung.

        Example::

            async with client.lease(ttl=10.0) as lease:
                lease.check()
        """
        kept = self._opened()
        if not kept.alive():
            raise expired(kept)

    async def revoke(self, *, timeout: float | None = None) -> bool:
        """End it, and delete the keys attached, at one revision. Idempotent, and shielded from cancellation.

        Return whether the store has confirmed it. If not (it could not be reached, say), the lease is renewed no more
        and ends with its ttl; waits no longer than that could take.

        Example::

            lease = await client.lease(ttl=10.0).grant()
            print(await lease.revoke())
        """
        kept, keeper = self._opened(), self._granted_by
        self._revoked = True
        return keeper is not None and await finished(keeper.revoke(kept, timeout))

    def _opened(self) -> KeptLease:
        if self.kept is None:
            raise InvalidArgument("the lease is not granted yet: enter it with `async with`, or await its grant()")
        return self.kept
