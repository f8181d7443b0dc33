from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from raftkv.checker import watches
from raftkv.checker.history import Operation
from tests.checker.building import Budget, assert_verdict, names, op


def write(value: int, began: float, ended: float, *, at: int = 0, outcome: str = "ok", key: str = "k") -> Operation:
    return op("write", began, ended, key=key, value=value, revision=at, outcome=outcome)


def watch(start: int, through: int, *events: tuple[int, int], began: float = 0, ended: float = 99) -> Operation:
    """Events of key k: (revision, value)."""
    told = {"events": [[revision, "k", value] for revision, value in events], "through": through}
    return op("watch", began, ended, value={"from": start}, result=told)


TWO = [write(1, 0, 1, at=10), write(2, 2, 3, at=12)]

GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "all of it": [*TWO, watch(1, 15, (10, 1), (12, 2))],
    "in two segments": [*TWO, watch(1, 11, (10, 1)), watch(12, 15, (12, 2))],
    "from the middle, and not to the end": [*TWO, write(3, 4, 5, at=14), watch(11, 13, (12, 2))],
    "several watchers at different places": [*TWO, watch(1, 10, (10, 1)), watch(10, 12, (10, 1), (12, 2))],
    "an empty segment": [*TWO, watch(13, 20), watch(11, 11)],
    "unknown, and it happened": [write(1, 0, 1, outcome="info"), watch(1, 15, (10, 1)), watch(1, 15, (10, 1))],
    "unknown, and it did not": [write(1, 0, 1, outcome="info"), watch(1, 15)],
    "unknown, and it happened late": [write(1, 0, 1, outcome="info"), *TWO[1:], watch(1, 20, (12, 2), (18, 1))],
    "failed, and is nowhere": [write(1, 0, 1, outcome="fail"), watch(1, 15)],
    "a segment that broke off says nothing": [
        *TWO,
        op("watch", 0, 9, value={"from": 1}, outcome="fail"),
        watch(1, 15, (10, 1), (12, 2), began=10),
    ],
    "told nothing, as nothing had been written yet": [watch(1, 5, ended=1), watch(6, 9), *TWO],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    "out of order": ([*TWO, watch(1, 15, (12, 2), (10, 1))], {"out of order"}),
    "lost event: acknowledged, and a watcher did not see it": ([*TWO, watch(1, 15, (12, 2))], {"lost event"}),
    "lost event: at the seam of two segments": (
        [*TWO, watch(1, 12, (10, 1)), watch(13, 15)],
        {"lost event"},
    ),
    # etcd issue 15220: a progress notification said that all was told up to a revision, whose events came behind it.
    "lost event: the last one before what is claimed": ([*TWO, watch(1, 12, (10, 1))], {"lost event"}),
    "gap: another watcher saw it": (
        [write(1, 0, 1, outcome="info"), watch(1, 15, (10, 1)), watch(1, 15)],
        {"gap"},
    ),
    "duplicate event": ([*TWO, watch(1, 15, (10, 1), (10, 1), (12, 2))], {"duplicate event"}),
    "duplicate event: told anew after a resumption": (
        [*TWO, watch(1, 15, (10, 1), (12, 2), (10, 1), (12, 2))],
        {"out of order", "duplicate event"},
    ),
    "out of range: before the beginning": ([*TWO, watch(11, 15, (10, 1), (12, 2))], {"out of range"}),
    "out of range: behind the end": ([*TWO, watch(1, 11, (10, 1), (12, 2))], {"out of range"}),
    "disagreement": (
        [write(1, 0, 1, outcome="info"), write(2, 0, 1, outcome="info"), watch(1, 15, (10, 1)), watch(1, 15, (10, 2))],
        {"disagreement"},
    ),
    "never written": ([watch(1, 15, (10, 7))], {"never written"}),
    "failed write": ([write(1, 0, 1, outcome="fail"), watch(1, 15, (10, 1))], {"failed write"}),
    "wrong revision": ([write(1, 0, 1, at=10), watch(1, 15, (11, 1))], {"wrong revision", "lost event"}),
    "written twice: a retry that was applied again": (
        [write(1, 0, 1, at=10), watch(1, 15, (10, 1), (12, 1))],
        {"written twice"},
    ),
    "read from the future": (
        [watch(1, 15, (10, 1), ended=5), write(1, 6, 7, at=10)],
        {"read from the future"},
    ),
    "duplicate revision": (
        [write(1, 0, 5, at=10), write(2, 0, 5, at=10), watch(1, 15, (10, 1))],
        {"duplicate revision"},
    ),
    "revision order": ([write(1, 0, 1, at=12), write(2, 2, 3, at=10)], {"revision order"}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    assert_verdict(watches.check(history), ())


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(watches.check(history), wanted)


def executed(rng: random.Random, count: int) -> list[Operation]:
    told: list[list[Any]] = []
    history = []
    revision = 1
    for value in range(count):
        fate = rng.random()
        key = f"k{rng.randrange(4)}"
        took_effect = fate < 0.85
        revision += rng.randint(1, 3)
        if took_effect:
            told.append([revision, key, value])
        outcome = "ok" if fate < 0.75 else "info" if fate < 0.92 else "fail"
        at = revision if outcome == "ok" else 0
        history.append(write(value, value, value + 0.5, at=at, outcome=outcome, key=key))
    for _ in range(10):
        start = rng.randint(1, revision)
        while start <= revision:
            through = min(revision, start + rng.randint(0, 80))
            events = [event for event in told if start <= event[0] <= through]
            result = {"events": events, "through": through}
            history.append(op("watch", 0, count + 5, value={"from": start}, result=result))
            start = through + 1
    return history


UNHEARD = {
    "got nowhere": [watch(1, 0), watch(1, 0, began=50)],
    "never opened": [op("watch", 50, 99, value={"from": 1}, outcome="fail")],
}


@pytest.mark.parametrize("segments", UNHEARD.values(), ids=UNHEARD)
def test_a_watcher_that_is_never_told_anything_is_not_right(segments: list[Operation]) -> None:
    told = replace(watch(1, 15, (10, 1), (12, 2)), extra={"watcher": 1})
    mine = [replace(one, extra={"watcher": 2}) for one in segments]
    verdict = watches.check([*TWO, told, *mine])
    assert verdict.valid is None
    assert verdict.why == "watcher 2 was never told anything, of 2 acknowledged writes that it waited for"
    # Another process of the same watcher was: then it has only stood still for a while.
    assert_verdict(watches.check([*TWO, told, *mine, replace(told, process=5, extra={"watcher": 2})]), ())


@pytest.mark.parametrize("seed", range(10))
def test_at_random(seed: int) -> None:
    rng = random.Random(seed)
    history = executed(rng, 200)
    assert_verdict(watches.check(history), ())
    segment = rng.choice([one for one in history if one.f == "watch" and one.result["events"]])
    events = segment.result["events"]
    at = rng.randrange(len(events))
    wrong = [
        events[:at] + events[at + 1 :],
        [*events[:at], events[at], *events[at:]],
        [*events[:at], [events[at][0], "k0", 10_000], *events[at + 1 :]],
    ]
    for changed in wrong:
        bad = op("watch", 0, 300, value=segment.value, result=segment.result | {"events": changed})
        assert names(watches.check([bad if one is segment else one for one in history]))


def test_out_of_time_is_no_verdict() -> None:
    history = executed(random.Random(1), 100)
    asked = Budget(10**6)
    assert watches.check(history, asked).valid is True
    for budget in range(10**6 - asked.left - 1):
        verdict = watches.check(history, Budget(budget))
        assert verdict.valid is None
        assert "out of time" in verdict.why
