"""Mutexes, read-write locks and semaphores for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from raftkv.client import tenure, wire_lock
from raftkv.client.calls import Kind
from raftkv.client.grant import Grant
from raftkv.client.guard import BodyGuard
from raftkv.client.keeper import Keeper, KeptLease, Perform
from raftkv.client.results import LockKind
from raftkv.client.shielded import finished
from raftkv.client.tokens import FenceMode, FencingToken
from raftkv.client.turn import WatchTurn, turn_of
from raftkv.client.wire import size_estimate
from raftkv.client.wire_lock import LockSpec
from raftkv.errors import DeadlineExceeded, InvalidArgument, LockBusy, RaftKVError

MAX_WAIT_S: Final = tenure.MAX_TTL_S
LEAVE_PATIENCE_S: Final = 1.0
"""How long a wait that is given up waits until the store has heard of it. It goes on being told after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHost:
    """What locks need of their client."""

    keeper: Callable[[], Keeper]
    perform: Perform
    watch_turn: WatchTurn
    timeout: float
    """Seconds that an operation may take."""


class AsyncHeld:
    """A lock that is held, or was: proof of it, as long as it lasts.

    Every use looks at the clock, and raises LockLost once the lock must be taken for lost, even if the event loop hung
    when that happened. What a write was sent for before that, the store judges by its fence.
    """

    def __init__(self, grant: Grant, keeper: Keeper) -> None:
        """Made by AsyncLock."""
        self.grant = grant
        self.keeper = keeper
        self._lost = asyncio.Event()
        grant.on_loss(self._lost.set)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.grant.name!r} token={self.grant.token}>"

    @property
    def name(self) -> bytes:
        """Of the lock."""
        return self.grant.name

    @property
    def token(self) -> int:
        """The fencing token of this grant: greater than that of every grant before, of whatever lock.

        Raises LockLost when the lock is lost, or was given back.
        """
        self.check()
        return self.grant.token

    @property
    def lease_id(self) -> int:
        """Id of the lease that the lock lives on."""
        return self.grant.kept.id

    @property
    def lost(self) -> asyncio.Event:
        """Set as soon as the lock must be taken for lost, or is given back."""
        if self.grant.released or not self.grant.kept.alive():
            self._lost.set()
        return self._lost

    def fence(self, mode: FenceMode = FenceMode.HOLDER) -> FencingToken:
        """Return what `fence=` of a write takes: it is refused unless this grant is good. Raises LockLost.

        Example::

            async with client.lock("jobs/reindex") as held:
                await client.put("jobs/reindex/state", "done", fence=held.fence(FenceMode.MAX_SEEN))
        """
        return FencingToken(self.name, self.token, mode)

    def remaining(self) -> float:
        """Return for how many seconds it may be relied on, if its lease is not renewed meanwhile; 0: not any more.

        Example::

            async with client.lock("jobs/reindex") as held:
                print(f"{held.remaining():.1f} s")
        """
        self.grant.kept.alive()  # ends it, when its time is over
        return self.grant.remaining()

    def check(self) -> None:
        """Raise LockLost unless the lock is held.

        Example::

            async with client.lock("jobs/reindex") as held:
                held.check()
        """
        if self.remaining() <= 0:
            raise self.grant.lost()


