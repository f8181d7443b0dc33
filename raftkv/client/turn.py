"""Waiting in line: one watch of one place, so that whoever leaves wakes only those whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from raftkv.client import wire_lock
from raftkv.client.calls import Kind
from raftkv.client.keeper import KeptLease, Perform
from raftkv.client.results import Contender
from raftkv.client.wire import size_estimate
from raftkv.client.wire_lock import LockSpec
from raftkv.errors import Compacted, LeaseNotFound

T = TypeVar("T")

GONE: Final = 0
"""Instead of a token: the place in line is gone, with the lease that it lived on."""


class WatchTurn(Protocol):
    """How a contender waits."""

    def __call__(self, lock: bytes, ticket: int, start_revision: int) -> Awaitable[int]:
        """Return the token once the place is granted, or GONE. Raises Compacted when that can no longer be told."""


async def turn_of(
    perform: Perform, watch_turn: WatchTurn, spec: LockSpec, kept: KeptLease, value: bytes, *, wait: bool
) -> int:
    """Stand in line with a lease and return the token of the grant, or GONE where the lease ends before that.

    Raises LockBusy without `wait`, and whatever an operation raises: the place may then be taken or not.
    """
    size_bytes = size_estimate(spec.name, value)
    while True:
        operation = wire_lock.acquire_operation(spec, kept.id, value, wait=wait)
        try:
            # Asked again with the same lease it gives the same place.
            place = (await perform(Kind.WRITE, operation, size_bytes, None)).lock_acquire
        except LeaseNotFound:
            kept.end("the store has ended it")
            return GONE
        token = place.token
        if not token:
            try:
                token = await _unless_ended(kept, watch_turn(spec.name, place.ticket, place.revision + 1), GONE)
            except Compacted:
                continue  # cut off for so long that history is gone: the store knows where it stands now
        return token if kept.alive() else GONE


async def _unless_ended(kept: KeptLease, work: Awaitable[T], instead: T) -> T:
    """Return what `work` gives; give it up and return `instead` when the lease ends first."""
    task = asyncio.ensure_future(work)
    number = kept.on_end(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        me = asyncio.current_task()
        if (me is not None and me.cancelling()) or kept.alive():
            raise
        return instead
    finally:
        kept.forget(number)


@dataclass(frozen=True, slots=True)
class LineChange:
    """Something that happened in the line for a lock."""

    ticket: int
    contender: Contender | None
    """Who stands there now; None: nobody any more."""
    revision: int


class WatchLine(Protocol):
    """How an observer follows all of a line."""

    def __call__(
        self, lock: bytes, start_revision: int
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[LineChange, ...]]]:
        """Yield what happens from `start_revision` on, whole revisions at a time. Raises Compacted, here or later."""
