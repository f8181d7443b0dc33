"""The circuit breaker of one endpoint. Pure: time and chance are injected.

    CLOSED ---failures in a row, or the stream broke---> OPEN
      ^                                                    | `retry_at`
      +------ success ------ HALF_OPEN <---- one try ------+
                                |
                                +---- failure ----> OPEN, for longer

What is open is not asked: a caller does not spend its time on a node that has just let others down.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final

from raftkv.client.backoff import backoff_s

FAILURES_TO_OPEN: Final = 3
"""So many reads in a row that a reachable node came to no answer to."""


class BreakerState(Enum):
    """Whether an endpoint is asked."""

    CLOSED = "closed"
    """It is."""
    OPEN = "open"
    """It is not, until some time has passed."""
    HALF_OPEN = "half_open"
    """One try is under way; its outcome closes the breaker, or opens it for longer."""


class Breaker:
    """The state of one endpoint's breaker. Times are the loop's, in seconds."""

    __slots__ = ("failures", "retry_at", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.failures = 0
        """In a row."""
        self.retry_at = 0.0
        """OPEN: when one try is let through. HALF_OPEN: when another is, should the first one come to nothing."""

    def allows(self, now: float) -> bool:
        """Whether to ask it at `now`. Answer with `trying` where the state is not CLOSED."""
        return self.state is BreakerState.CLOSED or self.retry_at <= now

    def trying(self, now: float, random: Random) -> None:
        """It is being asked. A no-op while it is closed."""
        if self.state is not BreakerState.CLOSED:
            self.state = BreakerState.HALF_OPEN
            self.retry_at = now + backoff_s(max(self.failures, 1), random)

    def succeeded(self) -> None:
        """It has answered."""
        self.state = BreakerState.CLOSED
        self.failures = 0

    def failed(self, now: float, random: Random) -> None:
        """A reachable node came to no answer. What was asked before it opened changes nothing more."""
        if self.state is BreakerState.OPEN:
            return
        self.failures += 1
        if self.state is BreakerState.HALF_OPEN or self.failures >= FAILURES_TO_OPEN:
            self._open(now, random)

    def broke(self, now: float, random: Random) -> None:
        """Its stream is gone: there is nothing to ask it by."""
        self.failures += 1
        self._open(now, random)

    def _open(self, now: float, random: Random) -> None:
        self.state = BreakerState.OPEN
        self.retry_at = now + backoff_s(self.failures, random)