class AsyncLock:
    """One contender for a lock: `client.lock(name)` and its kin make one.

    **Waiting** is first come, first served, and wakes nobody but whose turn it is. `timeout` in seconds (more than 0,
    at most 365 days) bounds it: DeadlineExceeded, and the place in line is given up. None: for ever. Cancelling a wait
    gives the place up too, before CancelledError is raised. A waiter that is cut off from the store for longer than its
    ttl loses its place and stands in line anew. An operation that fails for good (no leader within the client's
    timeout, say) raises.

    **Holding** lives on a lease of `ttl` seconds (0.5 to 31,536,000), which the client renews. When it could not be
    renewed by a margin before its end (see AsyncLease), the lock is lost: the body of the `async with` is cancelled,
    and LockLost raised from it, be it that the body ended just then or did not stop for the cancellation. A
    cancellation that comes from elsewhere stays CancelledError. What the body raises itself is passed on.

    **Fencing**: a process that is stopped at the wrong moment wakes up believing that it holds the lock. Only a write
    with `fence=held.fence()` is refused then (StaleFence); resources outside the store use `held.token` with `Fence`.

    **One contender, one use at a time**: an object that is waiting, or holds the lock, refuses to be entered again
    (InvalidArgument), for it would wait for itself. Each task, also of one client, makes its own with
    `client.lock(...)`; they exclude each
    other as any two clients do. An object may be used any number of times, one after the other.

    An acquire and a release cost one operation each: a lease that has become free is used again. Those of a client
    that is gone end with their ttl.

    Example::

        async with client.lock("jobs/reindex", ttl=10.0) as held:
            await client.put("jobs/reindex/state", "running", fence=held.fence())
    """

    def __init__(
        self, host: LockHost, spec: LockSpec, *, ttl: float, timeout: float | None = None, value: bytes = b""
    ) -> None:
        """Made by the client. Raises InvalidArgument for a ttl or a timeout out of range."""
        tenure.ttl_ms(ttl)
        self._host = host
        self._spec = spec
        self._ttl = float(ttl)
        self._timeout = _checked_wait(timeout)
        self._value = value
        self._busy = False
        self._held: AsyncHeld | None = None
        self._entered: AsyncHeld | None = None
        self._guard: BodyGuard | None = None

    def __repr__(self) -> str:
        kind = self._spec.kind.name
        side = f" {'writer' if self._spec.exclusive else 'reader'}" if self._spec.kind is LockKind.READ_WRITE else ""
        return f"<{type(self).__name__} {self._spec.name!r} {kind}{side} ttl={self._ttl:g}>"

    @property
    def name(self) -> bytes:
        """Of the lock."""
        return self._spec.name

    @property
    def held(self) -> AsyncHeld | None:
        """What `acquire` returned, until it is released; None: this object holds nothing."""
        return self._held

    async def __aenter__(self) -> AsyncHeld:
        held = await self.acquire()
        self._guard = BodyGuard()
        self._entered = held
        held.grant.on_loss(self._guard.fire)
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, guard = self._entered, self._guard
        self._entered = self._guard = None
        if entered is None or guard is None:
            raise InvalidArgument("left without having been entered")
        ours = guard.close()
        # Released by hand inside, it cannot be lost any more.
        lost = ours or (self._held is entered and entered.lost.is_set())
        failure = entered.grant.lost() if lost else None
        await self.release()
        if failure is not None and (kind is None or (ours and kind is asyncio.CancelledError)):
            raise failure from error

    async def acquire(self, *, timeout: float | None = None, wait: bool = True) -> AsyncHeld:
        """Wait for the lock and return it held. `timeout` in seconds; None: that of this object.

        Without `wait` LockBusy is raised unless it is to be had at once. The caller releases it, and minds `held.lost`:
        only the body of an `async with` is cancelled. Raises DeadlineExceeded when `timeout` is over, and
        FailedPrecondition when the others in line use the lock as another kind of lock, or a semaphore with another
        limit.

        Example::

            lock = client.lock("jobs/reindex")
            try:
                held = await lock.acquire(wait=False)
            except LockBusy:
                print("somebody else is at it")
            else:
                await lock.release()
        """
        seconds = self._timeout if timeout is None else _checked_wait(timeout)
        if self._busy:
            raise InvalidArgument(
                f"this object already waits for lock {self._spec.name!r} or holds it, and would wait for itself; "
                f"make another one for each contender"
            )
        self._busy = True
        try:
            self._held = await self._acquire(seconds, wait=wait)
        finally:
            self._busy = self._held is not None
        return self._held

    async def release(self) -> bool:
        """Give the lock back. Idempotent, and shielded from cancellation: CancelledError is raised after that.

        Return whether the store has confirmed it. If not (nothing was held, it was lost, or the store could not be
        reached), what may be held goes with its lease, which is renewed no more: at the latest in `ttl` seconds. Waits
        no longer than that could take.

        Example::

            lock = client.lock("jobs/reindex")
            await lock.acquire(timeout=5.0)
            print(await lock.release())
        """
        held, self._held = self._held, None
        if held is None:
            return False
        kept = held.grant.give_back()
        held.lost.set()
        return await finished(self._release(held.keeper, kept))

    async def _acquire(self, seconds: float | None, *, wait: bool) -> AsyncHeld:
        host, spec = self._host, self._spec
        keeper = host.keeper()
        kept: KeptLease | None = None
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                while True:
                    kept = await keeper.borrow(self._ttl)
                    token = await turn_of(host.perform, host.watch_turn, spec, kept, self._value, wait=wait)
                    if token:
                        return AsyncHeld(Grant(spec.name, token, kept), keeper)
                    keeper.drop(kept, "its place in line is gone")
        except LockBusy:
            if kept is not None:
                keeper.give_back(kept)
            raise
        except BaseException as error:
            # Not a release: a copy of the acquire may be on its way still, and would come to stand in line after it.
            # Without the lease it cannot.
            if kept is not None:
                await finished(asyncio.wait({keeper.abandon(kept)}, timeout=LEAVE_PATIENCE_S))
            if isinstance(error, TimeoutError) and scope.expired():
                raise DeadlineExceeded(f"lock {spec.name!r} was not to be had within {seconds:g} s") from None
            raise

    async def _release(self, keeper: Keeper, kept: KeptLease) -> bool:
        host, spec = self._host, self._spec
        confirmed = held = False
        try:
            left_s = kept.remaining()
            if left_s > 0:
                operation = wire_lock.release_operation(spec.name, kept.id)
                timeout = min(host.timeout, left_s)
                answer = await host.perform(Kind.WRITE, operation, size_estimate(spec.name), timeout)
                confirmed, held = True, answer.lock_release.held
        except RaftKVError:
            pass  # as the docstring of `release` says: it goes with its lease
        finally:
            if confirmed:
                keeper.give_back(kept)
            else:
                keeper.drop(kept, "the lock could not be given back")
            self._busy = False
        return held


