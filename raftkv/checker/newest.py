"""What had been told by some moment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from raftkv.checker.history import Operation


class Newest:
    """Who had told the greatest number by some moment. What ends at that moment is concurrent, and does not count."""

    def __init__(self, operations: Iterable[Operation], number: Callable[[Operation], int]) -> None:
        self._ends: list[int] = []
        self._newest: list[Operation] = []
        best: int | None = None
        for one in sorted(operations, key=lambda one: one.ended):
            if best is None or number(one) > best:
                best = number(one)
                self._ends.append(one.ended)
                self._newest.append(one)

    def before(self, moment: int) -> Operation | None:
        place = bisect_left(self._ends, moment)
        return self._newest[place - 1] if place else None
