"""What a start that takes long says about itself: log lines, and whatever else is shown meanwhile.

A phase of less than `QUIET_S` says nothing, so a fast start looks as if there were no phases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog

from raftkv.storage.progress import Interrupted

log = structlog.get_logger("raftkv.start")

QUIET_S: Final = 1.0
"""A phase that takes longer gets a line in the log when it ends."""
REPEAT_S: Final = 5.0
"""And one so often while it lasts."""
REFRESH_S: Final = 0.1
"""What is drawn is drawn again so often."""


class Display(Protocol):
    """What is drawn while a phase lasts."""

    def show(self, what: str, done: int, total: int, unit: str) -> None:
        """Show how far it has come."""
        ...

    def clear(self) -> None:
        """Show nothing any more. Idempotent."""
        ...


class StartProgress:
    """The `Progress` of a node. `interrupt` ends the start, also from a signal handler or another thread."""

    def __init__(self, display: Display | None = None, now_s: Callable[[], float] = time.monotonic) -> None:
        """With `display`, that is drawn instead of lines about what is not done yet. `now_s`: see `time.monotonic`."""
        self.display = display
        self.now_s = now_s
        self._interrupted = False

    def interrupt(self) -> None:
        """Let the next `advance` raise Interrupted, and no further phase begin."""
        self._interrupted = True

    def require_wanted(self) -> None:
        """Raise Interrupted if the start was interrupted."""
        if self._interrupted:
            raise Interrupted

    @contextmanager
    def phase(self, what: str, total: int, unit: str = "bytes") -> Iterator[_Phase]:
        """See `Progress.phase`."""
        self.require_wanted()
        phase = _Phase(self, what, total, unit)
        try:
            yield phase
        finally:
            if self.display is not None:
                self.display.clear()
        phase.end()


class _Phase:
    def __init__(self, start: StartProgress, what: str, total: int, unit: str) -> None:
        self._start = start
        self._what = what
        self._total = total
        self._unit = unit
        self._done = 0
        self._began_s = start.now_s()
        self._tell_at_s = self._began_s + (REPEAT_S if start.display is None else QUIET_S)

    def advance(self, amount: int) -> None:
        """See `Phase.advance`."""
        self._start.require_wanted()
        self._done += amount
        now_s = self._start.now_s()
        if now_s < self._tell_at_s:
            return
        display = self._start.display
        if display is not None:
            display.show(self._what, self._done, self._total, self._unit)
            self._tell_at_s = now_s + REFRESH_S
        else:
            percent = 100 * self._done // self._total if self._total else 100
            log.info(f"{self._what}: {percent} %", **self._figures(now_s))
            self._tell_at_s = now_s + REPEAT_S

    def end(self) -> None:
        """Say how long it took, if it was long."""
        now_s = self._start.now_s()
        if now_s - self._began_s >= QUIET_S:
            log.info(f"{self._what}: done", **self._figures(now_s))

    def _figures(self, now_s: float) -> dict[str, int | float]:
        seconds = now_s - self._began_s
        rate = round(self._done / seconds) if seconds else 0
        return {
            self._unit: self._done,
            "of": self._total,
            "seconds": round(seconds, 1),
            f"{self._unit}_per_s": rate,
        }
