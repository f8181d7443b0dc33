"""The check of histories finds what is wrong: a check that accepts these proves nothing elsewhere."""

from __future__ import annotations

import pytest

from raftkv.checker.history import Operation
from tests.partition.history import read, violations, write

A, B = write(0, 1, 1, b"a"), write(2, 3, 2, b"b")


@pytest.mark.parametrize(
    ("operations", "problem"),
    [
        ([A, B, read(4, 5, 1, b"a")], "stale"),
        ([A, B, read(4, 5, 0, b"")], "stale"),
        ([A, read(2.1, 2.5, 2, b"b"), B, read(2.6, 2.9, 1, b"a")], "stale"),
        ([A, B, read(4, 5, 2, b"a")], "at revision 2, which wrote b"),
        ([A, B, read(4, 5, 3, b"c")], "nobody ever wrote"),
        ([A, write(2, 3, 1, b"b")], "duplicate revision"),
        ([B, write(4, 5, 1, b"late")], "revision went back"),
    ],
)
def test_a_bad_history_is_refused(operations: list[Operation], problem: str) -> None:
    assert any(problem in found for found in violations(operations, set()))


@pytest.mark.parametrize(
    "operations",
    [
        [read(0, 1, 0, b""), A, B, read(4, 5, 2, b"b")],
        [A, B, read(2.5, 4, 1, b"a"), read(2.5, 4, 2, b"b")],  # concurrent with the write of b
        [A, B, read(4, 5, 3, b"unknown"), read(6, 7, 3, b"unknown")],
        [A, write(1, 2, 2, b"equal times are concurrent"), read(2, 2.5, 1, b"a")],
    ],
)
def test_a_good_history_is_accepted(operations: list[Operation]) -> None:
    assert violations(operations, {b"unknown"}) == []
