"""A set that only grows: what was acknowledged is in it, what never was added is not, what was seen once stays.

`add` (an int, unique) with the revision that it made, `read` -> a list of ints, with `extra["at"]`, the revision that
it was answered at, where that is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from raftkv.checker import revisions
from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, together, undecided

_SHOWN = 5


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge sets, each by its key. Of one without any read nothing is known."""
    by_key: dict[str, list[Operation]] = {}
    for one in operations:
        by_key.setdefault(one.key, []).append(one)
    if not by_key:
        return undecided(0, "there is no set")
    verdicts = [_check_one(found, out_of_time) for found in by_key.values()]
    return together(len(operations), *verdicts, revisions.check(operations, out_of_time, content=None))


def _check_one(operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
    adds: dict[int, Operation] = {}
    for one in operations:
        if one.f == "add":
            if adds.setdefault(one.value, one) is not one:
                raise ValueError(f"{one.value} is added more than once: values are unique")
        elif one.f != "read":
            raise ValueError(f"a set knows no {one.f!r}")
    reads = sorted((one for one in operations if one.f == "read" and one.ok), key=lambda one: one.began)
    if not reads:
        return undecided(len(operations), "the set was never read")
    found = Findings()
    give_up = False
    for check_reads in (_each_read, _nothing_early, _never_less, _by_revision):
        give_up = give_up or check_reads(reads, adds, found, out_of_time)
    if give_up:
        return undecided(len(operations), "out of time: not all reads", found.problems)
    return judged(len(operations), found.problems)


def _each_read(reads: list[Operation], adds: dict[int, Operation], found: Findings, out_of_time: OutOfTime) -> bool:
    acknowledged = sorted((one for one in adds.values() if one.ok), key=lambda one: one.ended)
    owed: set[int] = set()  # at the read at hand, which come in the order of their beginnings
    place = 0
    known = {value for value, one in adds.items() if one.outcome is not Outcome.FAIL}
    last_seen: dict[int, Operation] = {}
    for read in reversed(reads):
        last_seen.update(dict.fromkeys(set(read.result).difference(last_seen), read))
    for read in reads:
        if out_of_time():
            return True
        elements = set(read.result)
        while place < len(acknowledged) and acknowledged[place].ended < read.began:
            owed.add(acknowledged[place].value)
            place += 1
        if len(elements) < len(read.result):
            twice = [value for value, count in Counter(read.result).items() if count > 1]
            found.add("duplicate element", f"{_some(twice)} more than once in one read", read)
        missing = owed - elements
        back = [value for value in missing if value in last_seen and last_seen[value].began > read.ended]
        gone = missing.difference(back)
        if back:
            text = f"{_some(back)} not in a read, though acknowledged before it began; later reads had it"
            found.add("stale read", text, adds[min(back)], read, last_seen[min(back)])
        if gone:
            text = f"{_some(gone)} not in a read, though acknowledged before it began; no later read had it"
            found.add("lost element", text, adds[min(gone)], read)
        strange = elements - known
        dirty = [value for value in strange if value in adds]
        if dirty:
            text = f"{_some(dirty)} in a read, though the attempt to add it had failed, for certain"
            found.add("dirty read", text, adds[min(dirty)], read)
        if never_added := strange.difference(dirty):
            found.add("phantom element", f"{_some(never_added)} in a read, though nobody ever added it", read)
    return False


def _nothing_early(reads: list[Operation], adds: dict[int, Operation], found: Findings, out_of_time: OutOfTime) -> bool:
    by_beginning = sorted(adds.values(), key=lambda one: one.began)
    begun: set[int] = set()
    place = 0
    for read in sorted(reads, key=lambda one: one.ended):
        if out_of_time():
            return True
        while place < len(by_beginning) and by_beginning[place].began <= read.ended:
            begun.add(by_beginning[place].value)
            place += 1
        early = [value for value in set(read.result) - begun if value in adds]
        if early:
            text = f"{_some(early)} in a read that was over before the attempt to add it began"
            found.add("read from the future", text, read, adds[min(early)])
    return False


def _never_less(reads: list[Operation], adds: dict[int, Operation], found: Findings, out_of_time: OutOfTime) -> bool:
    """What one read saw, every read sees that begins after it ended."""
    by_end = sorted(reads, key=lambda one: one.ended)
    seen: set[int] = set()
    by: dict[int, Operation] = {}
    place = 0
    for read in reads:
        if out_of_time():
            return True
        while place < len(by_end) and by_end[place].ended < read.began:
            for value in set(by_end[place].result) - seen:
                by[value] = by_end[place]
                seen.add(value)
            place += 1
        # What had been acknowledged is reported as lost or stale by `_each_read`.
        gone = {value for value in seen.difference(read.result) if value in adds and not adds[value].precedes(read)}
        if gone:
            text = f"{_some(gone)} not in a read, though one that had ended before it began had it"
            found.add("disappearing element", text, by[min(gone)], read)
    return False


def _by_revision(reads: list[Operation], adds: dict[int, Operation], found: Findings, out_of_time: OutOfTime) -> bool:
    """A read at revision R has exactly what was added at R or before, and all that reads at older revisions had."""
    made = sorted((one for one in adds.values() if one.ok and one.revision), key=lambda one: one.revision)
    at: Callable[[Operation], int] = lambda one: one.extra["at"]  # noqa: E731
    owed: set[int] = set()
    place = 0
    last: Operation | None = None
    for read in sorted((one for one in reads if one.extra.get("at")), key=at):
        if out_of_time():
            return True
        while place < len(made) and made[place].revision <= at(read):
            owed.add(made[place].value)
            place += 1
        elements = set(read.result)
        if missing := owed - elements:
            first = adds[min(missing)]
            text = f"{_some(missing)} not in a read at revision {at(read)}, though added at {first.revision}"
            found.add("lost element", text, first, read)
        early = [
            value for value in elements - owed if value in adds and adds[value].ok and adds[value].revision > at(read)
        ]
        if early:
            first = adds[min(early)]
            text = f"{_some(early)} in a read at revision {at(read)}, though added at {first.revision}"
            found.add("read from the future", text, first, read)
        if last is not None:
            gone = set(last.result) - elements - missing
            if gone:
                text = f"{_some(gone)} not in a read at revision {at(read)}, though in one at {at(last)}"
                found.add("disappearing element", text, last, read)
            if at(last) == at(read) and elements - set(last.result):
                text = f"two reads at revision {at(read)} differ by {_some(elements - set(last.result))}"
                found.add("one revision, two values", text, last, read)
        last = read
    return False


def _some(values: Collection[int]) -> str:
    shown = ", ".join(str(value) for value in sorted(values)[:_SHOWN])
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(values) == 1 else 'are'}"
