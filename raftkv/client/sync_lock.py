"""Locks and elections for code without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import TracebackType

from raftkv.client.blocking import Run, stepped
from raftkv.client.election import AsyncElection
from raftkv.client.grant import Grant
from raftkv.client.lock import AsyncHeld, AsyncLock, AsyncReadWriteLock
from raftkv.client.results import Leader
from raftkv.client.tokens import FenceMode, FencingToken
from raftkv.errors import LockLost, RaftKVError


class Held:
    """The twin of AsyncHeld, for any thread.

    A thread cannot be cancelled: whoever works under a lock asks `check`, `token` or `fence` on the way, which raise
    LockLost once it is lost.
    """

    def __init__(self, grant: Grant) -> None:
        """Made by Lock."""
        self.grant = grant
        self._lost = threading.Event()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.grant.name!r} token={self.grant.token}>"

    @property
    def name(self) -> bytes:
        """See AsyncHeld.name."""
        return self.grant.name

    @property
    def token(self) -> int:
        """See AsyncHeld.token."""
        self.check()
        return self.grant.token

    @property
    def lease_id(self) -> int:
        """See AsyncHeld.lease_id."""
        return self.grant.kept.id

    @property
    def lost(self) -> threading.Event:
        """Set as soon as the lock must be taken for lost, or is given back."""
        if self.grant.remaining() <= 0:
            self._lost.set()
        return self._lost

    def fence(self, mode: FenceMode = FenceMode.HOLDER) -> FencingToken:
        """See AsyncHeld.fence."""
        return FencingToken(self.name, self.token, mode)

    def remaining(self) -> float:
        """See AsyncHeld.remaining."""
        return 0.0 if self.lost.is_set() else self.grant.remaining()

    def check(self) -> None:
        """See AsyncHeld.check."""
        if self.lost.is_set():
            raise self.grant.lost()


class Lock:
    """The twin of AsyncLock: `client.lock(name)` and its kin make one.

        with client.lock("jobs/reindex", ttl=10.0) as held:
            client.put("jobs/reindex/state", "running", fence=held.fence())

    The body of a `with` cannot be cancelled when the lock is lost: `held.token`, `held.fence()` and `held.check()`
    raise LockLost from then on, and so does the end of the body, unless it raises something itself. An object is one
    contender: each thread makes its own.
    """

    def __init__(self, run: Run, lock: AsyncLock) -> None:
        """Made by the client."""
        self._run = run
        self._async = lock
        self._held: Held | None = None

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncLock", type(self).__name__, 1)

    @property
    def name(self) -> bytes:
        """See AsyncLock.name."""
        return self._async.name

    @property
    def held(self) -> Held | None:
        """See AsyncLock.held."""
        return self._held

    def __enter__(self) -> Held:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        held = self._held
        failure: LockLost | None = None
        if held is not None and held.lost.is_set():
            failure = held.grant.lost()
        self.release()
        if failure is not None and kind is None:
            raise failure

    def acquire(self, *, timeout: float | None = None, wait: bool = True) -> Held:
        """See AsyncLock.acquire. Ctrl-C ends the wait and gives the place in line up."""
        try:
            self._held = self._run(self._acquire(timeout, wait=wait))
        except RaftKVError:
            raise
        except BaseException:
            # An interrupt may come when the lock is had already: nobody would know of it.
            self.release()
            raise
        return self._held

    def release(self) -> bool:
        """See AsyncLock.release."""
        self._held = None
        try:
            return self._run(self._async.release())
        except RaftKVError:
            raise
        except BaseException:
            # An interrupt may come before the loop has begun with it: nobody would end the lock then.
            self._run(self._async.release())
            raise

    async def _acquire(self, timeout: float | None, *, wait: bool) -> Held:
        return _twin(await self._async.acquire(timeout=timeout, wait=wait))


class ReadWriteLock:
    """The twin of AsyncReadWriteLock.

        with client.rwlock("catalogue").writer() as held:
            client.put("catalogue/a", "1", fence=held.fence())

    Each `reader` and each `writer` is a contender of its own.
    """

    def __init__(self, run: Run, lock: AsyncReadWriteLock) -> None:
        """Made by the client."""
        self._run = run
        self._async = lock

    @property
    def name(self) -> bytes:
        """See AsyncReadWriteLock.name."""
        return self._async.name

    def reader(self) -> Lock:
        """See AsyncReadWriteLock.reader."""
        return Lock(self._run, self._async.reader())

    def writer(self) -> Lock:
        """See AsyncReadWriteLock.writer."""
        return Lock(self._run, self._async.writer())


class Election:
    """The twin of AsyncElection. What Lock says of losing it holds here.

        with client.election("scheduler", "host-7:8000") as led:
            client.put("scheduler/state", "running", fence=led.fence())

    `leader` and `observe` need no candidacy.
    """

    def __init__(self, run: Run, election: AsyncElection) -> None:
        """Made by the client."""
        self._run = run
        self._async = election
        self._lock = Lock(run, election.lock)

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncElection", type(self).__name__, 1)

    @property
    def name(self) -> bytes:
        """See AsyncElection.name."""
        return self._async.name

    @property
    def held(self) -> Held | None:
        """See AsyncElection.held."""
        return self._lock.held

    def __enter__(self) -> Held:
        return self._lock.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, traceback)

    def campaign(self, *, timeout: float | None = None, wait: bool = True) -> Held:
        """See AsyncElection.campaign."""
        return self._lock.acquire(timeout=timeout, wait=wait)

    def resign(self) -> bool:
        """See AsyncElection.resign."""
        return self._lock.release()

    def proclaim(self, value: bytes | str, *, timeout: float | None = None) -> int:
        """See AsyncElection.proclaim."""
        return self._run(self._async.proclaim(value, timeout=timeout))

    def leader(self, *, timeout: float | None = None) -> Leader | None:
        """See AsyncElection.leader."""
        return self._run(self._async.leader(timeout=timeout))

    def observe(self, *, timeout: float | None = None) -> Generator[Leader | None, None, None]:
        """See AsyncElection.observe."""
        return stepped(self._run, self._async.observe(timeout=timeout))


def _twin(held: AsyncHeld) -> Held:
    """Return the twin of what is held. On the event loop."""
    twin = Held(held.grant)
    held.grant.on_loss(twin.lost.set)
    return twin
