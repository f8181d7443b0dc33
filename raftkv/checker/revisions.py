"""Revision order against real time: cheap, and independent of any search.

Each write makes a revision, and the store makes them in the order in which writes take effect. So what was over before
something began must have the smaller revision: store-wide for writes, per key for reads, which tell the `mod_revision`
that they saw. And what is read at a revision is what was written at it.

Reads that tell `extra["at"]`, the revision of the store that they were answered at, are held against all writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.models import changes, written
from raftkv.checker.newest import Newest, out_of_order, shown
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided


def check(
    operations: Sequence[Operation],
    out_of_time: OutOfTime = never,
    *,
    content: Callable[[Operation], Any] | None = written,
) -> Verdict:
    """Judge operations of one workload. What is not called `read` and tells a revision has written at that revision.

    A history without any revision is accepted: there is nothing to hold against it.
    `content`: what a write left in its key, which reads of that revision must return; None: values are not compared.
    """
    told = [one for one in operations if one.ok and shown(one)]
    if not told:
        return judged(len(operations), ())
    writes = {one.revision: one for one in reversed(told) if _wrote(one)}
    found = Findings()
    _one_revision_each(told, writes, found)
    _writes_follow_what_wasshown(told, found)
    if out_of_time():
        return undecided(len(operations), "out of time: reads were not held against revisions", found.problems)
    _reads_follow_what_wasshown(operations, found)
    if content is not None:
        if out_of_time():
            return undecided(len(operations), "out of time: values were not held against revisions", found.problems)
        _reads_return_what_was_written(operations, writes, content, found)
    return judged(len(operations), found.problems)


def order_of_writes(findings: Findings, writes: Sequence[Operation]) -> dict[int, Operation]:
    """Judge writes whose revisions were told by these alone, and return them by their revisions."""
    by_revision: dict[int, Operation] = {}
    for one in writes:
        if (other := by_revision.setdefault(one.revision, one)) is not one:
            findings.add("duplicate revision", f"two writes were told revision {one.revision}", other, one)
    for before, after in out_of_order(writes, lambda one: one.revision):
        if before.revision != after.revision:
            text = f"revision {after.revision} was made after revision {before.revision} had been"
            findings.add("revision order", text, before, after)
    return by_revision


def _wrote(one: Operation) -> bool:
    return one.ok and one.revision > 0 and one.f != "read"


def _one_revision_each(told: list[Operation], writes: dict[int, Operation], found: Findings) -> None:
    for one in told:
        if _wrote(one) and (first := writes[one.revision]) is not one:
            found.add("duplicate revision", f"two writes were told that they made revision {one.revision}", first, one)


def _writes_follow_what_wasshown(told: list[Operation], found: Findings) -> None:
    newest = Newest(told, shown)
    for one in told:
        before = newest.before(one.began)
        if before is None:
            continue
        if _wrote(one) and one.revision <= shown(before):
            found.add(
                "revision went back",
                f"a write made revision {one.revision}, though revision {shown(before)} had been seen before it began",
                before,
                one,
            )
        elif not _wrote(one) and (at := one.extra.get("at")) and at < shown(before):
            found.add(
                "stale read",
                f"a read was answered at revision {at}, though revision {shown(before)} had been seen before it began",
                before,
                one,
            )


def _reads_follow_what_wasshown(operations: Sequence[Operation], found: Findings) -> None:
    by_key: dict[str, list[Operation]] = {}
    for one in operations:
        if one.f in ("read", "write", "cas", "delete", "increment") and (one.ok or one.unknown):
            by_key.setdefault(one.key, []).append(one)
    for key, group in by_key.items():
        newest = Newest((one for one in group if one.ok and one.revision), lambda one: one.revision)
        deletes = [one for one in group if one.f == "delete" and (one.unknown or one.revision)]
        for one in group:
            if one.f != "read" or not one.ok:
                continue
            before = newest.before(one.began)
            if before is None or one.revision >= before.revision:
                continue
            if one.revision == 0 and _may_be_absent(one, before, deletes):
                continue
            what = f"revision {one.revision} of {key}" if one.revision else f"no {key}"
            found.add(
                "stale read",
                f"a read saw {what}, though revision {before.revision} of it had been seen before it began",
                before,
                one,
            )


def _may_be_absent(read: Operation, before: Operation, deletes: list[Operation]) -> bool:
    if before.f == "delete":
        return True
    return any(one.began <= read.ended and (one.unknown or one.revision > before.revision) for one in deletes)


def _reads_return_what_was_written(
    operations: Sequence[Operation],
    writes: dict[int, Operation],
    content: Callable[[Operation], Any],
    found: Findings,
) -> None:
    unknown: dict[tuple[str, Any], Operation] = {}
    failed: dict[tuple[str, Any], Operation] = {}
    for one in operations:
        if one.unknown and changes(one):
            unknown.setdefault((one.key, content(one)), one)
        elif one.outcome is Outcome.FAIL and one.f in ("write", "cas"):
            failed.setdefault((one.key, content(one)), one)
    for one in operations:
        if one.f != "read" or not one.ok or "at" in one.extra:
            continue
        read = f"{one.key} was read as {one.result}"
        if one.revision == 0:
            if one.result is not None:
                found.add("value without revision", f"{read}, with no revision that wrote it", one)
            continue
        write = writes.get(one.revision)
        if write is not None:
            if write.key != one.key:
                text = f"{read} at revision {one.revision}, which wrote {write.key}"
                found.add("wrong value at revision", text, write, one)
            elif content(write) != one.result:
                text = f"{read} at revision {one.revision}, which wrote {content(write)}"
                found.add("wrong value at revision", text, write, one)
            elif write.began > one.ended:
                found.add("read from the future", f"{read} before the write of that value began", one, write)
        elif (one.key, one.result) in unknown:
            if unknown[one.key, one.result].began > one.ended:
                later = unknown[one.key, one.result]
                found.add("read from the future", f"{read} before the write of that value began", one, later)
        elif (one.key, one.result) in failed:
            failure = failed[one.key, one.result]
            found.add(
                "dirty read", f"{read}, which a write that had failed, for certain, would have written", failure, one
            )
        else:
            text = f"{read} at revision {one.revision}: nobody wrote that, at this revision or at one unknown"
            found.add("phantom value", text, one)
