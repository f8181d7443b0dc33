"""Keeps the leases of one client alive: one operation renews all that are due.

Where a lease is, from its grant on:

    kept    somebody relies on it: renewed at a third of its ttl, and ended as soon as its margin is reached
    idle    nobody does: not renewed; taken again by the next who wants one of the same ttl, while enough of it is left;
            revoked when nobody has come for a while, or too many are idle
    ended   for good: it was revoked, the store said that it is gone, or it could not be renewed in time

A lease that ends is never brought back to life, whatever the store says later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from raftkv.client import tenure, wire_lease
from raftkv.client.calls import Kind
from raftkv.client.tenure import Tenure
from raftkv.errors import ConnectionFailed, LeaseExpired, LeaseNotFound, RaftKVError
from raftkv.v1 import kv_pb2

MAX_IDLE: Final = 256
"""Leases that become idle beyond this many, of whatever ttl, are revoked."""
MIN_IDLE_SHARE: Final = 0.5
"""An idle lease of which less than this is left is revoked: a new one costs as much as its renewal would."""
MAX_IDLE_S: Final = 60.0
"""An idle lease that nobody has taken for so long is revoked: its ttl may be a year."""
MAX_SLEEP_S: Final = 1.0
"""How often the clock is read at least: the loop's timers stand still while the machine is suspended."""
CLOSE_PATIENCE_S: Final = 1.0
"""How long closing waits for idle leases to be revoked; without that they end with their ttl."""


class Perform(Protocol):
    """How an operation gets its answer."""

    def __call__(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None
    ) -> Awaitable[kv_pb2.OperationResult]:
        """Return the answer to an operation, or raise an error of `raftkv.errors`. `timeout` in seconds."""


