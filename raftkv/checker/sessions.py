"""Exactly-once increments: what was acknowledged is counted once, what was retried is not counted again.

`increment` (key) and `read` (key) -> the number of increments; `revision` of an increment is the one that it made, of a
read the one that it saw (`mod_revision`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from raftkv.checker import revisions
from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation
from raftkv.checker.newest import Newest
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, together, undecided


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge counters, each key on its own, and the order of revisions."""
    keys: dict[str, list[Operation]] = {}
    for one in operations:
        if one.f not in ("increment", "read"):
            raise ValueError(f"a counter knows no {one.f!r}")
        keys.setdefault(one.key, []).append(one)
    found = Findings()
    for number, (key, group) in enumerate(keys.items()):
        if out_of_time():
            why = f"out of time: {len(keys) - number} of {len(keys)} counters were not looked at"
            return undecided(len(operations), why, found.problems)
        _counter(key, group, found)
    order = revisions.check(operations, out_of_time, content=None)
    return together(len(operations), judged(len(operations), found.problems), order)


def _counter(key: str, operations: Sequence[Operation], found: Findings) -> None:
    reads = [one for one in operations if one.f == "read" and one.ok]
    sure = [one for one in operations if one.f == "increment" and one.ok]
    unknown = [one for one in operations if one.f == "increment" and one.unknown]
    _bounds(key, reads, sure, unknown, found)
    _never_less(key, reads, found)
    if all(one.revision for one in sure) and all(one.revision or not one.result for one in reads):
        _by_revision(key, reads, sure, unknown, found)


def _bounds(key: str, reads: list[Operation], sure: list[Operation], unknown: list[Operation], found: Findings) -> None:
    ended = sorted(one.ended for one in sure)
    begun = sorted(one.began for one in (*sure, *unknown))
    for read in reads:
        least, most = bisect_left(ended, read.began), bisect_right(begun, read.ended)
        if read.result < least:
            text = f"{key} was read as {read.result}, though {least} increments had been acknowledged before that began"
            found.add("lost increment", text, read)
        elif read.result > most:
            text = f"{key} was read as {read.result}, though only {most} increments had been asked for by then"
            found.add("increment applied twice", text, read)


def _never_less(key: str, reads: list[Operation], found: Findings) -> None:
    newest = Newest(reads, lambda one: int(one.result))
    for read in reads:
        before = newest.before(read.began)
        if before is not None and read.result < before.result:
            text = f"{key} was read as {read.result}, though {before.result} had been read before that began"
            found.add("stale read", text, before, read)


def _by_revision(
    key: str, reads: list[Operation], sure: list[Operation], unknown: list[Operation], found: Findings
) -> None:
    """A read that saw revision M counts the increments that were acknowledged with M or less, and no other known one.

    What it counts beyond those are unknown ones: never fewer than an older revision had, never more than were begun.
    """
    made = sorted(one.revision for one in sure)
    begun = sorted(one.began for one in unknown)
    beyond_before, last = 0, None
    for read in sorted(reads, key=lambda one: (one.revision, one.result)):
        known = bisect_right(made, read.revision)
        beyond = read.result - known
        possible = bisect_right(begun, read.ended)
        text = f"{key} was read as {read.result} at revision {read.revision}"
        if last is not None and last.revision == read.revision and last.result != read.result:
            found.add("one revision, two values", f"{text}, and as {last.result} at the same", last, read)
        elif beyond < 0:
            found.add("lost increment", f"{text}, by which {known} increments had been acknowledged", read)
        elif beyond > possible:
            more = f"{known} increments were acknowledged by that revision, and {possible} more are unknown"
            found.add("increment applied twice", f"{text}, but {more}", read)
        elif beyond < beyond_before and last is not None:
            more = f"as {last.result} at revision {last.revision}"
            found.add("lost increment", f"{text}, and {more}: one that had been counted is missing", last, read)
        beyond_before, last = max(beyond, beyond_before), read
