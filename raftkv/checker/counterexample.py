"""A history that cannot be explained, cut down to the few operations that already cannot, and put in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.linearizability import Model, Result, linearizable
from raftkv.checker.models import REGISTER, changes, mentioned, written
from raftkv.checker.verdict import OutOfTime, Problem, never

_MOST_CONFIGURATIONS = 20_000
"""For one attempt at leaving something out: one that takes more is given up."""
_MOST_RELATED = 32


def shrunk(
    model: Model,
    operations: Sequence[Operation],
    stuck: Operation,
    out_of_time: OutOfTime = never,
    *,
    related: Sequence[Operation] = (),
) -> tuple[list[Operation], Operation]:
    """Return as few of `operations`, which no order explains, as still have no explanation, and the answer that fails.

    Leaving an operation out must not make what it did inexplicable: what is left out may have happened at any time, any
    number of times. So the rest is a violation of its own, and none of it can be spared. `stuck` is where the search
    ended, `related` what may well be part of it, however old. Out of time, what has been reached by then is returned.
    """
    started = [one for one in operations if one.outcome is not Outcome.FAIL and one.began <= stuck.ended]
    started.sort(key=lambda one: (one.began, one.ended))
    whole = {}
    relevant = []
    for one in started:
        # What had not been answered by then may owe its answer to what came later.
        pending = one.ended > stuck.ended and not one.unknown
        relevant.append(replace(one, outcome=Outcome.INFO, result=None) if pending else one)
        whole[id(relevant[-1])] = one

    def fails(kept: Sequence[Operation]) -> bool:
        nonlocal stuck
        inside = {id(one) for one in kept}
        removed = [one for one in relevant if id(one) not in inside]
        result = linearizable(
            model,
            kept,
            out_of_time=out_of_time,
            most=_MOST_CONFIGURATIONS,
            background=model.background(kept, removed),
        )
        if result.linearizable is False and result.stuck is not None:
            stuck = result.stuck
            return True
        return False

    kept = relevant
    # What went wrong mostly did so just before it was seen.
    by_end = sorted(relevant, key=lambda one: (one.ended, one is stuck))
    size = 16
    while size < len(relevant) and not out_of_time():
        chosen = {id(one) for one in (*by_end[-size:], *related)}
        late = [one for one in relevant if id(one) in chosen]
        if fails(late):
            kept = late
            break
        size *= 4
    chunk = max(1, len(kept) // 2)
    while not out_of_time():
        spared = False
        place = 0
        while place < len(kept) and not out_of_time():
            fewer = kept[:place] + kept[place + chunk :]
            if fails(fewer):
                kept, spared = fewer, True
            else:
                place += chunk
        if chunk == 1 and not spared:
            break
        chunk = max(1, chunk // 2)
    return [whole[id(one)] for one in kept], stuck


def of_register(operations: Sequence[Operation], result: Result, out_of_time: OutOfTime = never) -> Problem:
    """Say what is wrong with the history of one register, which is not linearizable."""
    assert result.stuck is not None
    held = mentioned(result.stuck)
    writers = [one for one in operations if changes(one) and written(one) in held]
    kept, last = shrunk(REGISTER, operations, result.stuck, out_of_time, related=writers[-_MOST_RELATED:])
    name, text = _in_words(kept, last, operations)
    if name in ("dirty read", "read from the future"):
        # The write is no part of the contradiction, but of the story.
        writes = (one for one in operations if one.f in ("write", "cas") and written(one) == last.result)
        kept += [one for one in writes if one not in kept][:1]
    return Problem(name=name, text=text, operations=tuple(kept))


def _in_words(kept: Sequence[Operation], last: Operation, operations: Sequence[Operation]) -> tuple[str, str]:
    """Name what is wrong with `kept`, which is minimal, and say it. `last` is the answer that fails."""
    answered = [one for one in kept if one.ok]
    before = [one for one in answered if one.precedes(last)]
    # Of what was over by then, the latest is what the last answer disagrees with.
    rival = max(before, key=lambda one: (one.began, one.ended), default=None)
    key = last.key or "the register"
    match last.f:
        case "read":
            return _of_a_read(key, last, rival, operations)
        case "cas":
            old, new = last.value
            others = [one for one in answered if one is not last and one.f == "cas" and one.result]
            if last.result and any(one.value[0] == old for one in others):
                return (
                    "lost update",
                    f"{key} was changed from {_v(old)} more than once, though it was {_v(old)} only once",
                )
            met = f"found {_v(old)}" if last.result else f"did not find {_v(old)}"
            return "impossible cas", f"a cas of {key} from {_v(old)} to {_v(new)} {met}{_though(rival)}"
        case "delete":
            met = "found something to delete" if last.result else "found nothing to delete"
            return "impossible delete", f"a delete of {key} {met}{_though(rival)}"
    return "impossible order", f"no order of these explains what was answered of {key}{_though(rival)}"


def _of_a_read(key: str, read: Operation, rival: Operation | None, operations: Sequence[Operation]) -> tuple[str, str]:
    value = read.result
    text = f"{key} was read as {_v(value)}"
    if value is not None:
        writers = [one for one in operations if one.f in ("write", "cas") and written(one) == value]
        may_have = [one for one in writers if changes(one)]
        if not may_have and any(one.outcome is Outcome.FAIL for one in writers):
            return "dirty read", f"{text}, which only a write that had no effect, for certain, would have written"
        if not may_have:
            return "phantom value", f"{text}, which nobody ever wrote"
        if all(one.began > read.ended for one in may_have):
            return "read from the future", f"{text} before the first write of that value began"
    if rival is None:
        return "impossible read", f"{text}, which no order of these explains"
    return "stale read", f"{text}{_though(rival)}"


def _though(rival: Operation | None) -> str:
    if rival is None:
        return ", which no order of these explains"
    match rival.f:
        case "read":
            happened = f"{_v(rival.result)} had been read"
        case "cas" if not rival.result:
            happened = f"a cas that did not find {_v(rival.value[0])} had been answered"
        case "delete" if not rival.result:
            happened = "a delete that found nothing had been answered"
        case "delete":
            happened = "it had been deleted, and that acknowledged,"
        case _:
            happened = f"{_v(written(rival))} had been written and acknowledged"
    return f", though {happened} before that began"


def _v(value: Any) -> str:
    return "absent" if value is None else str(value)
