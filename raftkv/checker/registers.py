"""Registers: each key on its own must be linearizable, and revisions must follow real time.

`write` (key, value), `read` (key), `cas` (key, [old, new]), `delete` (key). Values are best unique: the
words of a counterexample rely on it; no verdict does.
"""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.checker import revisions
from raftkv.checker.counterexample import of_register
from raftkv.checker.history import Operation
from raftkv.checker.linearizability import linearizable
from raftkv.checker.models import REGISTER
from raftkv.checker.verdict import OutOfTime, Problem, Verdict, judged, never, together, undecided


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge the operations of any number of registers."""
    return together(
        len(operations), linearizable_keys(operations, out_of_time), revisions.check(operations, out_of_time)
    )


def linearizable_keys(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge whether every register was linearizable, whatever revisions say."""
    keys: dict[str, list[Operation]] = {}
    for one in operations:
        keys.setdefault(one.key, []).append(one)
    problems: list[Problem] = []
    open_: dict[str, str] = {}
    for key, group in keys.items():
        result = linearizable(REGISTER, group, out_of_time=out_of_time)
        if result.linearizable is None:
            open_[key] = result.why
        elif not result.linearizable:
            problems.append(of_register(group, result, out_of_time))
    if open_:
        some = ", ".join(f"{key} ({why})" for key, why in list(open_.items())[:3])
        return undecided(len(operations), f"{len(open_)} of {len(keys)} keys are undecided: {some}", problems)
    return judged(len(operations), problems)
