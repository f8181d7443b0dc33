"""Leaders, what they did, and whom others saw leading.

Tokens and fenced acts are judged as those of locks are: see `fencing`, whose names are used. Moreover:

    split brain         one token, and two candidates that had it
    never a candidate   somebody was seen leading, or acted, who has never asked to
    stale observation   who leads was asked, and the answer is older than one that was there before
    read from the future   who leads was asked, and the answer began to lead only afterwards

Operations: `lead` with value candidate -> {"token": t}; `act` with value {"token", "candidate", "number"} -> revision,
extra {"mode": "holder" or "max_seen"}; `observe` -> {"token", "candidate"}, or null: nobody leads; `resign`, with value
{"token"} if what was given back is to be told from what is acted on.

A `lead` that failed may have led for a while: whoever waits no longer gives up a place that may just have come to the
front, and is told that it was not to be had. So it is not taken to have had no effect: its candidate may be observed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftkv.checker.fencing import look_at_grants, look_at_writes
from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation
from raftkv.checker.newest import out_of_order
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided


def token(one: Operation) -> int:
    """Return the token that an operation was told, or that it carried."""
    return int((one.result if one.f in ("lead", "observe") else one.value)["token"])


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge an election. Observers are asked to see what is the case, wherever they ask (as `leader()` promises)."""
    findings = Findings()
    told = [one for one in operations if one.ok]
    grants = [one for one in told if one.f == "lead"]
    acts = [one for one in told if one.f == "act"]
    seen = [one for one in told if one.f == "observe" and one.result is not None]
    nameless = sum(not one.revision for one in acts)
    acts = sorted((one for one in acts if one.revision), key=lambda one: one.revision)
    resigned = [one for one in told if one.f == "resign" and isinstance(one.value, dict) and "token" in one.value]
    steps: tuple[Callable[[], None], ...] = (
        lambda: look_at_grants(findings, grants, token),
        lambda: look_at_writes(findings, grants=grants, writes=acts, releases=resigned, token=token),
        lambda: _candidates(findings, operations, [*grants, *seen, *acts]),
        lambda: _observations(findings, grants, seen),
    )
    for step in steps:
        if out_of_time():
            return undecided(len(operations), "out of time before all tokens were compared", findings.problems)
        step()
    if nameless:
        why = f"{nameless} acknowledged acts were told no revision: their order is not known"
        return undecided(len(operations), why, findings.problems)
    return judged(len(operations), findings.problems)


def _candidate(one: Operation) -> Any:
    match one.f:
        case "lead":
            return one.value
        case "observe":
            return one.result["candidate"]
        case _:
            return one.value["candidate"]


def _candidates(findings: Findings, operations: Sequence[Operation], leading: Sequence[Operation]) -> None:
    asked = {one.value for one in operations if one.f == "lead"}
    first: dict[int, Operation] = {}
    for one in leading:
        other = first.setdefault(token(one), one)
        if _candidate(other) != _candidate(one):
            text = f"token {token(one)} is {_candidate(other)!r}'s and {_candidate(one)!r}'s"
            findings.add("split brain", text, other, one)
        if _candidate(one) not in asked:
            findings.add("never a candidate", f"{_candidate(one)!r} never stood for election", one)


def _observations(findings: Findings, grants: Sequence[Operation], seen: Sequence[Operation]) -> None:
    granted = {token(one): one for one in grants}
    observed = {id(one) for one in seen}
    for before, after in out_of_order([*grants, *seen], token, equal=True):
        if id(after) in observed:
            text = f"token {token(after)} is said to lead after token {token(before)} was told"
            findings.add("stale observation", text, before, after)
        elif id(before) in observed:
            text = f"token {token(after)} was granted after token {token(before)} was seen leading"
            findings.add("token order", text, before, after)
    for one in seen:
        grant = granted.get(token(one))
        if grant is not None and one.precedes(grant):
            findings.add("read from the future", f"token {token(one)} led before that was asked for", one, grant)
