"""When to say again that a peer cannot be reached: neither once, and then never again, nor at every attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
"""After each line the next one waits twice as long, from FIRST_S up to this."""

REASONS: Final = 8
"""So many reasons of one outage are told at once; what differs after that is told when its time has come."""


class Complaints:
    """About one thing. Something new is told at once, and what goes on in steps that grow."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` tells the time in seconds."""
        self._now = now
        self._reasons: set[str] = set()
        self._began_s = 0.0
        self._next_s = 0.0
        self._step_s = FIRST_S

    @property
    def lasts_s(self) -> float:
        """How long it has not worked; 0: it works, or has just ceased to."""
        return self._now() - self._began_s if self._reasons else 0.0

    @property
    def next_in_s(self) -> float:
        """After how long the same is told again."""
        return max(0.0, self._next_s - self._now())

    def due(self, reason: str) -> bool:
        """Return whether to tell that it does not work, for this reason. Count it as told then."""
        now = self._now()
        if not self._reasons:
            self._began_s, self._step_s = now, FIRST_S
        elif reason not in self._reasons and len(self._reasons) < REASONS:
            pass
        elif now < self._next_s:
            return False
        else:
            self._step_s = min(2 * self._step_s, LONGEST_S)
        self._reasons.add(reason)
        self._next_s = now + self._step_s
        return True

    def over(self) -> None:
        """It works again."""
        self._reasons.clear()