class AsyncReadWriteLock:
    """A lock that many readers share, or one writer has alone: `client.rwlock(name)` makes one.

    First come, first served, too: a reader that comes after a writer waits for it.

    Example::

        rwlock = client.rwlock("catalogue")
        async with rwlock.reader():
            print(await client.count("catalogue/"))
        async with rwlock.writer() as held:
            await client.put("catalogue/a", "1", fence=held.fence())
    """

    def __init__(self, host: LockHost, name: bytes, *, ttl: float, timeout: float | None) -> None:
        tenure.ttl_ms(ttl)
        self._host = host
        self._name = name
        self._ttl = ttl
        self._timeout = _checked_wait(timeout)

    @property
    def name(self) -> bytes:
        """Of the lock."""
        return self._name

    def reader(self) -> AsyncLock:
        """Return a new contender for a share of it.

        Example::

            async with client.rwlock("catalogue").reader():
                print(await client.count("catalogue/"))
        """
        return self._contender(exclusive=False)

    def writer(self) -> AsyncLock:
        """Return a new contender for the whole of it.

        Example::

            async with client.rwlock("catalogue").writer() as held:
                await client.put("catalogue/a", "1", fence=held.fence())
        """
        return self._contender(exclusive=True)

    def _contender(self, *, exclusive: bool) -> AsyncLock:
        spec = LockSpec(name=self._name, kind=LockKind.READ_WRITE, exclusive=exclusive)
        return AsyncLock(self._host, spec, ttl=self._ttl, timeout=self._timeout)


def _checked_wait(seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds <= MAX_WAIT_S:
        raise InvalidArgument(f"a timeout is {seconds!r} s, not more than 0 and at most {MAX_WAIT_S:.0f}")
    return seconds
