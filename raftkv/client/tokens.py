"""Fencing tokens: what a write carries to prove that its writer still holds a lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from raftkv.errors import InvalidArgument

MAX_FENCES: Final = 16
"""Most fences of one write."""

_MAX_TOKEN: Final = 2**64 - 1


class FenceMode(IntEnum):
    """What a token must be to be good; the numbers are those of `raftkv.v1.FenceMode`."""

    HOLDER = 0
    """That of a grant which holds the lock now."""
    MAX_SEEN = 1
    """Not older than the newest grant that excludes earlier ones, whether or not it still holds the lock: a holder
    that is late may finish as long as nobody came after it. Not for semaphores.

    While readers share a read-write lock, it is a range: from the first token of theirs to the newest. The store does
    not remember who has left, so a number in between that is a token of *another* lock passes too. Where a writer could
    mix up locks, use HOLDER, which asks for the very grant."""


_MODES: Final = tuple(FenceMode)


@dataclass(frozen=True, slots=True)
class FencingToken:
    """Proof that a lock was held: its name and the token of the grant. `fence=` of every write takes it.

    The store judges it where the write is applied, and refuses a stale one with StaleFence, whatever the writer
    believes. `held.fence()` returns one. `token` alone is enough for a resource outside the store (see `Fence`).

    Raises InvalidArgument when `token` is not a number from 1 to 2**64 - 1.

    Example::

        async with client.lock("jobs/reindex") as held:
            fence = FencingToken(b"jobs/reindex", held.token, FenceMode.MAX_SEEN)
            await client.put("jobs/reindex/state", "done", fence=fence)
    """

    lock: bytes
    token: int
    mode: FenceMode = FenceMode.HOLDER

    def __post_init__(self) -> None:
        if not isinstance(self.lock, bytes) or not self.lock:
            raise InvalidArgument(f"lock is {self.lock!r}, not a name in bytes")
        if not isinstance(self.token, int) or not 1 <= self.token <= _MAX_TOKEN:
            raise InvalidArgument(f"token is {self.token!r}, not a number from 1 to 2**64 - 1")
        if self.mode not in _MODES:
            raise InvalidArgument(f"mode is {self.mode!r}, not one of FenceMode")


Fences = FencingToken | Iterable[FencingToken] | None
"""What `fence=` takes: a token, several (all of them must be good), or None."""


def fences_of(fence: Fences) -> tuple[FencingToken, ...]:
    """Return the fences of a write. Raises InvalidArgument for anything else, and for more than 16."""
    if fence is None:
        return ()
    if isinstance(fence, FencingToken):
        return (fence,)
    if isinstance(fence, str | bytes | int) or not isinstance(fence, Iterable):
        raise InvalidArgument(f"fence is {fence!r}, not a FencingToken (held.fence() returns one), or several")
    found = tuple(fence)
    for one in found:
        if not isinstance(one, FencingToken):
            raise InvalidArgument(f"fence has {one!r}, not a FencingToken (held.fence() returns one)")
    if len(found) > MAX_FENCES:
        raise InvalidArgument(f"a write has {len(found)} fences, at most {MAX_FENCES}")
    return found
