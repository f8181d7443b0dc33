"""Exactly-once increments."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.checker import sessions
from raftkv.checker.history import Operation
from tests.checker.histories import fail, info, op


def inc(began: int, ended: int, revision: int = 0, **more: Any) -> Operation:
    return op(began, ended, "increment", revision=revision, **more)


def read(began: int, ended: int, result: int, revision: int = 0, **more: Any) -> Operation:
    return op(began, ended, "read", result=result, revision=revision, **more)


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "counted": [read(0, 1, 0), inc(2, 3), read(4, 5, 1), inc(6, 7), inc(6, 7), read(8, 9, 3)],
    "one under way may count": [inc(0, 9), read(1, 2, 1)],
    "one under way may not count": [inc(0, 9), read(1, 2, 0)],
    "one unknown may count late": [info(inc(0, 1)), read(2, 3, 0), read(4, 5, 1)],
    "one that failed does not": [fail(inc(0, 1)), read(2, 3, 0)],
    "counters of their own": [inc(0, 1, key="a"), read(2, 3, 0, key="b"), read(2, 3, 1, key="a")],
    "by revision": [inc(0, 1, 5), info(inc(2, 3)), read(4, 5, 2, 6), inc(6, 7, 7), read(8, 9, 3, 7)],
    "concurrent, by revision": [inc(0, 9, 6), inc(0, 9, 5), read(1, 8, 1, 5), read(1, 8, 2, 6)],
}

BAD: dict[str, tuple[list[Operation], str, str]] = {
    "acknowledged, not counted": (
        [inc(0, 1), inc(2, 3), read(4, 5, 1)],
        "lost increment",
        "x was read as 1, though 2 increments had been acknowledged before that began",
    ),
    # Ongaro's thesis (2014), 6.3: a command whose answer was lost is retried, and applied a second time.
    "a retry is applied again": (
        [inc(0, 1), read(2, 3, 2)],
        "increment applied twice",
        "x was read as 2, though only 1 increments had been asked for by then",
    ),
    "an unknown one is applied twice": ([info(inc(0, 1)), read(2, 3, 2)], "increment applied twice", "only 1"),
    "one that failed is applied": ([fail(inc(0, 1)), read(2, 3, 1)], "increment applied twice", "only 0"),
    "counted before it was asked for": ([read(0, 1, 1), inc(2, 3)], "increment applied twice", "only 0"),
    "less than before": (
        [info(inc(0, 1)), read(2, 3, 1), read(4, 5, 0)],
        "stale read",
        "x was read as 0, though 1 had been read before that began",
    ),
    "twice, hidden from time by another under way": (
        [inc(0, 20, 5), inc(0, 20, 9), read(1, 19, 2, 5)],
        "increment applied twice",
        "x was read as 2 at revision 5, but 1 increments were acknowledged by that revision, and 0 more are unknown",
    ),
    "lost, hidden from time by one under way": (
        [inc(0, 20, 5), read(1, 19, 0, 6)],
        "lost increment",
        "x was read as 0 at revision 6, by which 1 increments had been acknowledged",
    ),
    "an unknown one counted, then not": (
        [info(inc(0, 20)), inc(0, 20, 8), read(1, 19, 1, 5), read(1, 19, 1, 8)],
        "lost increment",
        "one that had been counted is missing",
    ),
    "one revision, two values": (
        [info(inc(0, 20)), read(1, 19, 1, 5), read(1, 19, 0, 5)],
        "one revision, two values",
        "at revision 5",
    ),
    "revisions go back": ([inc(0, 1, 5), inc(2, 3, 4), read(4, 5, 2, 5)], "revision went back", "revision 5"),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_exactly_once_is_accepted(operations: list[Operation]) -> None:
    verdict = sessions.check(operations)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]


@pytest.mark.parametrize(("operations", "name", "text"), BAD.values(), ids=BAD)
def test_anything_else_is_named(operations: list[Operation], name: str, text: str) -> None:
    verdict = sessions.check(operations)
    assert verdict.valid is False
    told = [problem for problem in verdict.problems if problem.name == name]
    assert told, [str(problem) for problem in verdict.problems]
    assert text in told[0].text
    assert told[0].operations


def test_out_of_time_is_undecided() -> None:
    verdict = sessions.check([inc(0, 1), read(2, 3, 0)], lambda: True)
    assert (verdict.valid, verdict.why) == (None, "out of time: 1 of 1 counters were not looked at")


def test_other_operations_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="knows no 'write'"):
        sessions.check([op(0, 1, "write", 1)])
