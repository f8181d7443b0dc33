"""A run's operations, packed for the page: each one a bar in the lane of its client; the words of as many as fit.

Columns of numbers, because a run may have hundreds of thousands. Where not all fit, evidence goes first, then what was
not acknowledged, then what touched the same keys as the evidence, then a part of the rest, evenly spread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from raftkv.checker.history import Operation
from raftkv.jepsen.report import words

ROOM_PER_BAR: Final = 24
"""Characters. A bar takes 13 or so; the words of some of them are to have room too."""
UNIT_NS: Final = 100_000
"""What times on the page are counted in: a tenth of a millisecond is finer than anybody can see."""
SPREAD: Final = 2_654_435_761
"""Odd, and 2**32 divided by the golden ratio: its multiples, modulo 2**32, lie evenly however many are taken."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One client of one workload, through all the process numbers that it had."""

    workload: str
    number: int
    """From 1, in its workload."""


def lanes_of(operations: Iterable[Operation]) -> tuple[list[Lane], dict[int, int]]:
    """Return the lanes, by workload, and the lane of every process.

    A client takes a new process number after an outcome that is unknown. It goes on in the lane that was left, so that
    there are as many lanes as there were clients at a time.
    """
    home: dict[int, tuple[str, int]] = {}
    left: dict[str, list[tuple[int, int]]] = {}  # by workload: number of the lane, and when it was left
    counts: dict[str, int] = {}
    for one in sorted(operations, key=lambda one: one.began):
        if one.process not in home:
            free = left.setdefault(one.workload, [])
            found = next((entry for entry in free if entry[1] <= one.began), None)
            if found is None:
                counts[one.workload] = number = counts.get(one.workload, 0) + 1
            else:
                free.remove(found)
                number = found[0]
            home[one.process] = (one.workload, number)
        if one.unknown:
            left.setdefault(one.workload, []).append((home[one.process][1], one.ended))
    lanes = [Lane(workload, number + 1) for workload in sorted(counts) for number in range(counts[workload])]
    place = {(lane.workload, lane.number): at for at, lane in enumerate(lanes)}
    return lanes, {process: place[where] for process, where in home.items()}


def pack(operations: Sequence[Operation], evidence: Sequence[Operation], budget: int) -> dict[str, Any]:
    """Return what the page shows of `operations`, as JSON of about `budget` characters at most.

    `began` counts from the operation before, `took` from `began`, both in `unit_ns`; `kinds` are workload, f and
    outcome; `described` are places in these columns, each counted from the one before, `asked` and `told` their words.
    """
    lanes, lane_of = lanes_of(operations)
    ranked = _by_importance(operations, evidence)[: max(budget // ROOM_PER_BAR, 0)]
    bars = sorted(ranked, key=lambda at: (operations[at].began, at))
    kinds: dict[tuple[str, str, str], int] = {}
    columns: dict[str, list[int]] = {"began": [], "took": [], "lane": [], "kind": []}
    before = 0
    for at in bars:
        one = operations[at]
        began = one.began // UNIT_NS
        columns["began"].append(began - before)
        columns["took"].append(max(one.ended // UNIT_NS - began, 0))
        columns["lane"].append(lane_of[one.process])
        columns["kind"].append(kinds.setdefault((one.workload, one.f, str(one.outcome)), len(kinds)))
        before = began
    packed: dict[str, Any] = {
        "total": len(operations),
        "unit_ns": UNIT_NS,
        "lanes": [[lane.workload, lane.number] for lane in lanes],
        "kinds": list(kinds),
        **columns,
    }
    left = budget - len(json.dumps(packed, separators=(",", ":")))
    place = {at: number for number, at in enumerate(bars)}
    described: list[tuple[int, str, str]] = []
    for at in ranked:
        one = operations[at]
        entry = (place[at], f"p{one.process} {one.f} {words.asked(one)}".rstrip(), words.told(one))
        left -= _weight(entry[1]) + _weight(entry[2]) + 5
        if left < 0:
            break
        described.append(entry)
    described.sort()
    places = [number for number, _, _ in described]
    return packed | {
        "described": [here - there for here, there in zip(places, [0, *places], strict=False)],
        "asked": [asked for _, asked, _ in described],
        "told": [told for _, _, told in described],
    }


def _weight(text: str) -> int:
    """Return how many characters the page takes for it."""
    return len(encode_basestring_ascii(text)) + 5 * (text.count("<") + text.count(">") + text.count("&"))


def _by_importance(operations: Sequence[Operation], evidence: Sequence[Operation]) -> list[int]:
    """Return places in `operations`, those first that must not be left out."""
    shown = {(one.process, one.began) for one in evidence}
    touched = {(one.workload, one.key) for one in evidence if one.key}

    def rank(at: int) -> tuple[int, int]:
        one = operations[at]
        if (one.process, one.began) in shown:
            return 0, at
        spread = at * SPREAD % 2**32
        if not one.ok:
            return 1, spread
        return (2 if (one.workload, one.key) in touched else 3), spread

    return sorted(range(len(operations)), key=rank)
