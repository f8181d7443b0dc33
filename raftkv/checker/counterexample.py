"""A history that cannot be explained, cut down to the few operations that already cannot, and put in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.linearizability import Model, Result, linearizable
from raftkv.checker.models import REGISTER, changes, written
from raftkv.checker.verdict import OutOfTime, Problem, never

_MOST_CONFIGURATIONS = 20_000
"""For one attempt at leaving something out: one that takes more is given up."""


def shrunk(
    model: Model, operations: Sequence[Operation], stuck: Operation, out_of_time: OutOfTime = never
) -> list[Operation]:
    """Return as few of `operations`, which no order explains, as still have no explanation.

    Leaving an operation out must not make what it did inexplicable: what is left out may have happened at any time, any
    number of times. So the rest is a violation of its own, and none of it can be spared. `stuck` is where
    the search ended. Out of time, what has been reached by then is returned.
    """
    relevant = [one for one in operations if one.outcome is not Outcome.FAIL and one.began <= stuck.ended]
    relevant.sort(key=lambda one: (one.began, one.ended))

    def fails(kept: Sequence[Operation]) -> bool:
        inside = {id(one) for one in kept}
        removed = [one for one in relevant if id(one) not in inside]
        result = linearizable(
            model,
            kept,
            out_of_time=out_of_time,
            most=_MOST_CONFIGURATIONS,
            background=model.background(kept, removed),
        )
        return result.linearizable is False

    kept = relevant
    # What went wrong mostly did so just before it was seen.
    size = 16
    while size < len(relevant) and not out_of_time():
        late = sorted(relevant, key=lambda one: (one.ended, one is stuck))[-size:]
        if fails(late):
            kept = sorted(late, key=lambda one: (one.began, one.ended))
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
    return kept


def of_register(operations: Sequence[Operation], result: Result, out_of_time: OutOfTime = never) -> Problem:
    """Say what is wrong with the history of one register, which is not linearizable."""
    assert result.stuck is not None
    kept = shrunk(REGISTER, operations, result.stuck, out_of_time)
    name, text = _in_words(kept, operations)
    return Problem(name=name, text=text, operations=tuple(kept))


def _in_words(kept: Sequence[Operation], operations: Sequence[Operation]) -> tuple[str, str]:
    return "not linearizable", f"no order of these explains every answer ({len(operations)} operations in all)"
