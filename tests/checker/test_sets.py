"""A set that only grows."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.checker import sets
from raftkv.checker.history import Operation
from tests.checker.histories import fail, info, op


def add(began: int, ended: int, value: int, revision: int = 0) -> Operation:
    return op(began, ended, "add", value, revision=revision, key="")


def read(began: int, ended: int, *elements: int, at: int = 0) -> Operation:
    extra: dict[str, Any] = {"at": at} if at else {}
    return op(began, ended, "read", result=list(elements), key="", extra=extra)


GOOD: dict[str, list[Operation]] = {
    "empty": [read(0, 1)],
    "what was added": [add(0, 1, 1), read(2, 3, 1), add(4, 5, 2), read(6, 7, 1, 2)],
    "under way, seen": [add(0, 9, 1), read(1, 2, 1)],
    "under way, not seen": [add(0, 9, 1), read(1, 2)],
    "equal times are concurrent": [add(0, 1, 1), read(1, 2)],
    "unknown, seen late": [info(add(0, 1, 1)), read(2, 3), read(4, 5, 1)],
    "unknown, never seen": [info(add(0, 1, 1)), read(2, 3)],
    "failed": [fail(add(0, 1, 1)), read(2, 3)],
    "by revision": [add(0, 9, 1, 5), add(0, 9, 2, 6), read(1, 8, 1, at=5), read(1, 8, 1, 2, at=6)],
}

BAD: dict[str, tuple[list[Operation], str, str]] = {
    # Jepsen: Elasticsearch 1.1.0, RabbitMQ, Redis Sentinel (2013-2014): acknowledged and gone.
    "lost": (
        [add(0, 1, 1), add(2, 3, 2), read(4, 5, 2)],
        "lost element",
        "1 is not in a read, though acknowledged before it began; no later read had it",
    ),
    "stale": ([add(0, 1, 1), read(2, 3), read(4, 5, 1)], "stale read", "later reads had it"),
    "added by nobody": ([add(0, 1, 1), read(2, 3, 1, 7)], "phantom element", "7 is in a read, though nobody ever"),
    "an add that failed": ([fail(add(0, 1, 1)), read(2, 3, 1)], "dirty read", "had failed, for certain"),
    "seen, then not": (
        [info(add(0, 1, 1)), read(2, 3, 1), read(4, 5)],
        "disappearing element",
        "1 is not in a read, though one that had ended before it began had it",
    ),
    "before it was added": ([read(0, 1, 1), add(2, 3, 1)], "read from the future", "over before the attempt"),
    "twice": ([add(0, 1, 1), read(2, 3, 1, 1)], "duplicate element", "1 is more than once in one read"),
    "missing at its revision": (
        [add(0, 9, 1, 5), read(1, 8, at=6)],
        "lost element",
        "1 is not in a read at revision 6, though added at 5",
    ),
    "there before its revision": (
        [add(0, 9, 1, 7), read(1, 8, 1, at=6)],
        "read from the future",
        "1 is in a read at revision 6, though added at 7",
    ),
    "one revision, two sets": (
        [info(add(0, 9, 1)), read(1, 8, at=6), read(2, 8, 1, at=6)],
        "one revision, two values",
        "two reads at revision 6 differ by 1",
    ),
    "gone at a later revision": (
        [info(add(0, 9, 1)), read(1, 8, 1, at=6), read(1, 8, at=7)],
        "disappearing element",
        "1 is not in a read at revision 7, though in one at 6",
    ),
    "read in the past": (
        [add(0, 1, 1, 5), info(add(0, 1, 2)), read(2, 3, 1, at=4)],
        "stale read",
        "answered at revision 4, though revision 5 had been seen",
    ),
    "revisions go back": ([add(0, 1, 1, 5), add(2, 3, 2, 4), read(4, 5, 1, 2)], "revision went back", "revision 5"),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_a_set_that_only_grows_is_accepted(operations: list[Operation]) -> None:
    verdict = sets.check(operations)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]


@pytest.mark.parametrize(("operations", "name", "text"), BAD.values(), ids=BAD)
def test_anything_else_is_named(operations: list[Operation], name: str, text: str) -> None:
    verdict = sets.check(operations)
    assert verdict.valid is False
    told = [problem for problem in verdict.problems if problem.name == name]
    assert any(text in problem.text for problem in told), [str(problem) for problem in verdict.problems]
    assert all(problem.operations for problem in told)


def test_many_elements_are_not_all_named() -> None:
    (problem,) = sets.check([*(add(0, 1, value) for value in range(100)), read(2, 3)]).problems
    assert problem.text.startswith("0, 1, 2, 3, 4 and 95 more are not in a read")


def test_without_a_read_nothing_is_known() -> None:
    verdict = sets.check([add(0, 1, 1)])
    assert (verdict.valid, verdict.why) == (None, "the set was never read")


def test_out_of_time_is_undecided() -> None:
    assert sets.check([add(0, 1, 1), read(2, 3, 1)], lambda: True).valid is None


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="more than once"):
        sets.check([add(0, 1, 1), add(2, 3, 1), read(4, 5, 1)])
    with pytest.raises(ValueError, match="knows no 'remove'"):
        sets.check([op(0, 1, "remove", 1)])
