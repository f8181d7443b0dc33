"""What watchers were told: all of them the same history, each change once, in order, and nothing else.

    out of order       a segment has a revision behind a higher one
    duplicate event    a segment has a revision twice
    out of range       a segment has a revision that it does not claim to cover
    disagreement       two segments tell different things of one revision
    gap                a segment lacks an event that another segment tells, within what it covers
    lost event         a segment lacks a write that was acknowledged, within what it covers
    never written      an event tells what nobody has written
    failed write       an event tells what failed
    wrong revision     an event tells a write of another revision than its writer was told
    written twice      a write is told at two revisions
    read from the future   an event was told before its write began
    duplicate revision two writes were told one revision
    revision order     a write was told a revision that is not above one of a write that was over before it began

Operations: `write` with key and value, unique for its key -> revision; `watch` with value {"from": r} ->
{"events": [[revision, key, value], ...], "through": R}: a segment, all that there is from r through R, both included;
extra {"watcher"} says whose it is, if not its process'. Of a watcher that was never told anything nothing is known.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final

from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.revisions import order_of_writes
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided

_OFTEN: Final = 256

_Event = tuple[str, Any]
"""Key and value."""


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge watchers of one set of keys. Each write makes a revision of its own."""
    findings = Findings()
    writes = [one for one in operations if one.f == "write"]
    segments = [one for one in operations if one.f == "watch" and one.ok]
    events: dict[int, tuple[_Event, Operation]] = {}
    gave_up = undecided(len(operations), "out of time before all segments were compared")
    for count, segment in enumerate(segments):
        if not count % _OFTEN and out_of_time():
            return gave_up
        _look_at(findings, segment, events)
    if out_of_time():
        return undecided(len(operations), gave_up.why, findings.problems)
    acknowledged = order_of_writes(findings, [one for one in writes if one.ok and one.revision])
    _compare(findings, writes, events)
    for key, operation in acknowledged.items():
        events.setdefault(key, ((operation.key, operation.value), operation))
    revisions = sorted(events)
    for segment in segments:
        if out_of_time():
            return undecided(len(operations), gave_up.why, findings.problems)
        _look_for_gaps(findings, segment, revisions, events, acknowledged)
    if unheard := _never_told([one for one in operations if one.f == "watch"], acknowledged):
        return undecided(len(operations), "; ".join(unheard), findings.problems)
    return judged(len(operations), findings.problems)


def _never_told(segments: Sequence[Operation], acknowledged: dict[int, Operation]) -> list[str]:
    """Name watchers that waited for what had been acknowledged, and never were told anything: in vain, or for ever."""
    watchers: dict[Any, list[Operation]] = {}
    for one in segments:
        watchers.setdefault(one.extra.get("watcher", one.process), []).append(one)
    found = []
    for watcher, mine in watchers.items():
        if any(one.ok and one.result["events"] for one in mine):
            continue
        first, last = min(int(one.value["from"]) for one in mine), max(mine, key=lambda one: one.began)
        missed = sum(revision >= first and write.precedes(last) for revision, write in acknowledged.items())
        if missed:
            found.append(
                f"watcher {watcher} was never told anything, of {missed} acknowledged writes that it waited for"
            )
    return found


def _look_at(findings: Findings, segment: Operation, events: dict[int, tuple[_Event, Operation]]) -> None:
    """Judge a segment on its own, and by what others have told of the same revisions."""
    first, last = int(segment.value["from"]), int(segment.result["through"])
    before = 0
    for revision, key, value in segment.result["events"]:
        if revision == before:
            findings.add("duplicate event", f"revision {revision} is told twice", segment)
        elif revision < before:
            findings.add("out of order", f"revision {revision} is told behind {before}", segment)
        if not first <= revision <= last:
            findings.add("out of range", f"revision {revision} is told of {first} through {last}", segment)
        (other_key, other_value), other = events.setdefault(revision, ((key, value), segment))
        if (other_key, other_value) != (key, value):
            text = f"at revision {revision} {other_key} became {other_value!r}, or {key} became {value!r}"
            findings.add("disagreement", text, other, segment)
        before = max(before, revision)


def _compare(
    findings: Findings, writes: Sequence[Operation], events: dict[int, tuple[_Event, Operation]]
) -> None:  # fmt: skip
    """Judge what was told by what was written."""
    written = {(one.key, one.value): one for one in writes}
    at: dict[_Event, int] = {}
    for revision, (event, segment) in sorted(events.items()):
        key, value = event
        writer = written.get(event)
        earlier = at.setdefault(event, revision)
        if earlier != revision:
            text = f"{key} became {value!r} at revision {earlier} and again at {revision}"
            findings.add("written twice", text, writer, segment)
        elif writer is None:
            findings.add("never written", f"{key} became {value!r} at revision {revision}; nobody wrote that", segment)
        elif writer.outcome is Outcome.FAIL:
            text = f"{key} became {value!r} at revision {revision}; that write failed"
            findings.add("failed write", text, writer, segment)
        elif writer.ok and writer.revision and writer.revision != revision:
            text = f"{key} became {value!r} at revision {revision}; its writer was told {writer.revision}"
            findings.add("wrong revision", text, writer, segment)
        if writer is not None and segment.ended < writer.began:
            text = f"that {key} became {value!r} was told before it was written"
            findings.add("read from the future", text, segment, writer)


def _look_for_gaps(
    findings: Findings,
    segment: Operation,
    revisions: Sequence[int],
    events: dict[int, tuple[_Event, Operation]],
    acknowledged: dict[int, Operation],
) -> None:
    first = bisect_left(revisions, int(segment.value["from"]))
    last = bisect_right(revisions, int(segment.result["through"]))
    told = {revision for revision, _, _ in segment.result["events"]}
    for revision in revisions[first:last]:
        if revision in told:
            continue
        (key, value), witness = events[revision]
        writer = acknowledged.get(revision)
        if writer is not None:
            text = f"revision {revision}, at which {key} became {value!r}, is acknowledged and was not told"
            findings.add("lost event", text, writer, segment)
        else:
            text = f"revision {revision}, at which {key} became {value!r}, was told by one, and not by the other"
            findings.add("gap", text, witness, segment)
