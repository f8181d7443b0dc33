"""What a check says of a history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from raftkv.checker.history import Operation

OutOfTime = Callable[[], bool]
"""Asked now and then by a check; True: it must give up, and say that it does not know."""


def never() -> bool:
    """Take all the time there is."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a correct store cannot have told."""

    name: str
    """The anomaly, in the field's words: `stale read`, `lost update`, `G1c`, ..."""
    text: str
    """What happened, in words that need no knowledge of the check."""
    operations: tuple[Operation, ...] = ()
    """The evidence, in the order to read it, as few as the check can show it with."""

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self.text}", *(f"    {one}" for one in self.operations)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`valid` is None where nothing wrong was found, but not all was looked at: `why` says what is missing."""

    valid: bool | None
    checked: int
    """Operations that were looked at."""
    problems: tuple[Problem, ...] = ()
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "checked": self.checked,
            "problems": [
                {"name": one.name, "text": one.text, "operations": [str(operation) for operation in one.operations]}
                for one in self.problems
            ],
            "why": self.why,
        }


def judged(checked: int, problems: Iterable[Problem]) -> Verdict:
    """Return the verdict of a check that has looked at everything."""
    found = tuple(problems)
    return Verdict(valid=not found, checked=checked, problems=found)


def undecided(checked: int, why: str, problems: Iterable[Problem] = ()) -> Verdict:
    """Return the verdict of a check that gave up. What it has found by then counts."""
    found = tuple(problems)
    return Verdict(valid=False if found else None, checked=checked, problems=found, why=why)


def together(checked: int, *verdicts: Verdict) -> Verdict:
    """Return one verdict of several checks of the same `checked` operations: a violation outweighs not knowing."""
    problems = tuple(problem for one in verdicts for problem in one.problems)
    why = "; ".join(one.why for one in verdicts if one.why)
    valid = False if problems else None if any(one.valid is None for one in verdicts) else True
    return Verdict(valid=valid, checked=checked, problems=problems, why=why)
