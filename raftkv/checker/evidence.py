"""What checks have in common: collecting problems, and what had been told by some moment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import Problem

MOST_PROBLEMS: Final = 10
"""Of one name: a store that has lost its way gives thousands."""


class Problems:
    """The first ones of each name."""

    def __init__(self) -> None:
        self._found: dict[str, list[Problem]] = {}

    def add(self, name: str, text: str, *evidence: Operation) -> None:
        kind = self._found.setdefault(name, [])
        if len(kind) < MOST_PROBLEMS:
            kind.append(Problem(name=name, text=text, operations=evidence))

    def all(self) -> list[Problem]:
        return [problem for kind in self._found.values() for problem in kind]


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
