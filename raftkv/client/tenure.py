"""How long a lease may be relied on, on this client's clock. Arithmetic only; no I/O.

The store counts a lease from the moment at which the grant or the renewal is applied. The client counts from the moment
just before it was first sent, which is earlier, and stops a safety margin sooner: it knows of the end before anybody
else can be given what was held.

The margin covers what lies between the two countings: clocks of client and leader that do not run alike (quartz drifts
by less than 0.02 %, and slewing adds 0.05 %), and the time from the client's noticing to the last instruction of
whoever relied on it (the event loop has to get there). It does not cover a process that is stopped within the margin,
nor a request that is under way when the lease ends: no margin can, and fencing tokens do.
"""

from __future__ import annotations

import time
from typing import Final

from raftkv.errors import InvalidArgument

MIN_TTL_S: Final = 0.5
MAX_TTL_S: Final = 31_536_000.0
"""365 days."""

MARGIN_SHARE: Final = 0.05
MIN_MARGIN_S: Final = 0.1

RENEWALS_PER_TTL: Final = 3
"""A lease is renewed after this part of its ttl, so that two attempts may fail."""


def clock() -> float:
    """Return seconds that never jump, and that pass while the machine is suspended, where the system can tell.

    Not the event loop's time: a loop may cache it, and it stands still while the machine sleeps and the store goes on.
    """
    return _read(_CLOCK_ID)


_read: Final = time.clock_gettime
_CLOCK_ID: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def margin_s(ttl: float) -> float:
    """Return how much sooner than `ttl` seconds after sending the client stops relying on a lease: 5 %, at least 0.1
    s."""
    return max(ttl * MARGIN_SHARE, MIN_MARGIN_S)


def ttl_ms(ttl: float) -> int:
    """Return a ttl of seconds in milliseconds. Raises InvalidArgument out of 0.5 s to 365 days."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidArgument(f"ttl is {ttl!r}, not a number of seconds")
    if not MIN_TTL_S <= ttl <= MAX_TTL_S:  # not a number is refused too
        raise InvalidArgument(f"ttl is {ttl!r} s, not from {MIN_TTL_S:g} s to {MAX_TTL_S:.0f} s (365 days)")
    return round(ttl * 1000)


class Tenure:
    """The time of one lease. All times are in seconds, and points in time those of `clock`."""

    __slots__ = ("deadline", "renew_at", "ttl")

    def __init__(self, ttl: float, sent_at: float) -> None:
        """`sent_at`: when the grant was about to be sent for the first time."""
        self.ttl = ttl
        self.deadline = sent_at + ttl - margin_s(ttl)
        """From here on the lease must be taken for ended."""
        self.renew_at = sent_at + ttl / RENEWALS_PER_TTL
        """When the next attempt at a renewal is due."""

    def renewed(self, ttl: float, sent_at: float) -> None:
        """A renewal was answered: the lease lasts `ttl` from when that was applied, so no shorter than from
        `sent_at`."""
        # Attempts overlap where one was given up, and the answers may come in any order.
        self.deadline = max(self.deadline, sent_at + ttl - margin_s(ttl))
        self.renew_at = max(self.renew_at, sent_at + self.ttl / RENEWALS_PER_TTL)

    def put_off(self, now: float) -> None:
        """An attempt failed: the next one is due after a pause."""
        self.renew_at = now + min(self.ttl / 12, 1.0)

    def due(self, now: float) -> bool:
        """Whether a renewal is due."""
        return self.renew_at <= now

    def nearly_due(self, now: float) -> bool:
        """Whether a renewal is worth its while if one is sent anyhow: half of the time until it is due has passed."""
        return self.renew_at - self.ttl / RENEWALS_PER_TTL / 2 <= now

    def remaining(self, now: float) -> float:
        """Return for how long it may still be relied on; 0: not any more."""
        return max(self.deadline - now, 0.0)
