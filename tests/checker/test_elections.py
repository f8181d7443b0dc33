from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftkv.checker import elections
from raftkv.checker.history import Operation
from tests.checker.building import Budget, assert_verdict, names, op


def lead(who: str, token: int, began: float, ended: float, *, outcome: str = "ok") -> Operation:
    return op("lead", began, ended, value=who, result={"token": token} if outcome == "ok" else None, outcome=outcome)


def act(
    who: str, token: int, number: int, began: float, ended: float, *, at: int = 0, outcome: str = "ok"
) -> Operation:
    value = {"token": token, "candidate": who, "number": number}
    return op("act", began, ended, value=value, revision=at, outcome=outcome)


def observe(who: str, token: int, began: float, ended: float) -> Operation:
    return op("observe", began, ended, result={"token": token, "candidate": who} if who else None)


def resign(token: int, began: float, ended: float) -> Operation:
    return op("resign", began, ended, value={"token": token})


ANNA = [lead("anna", 5, 0, 1), act("anna", 5, 1, 2, 3, at=10)]

GOOD = {
    "nothing": [],
    "one leads": [observe("", 0, 0, 1), *ANNA, observe("anna", 5, 4, 5)],
    "one after the other": [
        *ANNA,
        resign(5, 4, 5),
        observe("", 0, 6, 7),
        lead("bert", 7, 6, 9),
        observe("bert", 7, 8, 9),
        act("bert", 7, 1, 10, 11, at=12),
    ],
    "a leader that was replaced is refused": [
        *ANNA,
        lead("bert", 7, 4, 5),
        act("anna", 5, 2, 6, 7, outcome="fail"),
        act("bert", 7, 1, 6, 7, at=12),
    ],
    "an old leader's act was accepted before the next one led": [
        *ANNA,
        act("anna", 5, 2, 4, 9, at=11),
        lead("bert", 7, 5, 6),
        act("bert", 7, 1, 7, 8, at=12),
    ],
    "leads, though the candidate never heard of it": [
        lead("anna", 0, 0, 3, outcome="info"),
        observe("anna", 5, 4, 5),
        lead("bert", 7, 6, 7),
    ],
    # AsyncLock.acquire: it gives up at its own timeout, though its grant may be in the store already.
    "led for a while, though the candidate had given up": [
        *ANNA,
        lead("carl", 0, 2, 9, outcome="fail"),
        observe("carl", 8, 4, 5),
        lead("bert", 9, 6, 12),
        observe("bert", 9, 13, 14),
    ],
    "observers at once see different leaders": [
        *ANNA,
        lead("bert", 7, 4, 9),
        observe("bert", 7, 5, 8),
        observe("anna", 5, 5, 8),
    ],
    "the same one again": [*ANNA, lead("anna", 6, 4, 5), act("anna", 6, 1, 6, 7, at=11)],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    "two candidates were told one token": (
        [lead("anna", 5, 0, 1), lead("bert", 5, 2, 3)],
        {"duplicate token", "split brain"},
    ),
    "split brain: observers see different leaders of one token": (
        [
            lead("anna", 5, 0, 1),
            lead("bert", 0, 0, 9, outcome="info"),
            observe("anna", 5, 2, 3),
            observe("bert", 5, 2, 3),
        ],
        {"split brain"},
    ),
    "split brain: somebody else acts": (
        [*ANNA, lead("bert", 0, 0, 9, outcome="info"), act("bert", 5, 1, 4, 5, at=11)],
        {"split brain"},
    ),
    # Jepsen, ZooKeeper-like recipes and etcd elections alike: a leader that was paused goes on acting.
    "stale holder: acts when somebody else leads": (
        [lead("anna", 5, 0, 1), lead("bert", 7, 2, 3), act("anna", 5, 1, 4, 5, at=10)],
        {"stale holder"},
    ),
    "fencing order": (
        [lead("anna", 5, 0, 9), lead("bert", 7, 0, 9), act("bert", 7, 1, 1, 8, at=10), act("anna", 5, 1, 1, 8, at=11)],
        {"fencing order"},
    ),
    "act after resigning": ([*ANNA, resign(5, 4, 5), act("anna", 5, 2, 6, 7, at=11)], {"write after release"}),
    "token order": ([lead("anna", 5, 0, 1), lead("bert", 4, 2, 3)], {"token order"}),
    "token order: below one that was seen": (
        [lead("anna", 0, 0, 9, outcome="info"), observe("anna", 5, 1, 2), lead("bert", 4, 3, 4)],
        {"token order"},
    ),
    "stale observation: after another one": (
        [*ANNA, lead("bert", 7, 4, 9), observe("bert", 7, 5, 6), observe("anna", 5, 7, 8)],
        {"stale observation"},
    ),
    "stale observation: after the next one was told": (
        [*ANNA, lead("bert", 7, 4, 5), observe("anna", 5, 6, 7)],
        {"stale observation"},
    ),
    "never a candidate": ([*ANNA, observe("carl", 8, 4, 5)], {"never a candidate"}),
    "read from the future": ([observe("anna", 5, 0, 1), lead("anna", 5, 2, 3)], {"read from the future"}),
    "unknown token": ([*ANNA, act("anna", 6, 2, 4, 5, at=11)], {"unknown token"}),
    "duplicate revision": ([*ANNA, act("anna", 5, 2, 2, 5, at=10)], {"duplicate revision"}),
    "revision order": ([*ANNA, act("anna", 5, 2, 4, 5, at=9)], {"revision order"}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    assert_verdict(elections.check(history), ())


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(elections.check(history), wanted)


def executed(rng: random.Random, terms: int, *, fenced: bool) -> Iterator[Operation]:
    now, token, revision = 0.0, 0, 0
    previous: tuple[str, int] | None = None
    for _ in range(terms):
        who = rng.choice(["anna", "bert", "carl"])
        token += rng.randint(1, 9)
        if rng.random() < 0.2:
            yield lead(who, 0, now, now + 1, outcome="info")
        else:
            yield lead(who, token, now, now + 1)
            for number in range(rng.randint(0, 3)):
                revision += rng.randint(1, 5)
                yield act(who, token, number, now + 2, now + 3, at=revision)
                now += 2
            if previous is not None:
                revision += 1
                outcome = "fail" if fenced else "ok"
                yield act(*previous, 99, now + 2, now + 3, at=0 if fenced else revision, outcome=outcome)
            previous = who, token
        yield observe(who, token, now + rng.uniform(2, 3), now + rng.uniform(3, 4))
        now += 5


@pytest.mark.parametrize("seed", range(10))
def test_at_random(seed: int) -> None:
    assert_verdict(elections.check(list(executed(random.Random(seed), 50, fenced=True))), ())
    assert "stale holder" in names(elections.check(list(executed(random.Random(seed), 50, fenced=False))))


def test_out_of_time_and_missing_revisions_are_no_verdict() -> None:
    for budget in range(4):
        verdict = elections.check(ANNA, Budget(budget))
        assert verdict.valid is None
        assert "out of time" in verdict.why
    assert elections.check(ANNA, Budget(4)).valid is True
    assert "no revision" in elections.check([ANNA[0], act("anna", 5, 1, 2, 3)]).why
