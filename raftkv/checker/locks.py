"""A counter behind a lock: whoever holds the lock reads it, and writes it plus one, fenced by the token of his grant.

Holders may be paused, and write when somebody else has been granted the lock: that is refused, or an increment is lost.
What is wrong with tokens and fenced writes has the names of `fencing`; with the counter:

    lost update        an increment was acknowledged, and another one made the same number or less of it
    unexplained value  an increment started from a number that no write before it can have made
    never written      a read showed a number that nobody wrote
    stale read         a read misses an increment that was acknowledged before it began
    read from the future   a read shows an increment that began after it had ended
    wrong revision     a read showed a number at another revision than the one that made it

Operations: `acquire` -> {"token": t}; `increment` with value {"token": t, "to": n} -> revision, extra {"mode": "holder"
or "max_seen"}; `release` with value {"token": t}; `read` -> n (0: not there), and its mod_revision, if known.

An `acquire` that failed may have held the lock for a while: whoever waits no longer gives up a place that may just have
come to the front. Nobody can write under its token, which was not told, and nothing is concluded from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from raftkv.checker.fencing import look_at_grants, look_at_writes
from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided

_OFTEN: Final = 256


def token(one: Operation) -> int:
    """Return the token that an operation was told, or that it carried."""
    return int((one.result if one.f == "acquire" else one.value)["token"])


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge a lock and the counter behind it, which is 0 at first."""
    findings = Findings()
    told = [one for one in operations if one.ok]
    grants = [one for one in told if one.f == "acquire"]
    increments = [one for one in operations if one.f == "increment"]
    accepted = [one for one in increments if one.ok]
    nameless = [one for one in accepted if not one.revision]
    accepted = sorted((one for one in accepted if one.revision), key=lambda one: one.revision)

    look_at_grants(findings, grants, token)
    releases = [one for one in told if one.f == "release"]
    look_at_writes(findings, grants=grants, writes=accepted, releases=releases, token=token)
    reads = [one for one in told if one.f == "read"]
    if (
        out_of_time()
        or not _counter(findings, accepted, [one for one in increments if one.unknown], out_of_time)
        or not _reads(findings, reads, increments, out_of_time)
    ):
        return undecided(len(operations), "out of time before the counter was followed to its end", findings.problems)
    if nameless:
        why = f"{len(nameless)} acknowledged increments were told no revision: their order is not known"
        return undecided(len(operations), why, findings.problems)
    return judged(len(operations), findings.problems)


def _counter(
    findings: Findings, accepted: Sequence[Operation], unknown: Sequence[Operation], out_of_time: OutOfTime
) -> bool:
    """Follow the counter in the order of revisions; False: out of time.

    Each increment started from what the one before it made, or from what an unknown one made in between. Fencing holds
    for that one as well: its token is between theirs. (Whether it holds for the others is judged elsewhere.)
    """
    by_number: dict[int, list[Operation]] = {}
    for one in sorted(unknown, key=token):
        by_number.setdefault(_to(one), []).append(one)
    before: Operation | None = None
    for count, one in enumerate(accepted):
        if not count % _OFTEN and out_of_time():
            return False
        base = 0 if before is None else _to(before)
        least = 0 if before is None else token(before)
        if _to(one) != base + 1:
            candidates = by_number.get(_to(one) - 1, [])
            # Those with the lowest token first: later increments have no use for them.
            between = next(
                (place for place, other in enumerate(candidates) if _between(other, least, one)),
                None,
            )
            if between is not None:
                candidates.pop(between)
            elif before is not None and _to(one) <= base:
                text = (
                    f"revision {before.revision} made the counter {base}, and the next increment, at revision "
                    f"{one.revision}, made it {_to(one)}"
                )
                findings.add("lost update", text, before, one)
            else:
                text = (
                    f"revision {one.revision} made the counter {_to(one)}, so it had read {_to(one) - 1}; "
                    f"what was there is {base}, and no write of unknown outcome can have changed that"
                )
                findings.add("unexplained value", text, before, one)
        before = one
    return True


def _between(unknown: Operation, least: int, after: Operation) -> bool:
    return least <= token(unknown) <= token(after) and unknown.began < after.ended


def _reads(
    findings: Findings, reads: Sequence[Operation], increments: Sequence[Operation], out_of_time: OutOfTime
) -> bool:
    """Judge reads against what was written; False: out of time."""
    writers: dict[int, list[Operation]] = {}
    by_revision: dict[int, Operation] = {}
    for one in increments:
        if one.outcome is not Outcome.FAIL:
            writers.setdefault(_to(one), []).append(one)
        if one.ok and one.revision:
            by_revision[one.revision] = one
    acknowledged = sorted((one for one in increments if one.ok), key=lambda one: one.ended)
    ends = [one.ended for one in acknowledged]
    newest: list[Operation] = []
    for one in acknowledged:
        newest.append(one if not newest or _to(one) > _to(newest[-1]) else newest[-1])
    all_known = not any(one.unknown for one in increments)
    for count, read in enumerate(reads):
        if not count % _OFTEN and out_of_time():
            return False
        number = int(read.result or 0)
        before = bisect_left(ends, read.began)
        possible = writers.get(number, [])
        if before and number < before and all_known:
            text = f"the counter is {number} after {before} increments were acknowledged"
            findings.add("lost update", text, newest[before - 1], read)
        # A holder's write of unknown outcome may land behind the next one under its own token: then it is not stale.
        undone = (
            read.revision > newest[before - 1].revision and any(one.unknown for one in possible) if before else False
        )
        if before and number < _to(newest[before - 1]) and not undone:
            text = f"the counter is {number} after an increment to {_to(newest[before - 1])} was acknowledged"
            findings.add("stale read", text, newest[before - 1], read)
        if not number:
            continue
        known = by_revision.get(read.revision)
        if not possible:
            findings.add("never written", f"the counter is {number}, and nobody wrote that", read)
        elif min(one.began for one in possible) > read.ended:
            findings.add("read from the future", f"the counter is {number} before that was written", read, possible[0])
        elif known is not None and _to(known) != number:
            text = f"revision {read.revision} made the counter {_to(known)}; it was read as {number} at that revision"
            findings.add("wrong revision", text, known, read)
        elif read.revision and known is None and not any(one.unknown for one in possible):
            text = f"{number} was read at revision {read.revision}, and was written at {possible[0].revision}"
            findings.add("wrong revision", text, possible[0], read)
    return True


def _to(one: Operation) -> int:
    return int(one.value["to"])
