"""Short ways to write down what clients were told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import Verdict

MS = 1_000_000
OUTCOMES = {"ok": Outcome.OK, "fail": Outcome.FAIL, "info": Outcome.INFO}


def op(
    f: str,
    began: float,
    ended: float,
    *,
    process: int = 0,
    key: str = "",
    value: Any = None,
    result: Any = None,
    revision: int = 0,
    outcome: str = "ok",
    error: str = "",
    extra: Mapping[str, Any] | None = None,
) -> Operation:
    """An operation; times in milliseconds."""
    return Operation(
        process=process,
        f=f,
        key=key,
        value=value,
        outcome=OUTCOMES[outcome],
        result=result,
        revision=revision,
        began=round(began * MS),
        ended=round(ended * MS),
        error=error,
        extra=extra or {},
    )


def txn(
    text: str, began: float, ended: float, *, outcome: str = "ok", process: int = 0, revision: int = 0
) -> Operation:
    """A transaction on lists. "x+1 x:1,2 y:" appends 1 to x, reads x as [1, 2], and y as empty."""
    asked: list[list[Any]] = []
    told: list[list[Any]] = []
    for part in text.split():
        if "+" in part:
            key, _, number = part.partition("+")
            asked.append(["append", key, int(number)])
            told.append(["append", key, int(number)])
        else:
            key, _, read = part.partition(":")
            asked.append(["r", key, None])
            told.append(["r", key, [int(one) for one in read.split(",") if one]])
    result = told if outcome == "ok" else None
    return op("txn", began, ended, value=asked, result=result, outcome=outcome, process=process, revision=revision)


def names(verdict: Verdict) -> set[str]:
    return {problem.name for problem in verdict.problems}


def assert_verdict(verdict: Verdict, wanted: Iterable[str]) -> None:
    """Exactly these problems, by name; none: it is valid."""
    wanted = set(wanted)
    assert names(verdict) == wanted, "\n".join(map(str, verdict.problems)) or verdict
    assert verdict.valid is not bool(wanted)
    assert verdict.valid is not None


class Budget:
    """Out of time once it was asked so often."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0
