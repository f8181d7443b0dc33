"""What a check has found so far: a few problems of each name are shown, the others are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import Problem

SHOWN: Final = 5
"""Problems of one name. One broken thing is often seen by every operation that follows it."""


class Findings:
    """Collects problems. The first ones of each name are kept."""

    def __init__(self) -> None:
        self._kept: list[Problem] = []
        self._count: Counter[str] = Counter()

    def add(self, name: str, text: str, *operations: Operation | None) -> None:
        """Remember a problem; None among its operations is left out."""
        self._count[name] += 1
        if self._count[name] <= SHOWN:
            evidence = tuple(one for one in operations if one is not None)
            self._kept.append(Problem(name=name, text=text, operations=evidence))

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def problems(self) -> list[Problem]:
        """In the order in which they were found. The last one shown of a name says how many more there are."""
        left = {name: count - SHOWN for name, count in self._count.items() if count > SHOWN}
        told: list[Problem] = []
        for one in reversed(self._kept):
            more = left.pop(one.name, 0)
            told.append(replace(one, text=f"{one.text} (and {more} more of this kind)") if more else one)
        told.reverse()
        return told


def brief(values: object) -> str:
    """Return a list as people want to see it: of a long one only the end, where things differ."""
    if isinstance(values, list) and len(values) > 12:
        return f"[... {len(values) - 8} ..., {', '.join(str(one) for one in values[-8:])}]"
    return str(values)
