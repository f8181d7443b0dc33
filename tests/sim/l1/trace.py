"""What happened, line by line: hashed always, kept on request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b

LAST_LINES = 60
"""How much of the end of a run is always kept, for the message of a failure."""


class Trace:
    """The observable history of a run. Two runs of one seed have the same one."""

    def __init__(self, now: Callable[[], float], *, sink: Callable[[str], None] | None = None) -> None:
        self._now = now
        self._sink = sink
        self._hash = blake2b(digest_size=16)
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def note(self, who: str, what: str) -> None:
        """Add a line: when, who, what."""
        line = f"{self._now():10.6f}  {who:<4} {what}"
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self.last.append(line)
        if self._sink is not None:
            self._sink(line)

    def digest(self) -> str:
        return self._hash.hexdigest()
