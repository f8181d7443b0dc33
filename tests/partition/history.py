"""What clients did to one register, and whether that is linearizable.

Every answer carries the revision it made or saw, so the order in which the store claims to have worked is known, and
nothing has to be searched: it is enough to hold that order against real time and against the values that were read.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Operation:
    """A write that was acknowledged, or a read that was answered."""

    began: float
    ended: float
    revision: int
    """The revision that a write made; the mod_revision that a read saw, 0 for no value."""
    value: bytes
    is_write: bool


def violations(operations: list[Operation], unknown: set[bytes]) -> list[str]:
    """Say what contradicts linearizability. `unknown`: values of writes whose outcome nobody was told."""
    problems = []
    written = {one.revision: one.value for one in operations if one.is_write}
    if len(written) < sum(one.is_write for one in operations):
        problems.append("two writes made the same revision")
    by_end = sorted(operations, key=lambda one: one.ended)
    ends = [one.ended for one in by_end]
    newest_by = [0, *accumulate((one.revision for one in by_end), max)]
    for one in operations:
        newest = newest_by[bisect_left(ends, one.began)]  # an equal time is concurrent
        if one.is_write and one.revision <= newest:
            problems.append(f"{one} took effect before revision {newest}, which was seen before it began")
        if not one.is_write and one.revision < newest:
            problems.append(f"{one} is stale: revision {newest} was seen before it began")
        if not one.is_write and one.revision and written.get(one.revision, one.value) != one.value:
            problems.append(f"{one} is not what was written at that revision")
        if not one.is_write and one.revision and one.revision not in written and one.value not in unknown:
            problems.append(f"{one} is a value that nobody wrote")
    return problems
