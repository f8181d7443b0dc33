"""Revision order against real time."""

from __future__ import annotations

import random

import pytest

from raftkv.checker import revisions
from raftkv.checker.history import Operation
from tests.checker.histories import cas, delete, execution, fail, info, op, r, w

A = w(0, 1, 1, key="a", revision=1)
B = w(2, 3, 2, key="b", revision=2)

GOOD: dict[str, list[Operation]] = {
    "no revisions, nothing to say": [w(0, 1, 1), r(2, 3, 1)],
    "in order": [A, B, r(4, 5, 1, key="a", revision=1), r(4, 5, 2, key="b", revision=2)],
    "an old key stays at its revision": [A, B, r(4, 5, 1, key="a", revision=1)],
    "concurrent writes in either order": [w(0, 9, 1, revision=4), w(0, 9, 2, revision=3)],
    "equal times are concurrent": [w(0, 1, 1, revision=2), w(1, 2, 2, key="b", revision=1)],
    "an unknown write seen": [A, info(w(2, 3, 7, key="a")), r(4, 5, 7, key="a", revision=3)],
    "deleted": [A, delete(2, 3, True, key="a", revision=2), r(4, 5, None, key="a")],
    "perhaps deleted": [A, info(delete(2, 3, key="a")), r(4, 5, None, key="a")],
    "about to be deleted": [A, r(4, 5, None, key="a"), delete(4, 9, True, key="a", revision=2)],
    "a cas that failed tells nothing": [A, cas(2, 3, 5, 6, False, key="a"), r(4, 5, 1, key="a", revision=1)],
    "a read of all, at what was seen": [A, B, op(4, 5, "read", result=[1, 2], key="", extra={"at": 2})],
}

BAD: dict[str, tuple[list[Operation], str, str]] = {
    "two writes, one revision": ([A, w(2, 3, 2, key="b", revision=1)], "duplicate revision", "made revision 1"),
    "a later write, an older revision, another key": (
        [B, w(4, 5, 1, key="a", revision=1)],
        "revision went back",
        "a write made revision 1, though revision 2 had been seen before it began",
    ),
    "a revision that a reader had seen before it was made": (
        [A, info(w(2, 3, 9, key="b")), r(4, 5, 9, key="b", revision=7), w(6, 7, 3, key="a", revision=5)],
        "revision went back",
        "though revision 7 had been seen",
    ),
    # Jepsen: etcd 3.4.3 (2020), section on reads without a quorum.
    "stale read": (
        [A, w(2, 3, 5, key="a", revision=2), r(4, 5, 1, key="a", revision=1)],
        "stale read",
        "a read saw revision 1 of a, though revision 2 of it had been seen before it began",
    ),
    "stale to another reader": (
        [A, info(w(2, 9, 2, key="a")), r(3, 4, 2, key="a", revision=2), r(5, 6, 1, key="a", revision=1)],
        "stale read",
        "though revision 2 of it had been seen",
    ),
    "gone": ([A, r(2, 3, None, key="a")], "stale read", "a read saw no a, though revision 1"),
    "a read of all, in the past": (
        [A, B, op(4, 5, "read", result=[1], key="", extra={"at": 1})],
        "stale read",
        "a read was answered at revision 1, though revision 2 had been seen before it began",
    ),
    "another value at that revision": (
        [A, r(2, 3, 7, key="a", revision=1)],
        "wrong value at revision",
        "a was read as 7 at revision 1, which wrote 1",
    ),
    "another key at that revision": (
        [A, B, r(4, 5, 2, key="a", revision=2)],
        "wrong value at revision",
        "at revision 2, which wrote b",
    ),
    "nobody wrote that": ([A, r(2, 3, 7, key="a", revision=9)], "phantom value", "nobody wrote that"),
    "the unknown write is of another key": (
        [A, info(w(2, 3, 7, key="b")), r(4, 5, 7, key="a", revision=3)],
        "phantom value",
        "a was read as 7 at revision 3",
    ),
    "a failed write is read": (
        [A, fail(w(2, 3, 7, key="a")), r(4, 5, 7, key="a", revision=2)],
        "dirty read",
        "which a write that had failed, for certain, would have written",
    ),
    "read before the write began": (
        [r(0, 1, 1, key="a", revision=1), w(2, 3, 1, key="a", revision=1)],
        "read from the future",
        "before the write of that value began",
    ),
    "read before the unknown write began": (
        [r(0, 1, 7, key="a", revision=1), info(w(2, 3, 7, key="a"))],
        "read from the future",
        "before the write of that value began",
    ),
    "a value that no revision wrote": ([A, r(2, 3, 1, key="a")], "value without revision", "no revision that wrote it"),
}  # fmt: skip


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_an_order_that_can_be_is_accepted(operations: list[Operation]) -> None:
    verdict = revisions.check(operations)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]


@pytest.mark.parametrize(("operations", "name", "text"), BAD.values(), ids=BAD)
def test_an_order_that_cannot_be_is_named(operations: list[Operation], name: str, text: str) -> None:
    verdict = revisions.check(operations)
    assert verdict.valid is False
    told = [problem for problem in verdict.problems if problem.name == name]
    assert told, [str(problem) for problem in verdict.problems]
    assert text in told[0].text
    assert told[0].operations


@pytest.mark.parametrize("seed", range(20))
def test_what_really_happened_is_accepted(seed: int) -> None:
    history = execution(random.Random(seed), operations=500, clients=6, unknown=0.1 if seed % 2 else 0.0)
    verdict = revisions.check(history)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]


def test_problems_are_told_by_the_dozen_not_by_the_thousand() -> None:
    history = [w(number, number, number, revision=10_000 - number) for number in range(1_000)]
    assert 1 <= len(revisions.check(history).problems) <= 10


def test_out_of_time_is_undecided() -> None:
    verdict = revisions.check([A, B], lambda: True)
    assert (verdict.valid, verdict.why) == (None, "out of time: reads were not held against revisions")
