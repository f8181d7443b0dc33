"""Leases for code without an event loop."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from raftkv.client.blocking import Run
from raftkv.client.keeper import KeptLease, expired
from raftkv.client.lease import AsyncLease
from raftkv.errors import InvalidArgument, RaftKVError


class Lease:
    """The twin of AsyncLease; the client's thread renews it.

        with client.lease(ttl=10.0) as lease:
            client.put("workers/7", "here", lease=lease)
            lease.check()

    Nothing interrupts the body when the lease is lost: `lost`, `remaining` and `check` tell.
    """

    def __init__(self, run: Run, lease: AsyncLease) -> None:
        """Made by the client."""
        self._run = run
        self._async = lease
        self._lost = threading.Event()

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncLease", type(self).__name__, 1)

    def __enter__(self) -> Self:
        return self.grant()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._async.__aexit__(kind, error, traceback))

    def grant(self, *, timeout: float | None = None) -> Self:
        """See AsyncLease.grant."""
        try:
            self._run(self._grant(timeout))
        except RaftKVError:
            raise
        except BaseException:
            # An interrupt may come when the lease is granted already: nobody would know of it, and it would be renewed.
            self._run(self._give_up())
            raise
        return self

    @property
    def id(self) -> int:
        """See AsyncLease.id."""
        return self._async.id

    @property
    def ttl(self) -> float:
        """See AsyncLease.ttl."""
        return self._async.ttl

    @property
    def lost(self) -> threading.Event:
        """Set as soon as the lease must be taken for ended, be it lost or revoked."""
        if self._async.kept is not None and self._async.kept.remaining() <= 0:
            self._lost.set()
        return self._lost

    def remaining(self) -> float:
        """See AsyncLease.remaining."""
        left_s = self._opened().remaining()
        if left_s <= 0:
            self._lost.set()
        return 0.0 if self._lost.is_set() else left_s

    def check(self) -> None:
        """See AsyncLease.check."""
        if self.remaining() <= 0:
            raise expired(self._opened())

    def revoke(self, *, timeout: float | None = None) -> bool:
        """See AsyncLease.revoke."""
        return self._run(self._async.revoke(timeout=timeout))

    async def _grant(self, timeout: float | None) -> None:
        await self._async.grant(timeout=timeout)
        self._opened().on_end(self._lost.set)

    async def _give_up(self) -> None:
        if self._async.kept is not None:
            await self._async.revoke()

    def _opened(self) -> KeptLease:
        if self._async.kept is None:
            raise InvalidArgument("the lease is not granted yet: enter it with `with`, or call its grant()")
        return self._async.kept
