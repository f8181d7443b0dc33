"""What had been told by some moment, and what came after it all the same."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from raftkv.checker.history import Operation


def shown(one: Operation) -> int:
    """Return the newest revision that an answer proves to have been made: its own, or the one it was given at."""
    return max(one.revision, int(one.extra.get("at") or 0))


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


def out_of_order(
    operations: Iterable[Operation], number: Callable[[Operation], int], *, equal: bool = False
) -> Iterator[tuple[Operation, Operation]]:
    """Yield pairs where one was over before the other began, and its number is not less (with `equal`: is greater).

    One pair for each later operation that has one: with the greatest number before it. Unknown outcomes are left out.
    """
    told = [one for one in operations if not one.unknown]
    newest = Newest(told, number)
    for one in sorted(told, key=lambda one: one.began):
        earlier = newest.before(one.began)
        if earlier is None:
            continue
        if number(earlier) > number(one) or (not equal and number(earlier) == number(one)):
            yield earlier, one
