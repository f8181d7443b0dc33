"""How late a node's ticks come: the longest time for which its event loop was kept waiting, and so its heartbeats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Longest:
    """The longest delay while somebody measures, in milliseconds."""

    def __init__(self) -> None:
        self.ms = 0.0


class Pulse:
    """The ticks of one node."""

    def __init__(self) -> None:
        self._measuring: list[Longest] = []

    def late(self, ms: float) -> None:
        """A tick came so late, in milliseconds. Costs nothing while nobody measures."""
        for longest in self._measuring:
            longest.ms = max(longest.ms, ms)

    @contextmanager
    def measure(self) -> Iterator[Longest]:
        """Measure for the length of the block."""
        longest = Longest()
        self._measuring.append(longest)
        try:
            yield longest
        finally:
            self._measuring.remove(longest)