class KeptLease:
    """One lease of the client. To be used on its event loop, but for `remaining` and `reason`."""

    __slots__ = ("_callbacks", "_clock", "_loop", "_next_callback", "id", "renewing", "tenure", "why")

    def __init__(self, lease: int, held_for: Tenure, clock: Callable[[], float]) -> None:
        self.id = lease
        self.tenure = held_for
        self.renewing = False
        self.why = ""
        """Why it has ended; empty until then."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._next_callback = 0

    def remaining(self) -> float:
        """Return for how many seconds it may still be relied on. Any thread may ask."""
        return 0.0 if self.why else self.tenure.remaining(self._clock())

    def alive(self) -> bool:
        """Whether it may still be relied on. Whoever is the first to see that it may not ends it."""
        if not self.why and self.tenure.remaining(self._clock()) <= 0:
            self.end(self.reason())
        return not self.why

    def reason(self) -> str:
        """Say why it may not be relied on any more. Any thread may ask, once nothing of it remains."""
        return self.why or f"it could not be renewed within its ttl of {self.tenure.ttl:g} s"

    def end(self, why: str) -> None:
        """It is over: tell everybody who wanted to know, in the next turn of the loop. Once for all."""
        if self.why:
            return
        self.why = why
        callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            # Not at once: the caller may be the very task that is to be cancelled.
            self._loop.call_soon(callback)

    def on_end(self, callback: Callable[[], object]) -> int:
        """Call `callback` when it ends, or soon where it has; return what `forget` takes."""
        if self.why:
            self._loop.call_soon(callback)
            return 0
        self._next_callback += 1
        self._callbacks[self._next_callback] = callback
        return self._next_callback

    def forget(self, number: int) -> None:
        """Take a callback back. Idempotent; one that is scheduled already is still called."""
        self._callbacks.pop(number, None)


class _Idle(NamedTuple):
    """A lease on which nobody relies."""

    lease: KeptLease
    until: float
    """When it is given up if nobody has taken it."""


class Keeper:
    """All leases of one client, on one event loop."""

    def __init__(self, perform: Perform, timeout: float, clock: Callable[[], float] = tenure.clock) -> None:
        """`timeout`: how many seconds an operation may take at most unless its caller says otherwise."""
        self._perform = perform
        self._timeout = timeout
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._kept: set[KeptLease] = set()
        self._idle: dict[int, list[_Idle]] = {}
        """By ttl in milliseconds; the last of a list became idle last, and no list is empty."""
        self._idle_count = 0
        self._renewals: set[asyncio.Task[None]] = set()
        self._farewells: set[asyncio.Task[bool]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ticks_at = 0.0
        """When the timer goes off, on the loop's clock. The handle need not know: uvloop's has no `when` for a delay of
        0."""
        self._closed = False

    async def grant(self, ttl: float, timeout: float | None = None) -> KeptLease:
        """Return a new lease of `ttl` seconds that is kept alive.

        When the caller is cancelled, the grant goes on, and what it gives is revoked: only its answer names the lease.
        """
        self._check_open()
        grant = self._loop.create_task(self._grant(wire_lease.grant_operation(ttl), timeout))
        try:
            lease = await asyncio.shield(grant)
        except asyncio.CancelledError:
            self._see_off(self._revoke_unwanted(grant))
            raise
        self._keep(lease)
        return lease

    async def _grant(self, operation: kv_pb2.Operation, timeout: float | None) -> KeptLease:
        sent_at = self._clock()
        granted = (await self._perform(Kind.WRITE, operation, wire_lease.SIZE, timeout)).lease_grant
        return KeptLease(granted.id, Tenure(granted.ttl_ms / 1000, sent_at), self._clock)

    async def _revoke_unwanted(self, grant: asyncio.Task[KeptLease]) -> bool:
        try:
            lease = await grant
        except RaftKVError:
            return False  # nobody knows of a lease; if there is one, it ends with its ttl
        return await self.revoke(lease)

    async def borrow(self, ttl: float, timeout: float | None = None) -> KeptLease:
        """Return a lease of `ttl` seconds that nobody else uses: an idle one, or a new one."""
        self._check_open()
        number = tenure.ttl_ms(ttl)
        idle = self._idle.get(number)
        while idle:
            lease, until = idle.pop()
            self._idle_count -= 1
            if not idle:
                del self._idle[number]
            if self._clock() <= until:
                self._keep(lease)
                return lease
            self.abandon(lease)
        return await self.grant(ttl, timeout)

    def give_back(self, lease: KeptLease) -> None:
        """Nobody relies on it any more, and nothing is attached to it: it may be borrowed again."""
        self._kept.discard(lease)
        if not lease.alive() or self._closed:
            lease.end("it is not needed any more")
        elif self._idle_count < MAX_IDLE:
            ttl = lease.tenure.ttl
            until = min(lease.tenure.deadline - ttl * MIN_IDLE_SHARE, self._clock() + MAX_IDLE_S)
            self._idle.setdefault(tenure.ttl_ms(ttl), []).append(_Idle(lease, until))
            self._idle_count += 1
            self._tick_by(until)
        else:
            self.abandon(lease)

    def drop(self, lease: KeptLease, why: str) -> None:
        """Renew it no more: what is attached to it goes at the latest when its ttl is over. Idempotent."""
        self._kept.discard(lease)
        lease.end(why)

    async def revoke(self, lease: KeptLease, timeout: float | None = None) -> bool:
        """End a lease and what is attached to it. Return whether the store has confirmed it: else it ends with its ttl.

        Waits no longer than it could last. Idempotent.
        """
        left_s = lease.remaining()
        self.drop(lease, "it was revoked")
        if left_s <= 0:
            return False
        seconds = min(self._timeout if timeout is None else timeout, left_s)
        try:
            await self._perform(Kind.WRITE, wire_lease.revoke_operation(lease.id), wire_lease.SIZE, seconds)
        except LeaseNotFound:
            return True
        except RaftKVError:
            return False  # as the docstring says: it is not renewed any more
        return True

    def abandon(self, lease: KeptLease) -> asyncio.Task[bool]:
        """Revoke a lease whether or not somebody waits for it; return what somebody may wait for."""
        return self._see_off(self.revoke(lease))

    def _see_off(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        task = self._loop.create_task(work)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        return task

    async def close(self) -> None:
        """End all leases: those that somebody relies on are lost at once. Idempotent.

        What they hold in the store stays until their ttl is over: their holders may not have noticed yet. Only idle
        ones are revoked.
        """
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for lease in tuple(self._kept):
            self.drop(lease, "the client was closed")
        for renewal in self._renewals:
            renewal.cancel()
        await asyncio.gather(*self._renewals, return_exceptions=True)
        idle = [one.lease for one in self._all_idle()]
        self._idle.clear()
        farewells = {*self._farewells, *(self._loop.create_task(self.revoke(lease)) for lease in idle)}
        if farewells:
            _, late = await asyncio.wait(farewells, timeout=CLOSE_PATIENCE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionFailed("the client is closed")

    def _keep(self, lease: KeptLease) -> None:
        if self._closed:
            lease.end("the client was closed")
            raise ConnectionFailed("the client is closed")
        self._kept.add(lease)
        # Every lock that is acquired comes here: this must not take longer the more leases there are.
        self._tick_by(_due_at(lease))

    def _schedule(self) -> None:
        """Set the timer to whatever comes first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._closed and (self._kept or self._idle):
            self._tick_by(min(chain(map(_due_at, self._kept), (one.until for one in self._all_idle()))))

    def _tick_by(self, due_at: float) -> None:
        """Let the timer go off by then, if it would not anyway."""
        left_s = min(max(due_at - self._clock(), 0.0), MAX_SLEEP_S)
        ticks_at = self._loop.time() + left_s
        if self._timer is not None:
            if self._ticks_at <= ticks_at:
                return
            self._timer.cancel()
        self._ticks_at = ticks_at
        self._timer = self._loop.call_later(left_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        for lease in tuple(self._kept):
            if not lease.alive():
                self._kept.discard(lease)
        free = [lease for lease in self._kept if not lease.renewing]
        if any(lease.tenure.due(now) for lease in free):
            # In the order of their ids: so that a batch of the same leases is the same message.
            along = sorted((lease for lease in free if lease.tenure.nearly_due(now)), key=lambda lease: lease.id)
            for first in range(0, len(along), wire_lease.MAX_RENEWED):
                self._renew(along[first : first + wire_lease.MAX_RENEWED])
        self._prune(now)
        self._schedule()

    def _all_idle(self) -> Iterator[_Idle]:
        return chain.from_iterable(self._idle.values())

    def _prune(self, now: float) -> None:
        """Revoke the idle leases for which nobody came."""
        late = [one for one in self._all_idle() if one.until <= now]
        if late:
            left = {ttl: [one for one in idle if one.until > now] for ttl, idle in self._idle.items()}
            self._idle = {ttl: idle for ttl, idle in left.items() if idle}
            self._idle_count -= len(late)
            for one in late:
                self.abandon(one.lease)

    def _renew(self, leases: list[KeptLease]) -> None:
        for lease in leases:
            lease.renewing = True
        task = self._loop.create_task(self._renewal(leases))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _renewal(self, leases: list[KeptLease]) -> None:
        """One attempt: long enough for an operation to be sent again by itself, and short enough to leave time for
        more."""
        sent_at = self._clock()
        timeout = min(lease.tenure.ttl for lease in leases) / tenure.RENEWALS_PER_TTL
        operation = wire_lease.keep_alive_operation([lease.id for lease in leases])
        try:
            answer = await self._perform(Kind.WRITE, operation, wire_lease.keep_alive_size(len(leases)), timeout)
            self._renewed(leases, answer.lease_keep_alive.ttls_ms, sent_at)
        except RaftKVError:
            # Tried again until the margin; what is lost by then is told to whoever relies on it.
            for lease in leases:
                lease.tenure.put_off(self._clock())
        finally:
            for lease in leases:
                lease.renewing = False
            self._schedule()

    def _renewed(self, leases: list[KeptLease], ttls_ms: Sequence[int], sent_at: float) -> None:
        if len(ttls_ms) != len(leases):
            raise RaftKVError(f"{len(leases)} leases were to be renewed, and {len(ttls_ms)} are answered")
        for lease, left_ms in zip(leases, ttls_ms, strict=True):
            if left_ms:
                lease.tenure.renewed(left_ms / 1000, sent_at)
            else:
                self.drop(lease, "the store has ended it")


def _due_at(lease: KeptLease) -> float:
    """Return when something has to be done about a lease, by its clock."""
    held_for = lease.tenure
    return held_for.deadline if lease.renewing else min(held_for.renew_at, held_for.deadline)


def expired(lease: KeptLease) -> LeaseExpired:
    """Return what to raise for a lease that has ended."""
    return LeaseExpired(f"lease {lease.id} has ended: {lease.reason()}")
