from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftkv.checker import locks
from raftkv.checker.history import Operation
from tests.checker.building import Budget, assert_verdict, op


def acquire(token: int, began: float, ended: float, *, outcome: str = "ok") -> Operation:
    return op("acquire", began, ended, result={"token": token} if outcome == "ok" else None, outcome=outcome)


def increment(
    token: int, to: int, began: float, ended: float, *, at: int = 0, outcome: str = "ok", mode: str = "holder"
) -> Operation:
    value = {"token": token, "to": to}
    return op("increment", began, ended, value=value, revision=at, outcome=outcome, extra={"mode": mode})


def release(token: int, began: float, ended: float, *, outcome: str = "ok") -> Operation:
    return op("release", began, ended, value={"token": token}, outcome=outcome)


def read(number: int, began: float, ended: float, *, at: int = 0) -> Operation:
    return op("read", began, ended, result=number, revision=at)


FIRST = [acquire(5, 0, 1), increment(5, 1, 2, 3, at=10)]

GOOD = {
    "nothing": [],
    "one holder": [read(0, 0, 1), *FIRST, release(5, 4, 5), read(1, 6, 7, at=10)],
    "one after the other": [*FIRST, release(5, 4, 5), acquire(7, 6, 7), increment(7, 2, 8, 9, at=12), read(2, 10, 11)],
    "the counter is read while it is written": [
        acquire(5, 0, 1),
        increment(5, 1, 2, 9, at=10),
        read(0, 3, 4),
        read(1, 4, 5),
    ],
    "a paused holder is refused": [
        *FIRST,
        acquire(7, 4, 5),
        increment(5, 2, 6, 7, outcome="fail"),
        increment(7, 2, 8, 9, at=12),
    ],
    "a paused holder's write was accepted before the next grant": [
        *FIRST,
        increment(5, 2, 4, 9, at=11),
        acquire(7, 6, 8),
        increment(7, 3, 10, 11, at=12),
    ],
    # AsyncLock.acquire: it gives up at its own timeout, though its grant may be in the store already.
    "granted for a while, though the contender had given up": [
        *FIRST,
        acquire(6, 4, 9, outcome="fail"),
        increment(5, 2, 5, 6, at=11),
        acquire(7, 6, 12),
        increment(7, 3, 13, 14, at=14),
    ],
    "unknown, and it took effect": [*FIRST, increment(5, 2, 4, 5, outcome="info"), increment(5, 3, 6, 7, at=12)],
    "unknown, and it did not": [
        *FIRST,
        increment(5, 2, 4, 5, outcome="info"),
        acquire(7, 6, 7),
        increment(7, 2, 8, 9, at=12),
    ],
    "two unknown ones in a row": [
        *FIRST,
        increment(5, 2, 4, 5, outcome="info"),
        increment(5, 3, 6, 7, outcome="info"),
        increment(5, 4, 8, 9, at=13),
    ],
    "unknown, and it lands behind the holder's next write": [
        *FIRST,
        increment(5, 2, 4, 5, outcome="info"),
        increment(5, 2, 6, 7, at=12),
        increment(5, 3, 8, 9, at=13),
        increment(5, 3, 10, 11, at=15),
    ],
    "unknown, and it lands behind two of the holder's next writes": [
        *FIRST,
        increment(5, 2, 4, 5, outcome="info"),
        increment(5, 2, 6, 7, at=12),
        increment(5, 3, 8, 9, at=13),
        read(2, 10, 11, at=14),
    ],
    "an unknown first one": [
        acquire(5, 0, 1),
        increment(5, 1, 2, 3, outcome="info"),
        increment(5, 2, 4, 5, at=11),
        read(2, 6, 7),
    ],
    "an acquire that nobody knows of": [
        acquire(5, 0, 3, outcome="info"),
        acquire(5, 4, 5),
        increment(5, 1, 6, 7, at=10),
    ],
    "grants at once have tokens in any order": [acquire(7, 0, 5), acquire(5, 0, 5)],
    "behind its release, where nobody came after": [
        *FIRST,
        release(5, 4, 5),
        increment(5, 2, 6, 7, at=11, mode="max_seen"),
    ],
    "the release is not known": [*FIRST, release(5, 4, 5, outcome="info"), increment(5, 2, 6, 7, at=11)],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    # Jepsen's analysis of etcd 3.4.3 (2020), "Locks aren't": two processes hold a lock at once, as its lease ran out
    # while the first one was paused, and nothing refuses what that one writes.
    "etcd 3.4.3: two holders": (
        [acquire(5, 0, 1), acquire(7, 4, 5), increment(5, 1, 6, 7, at=10)],
        {"stale holder"},
    ),
    # Same place: of a set guarded by such locks, 18 % of the acknowledged updates were lost.
    "etcd 3.4.3: a lost update under a lock": (
        [acquire(5, 0, 1), acquire(7, 2, 3), increment(7, 1, 4, 5, at=10), increment(5, 1, 2, 9, at=11)],
        {"fencing order", "lost update"},
    ),
    "etcd 3.4.3: the update is missing in the end": (
        [acquire(5, 0, 1), increment(5, 1, 2, 3, at=10), increment(5, 1, 4, 5, at=11), read(1, 6, 7)],
        {"lost update"},
    ),
    "fencing order: unfenced, and no update is lost": (
        [acquire(5, 0, 3), acquire(7, 0, 3), increment(7, 1, 4, 9, at=10), increment(5, 2, 3, 9, at=11)],
        {"fencing order"},
    ),
    "token order": ([acquire(7, 0, 1), acquire(5, 2, 3)], {"token order"}),
    "token order: over a third one": (
        [acquire(7, 0, 1), acquire(8, 0, 9), acquire(9, 2, 3), acquire(6, 4, 5)],
        {"token order"},
    ),
    "duplicate token": ([acquire(5, 0, 1), acquire(5, 2, 3)], {"duplicate token"}),
    "unknown token": ([acquire(5, 0, 1), increment(6, 1, 2, 3, at=10)], {"unknown token"}),
    "write after release": (
        [*FIRST, release(5, 4, 5), increment(5, 2, 6, 7, at=11)],
        {"write after release"},
    ),
    "duplicate revision": (
        [*FIRST, increment(5, 2, 3, 5, at=10)],
        {"duplicate revision"},
    ),
    "revision order": (
        [*FIRST, increment(5, 2, 4, 5, at=9)],
        {"revision order", "lost update", "unexplained value"},
    ),
    "unexplained value": ([*FIRST, increment(5, 3, 4, 5, at=11)], {"unexplained value"}),
    "unexplained value: the unknown one was begun too late": (
        [*FIRST, increment(5, 3, 4, 5, at=11), increment(5, 2, 6, 7, outcome="info")],
        {"unexplained value"},
    ),
    "unexplained value: the unknown one was refused": (
        [*FIRST, increment(5, 2, 4, 5, outcome="fail"), increment(5, 3, 6, 7, at=11)],
        {"unexplained value"},
    ),
    "unexplained value: one unknown write cannot happen twice": (
        [
            *FIRST,
            increment(5, 2, 4, 5, outcome="info"),
            increment(5, 3, 6, 7, at=12),
            increment(5, 4, 8, 9, at=13),
            increment(5, 3, 10, 11, at=15),
        ],
        {"lost update"},
    ),
    "lost update: a read in between has seen less": (
        [*FIRST, increment(5, 2, 4, 5, at=11), read(1, 6, 7, at=10)],
        {"stale read", "lost update"},
    ),
    "stale read": (
        [acquire(5, 0, 1), increment(5, 1, 2, 3, outcome="info"), increment(5, 2, 4, 5, at=11), read(1, 6, 7)],
        {"stale read"},
    ),
    "never written": ([*FIRST, read(4, 4, 5)], {"never written"}),
    "a refused write was done": ([*FIRST, increment(5, 2, 4, 5, outcome="fail"), read(2, 6, 7)], {"never written"}),
    "read from the future": ([acquire(5, 0, 1), read(1, 0, 1), increment(5, 1, 2, 3, at=10)], {"read from the future"}),
    "wrong revision": ([*FIRST, increment(5, 2, 4, 5, at=11), read(2, 6, 7, at=10)], {"wrong revision"}),
    "wrong revision: of nobody": ([*FIRST, read(1, 6, 7, at=12)], {"wrong revision"}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    assert_verdict(locks.check(history), ())


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(locks.check(history), wanted)


def executed(rng: random.Random, grants: int, *, fenced: bool = True) -> Iterator[Operation]:
    """Holders one after the other; some are paused and write again when the next one is there."""
    counter, revision, now = 0, 1, 0.0
    paused: list[tuple[int, int]] = []
    for turn in range(grants):
        token = 10 * turn + rng.randrange(10)
        yield acquire(token, now, now + 1)
        for _ in range(rng.randint(0, 3)):
            revision += rng.randint(1, 3)
            now += 2
            fate = rng.random()
            if fate < 0.1:
                yield increment(token, counter + 1, now, now + 1, outcome="info")
                counter += rng.random() < 0.5
                break  # nobody knows what he would read
            counter += 1
            yield increment(token, counter, now, now + 1, at=revision)
            if fate < 0.2:
                yield read(counter, now + 1.2, now + 1.5, at=revision)
        for old, seen in paused:
            now += 2
            if fenced:
                yield increment(old, seen + 1, now, now + 1, outcome="fail")
            else:
                revision += 1
                counter = seen + 1
                yield increment(old, counter, now, now + 1, at=revision)
        paused = [(token, counter)] if rng.random() < 0.3 else []
        now += 2
    yield read(counter, now, now + 1)


@pytest.mark.parametrize("seed", range(20))
def test_at_random(seed: int) -> None:
    assert_verdict(locks.check(list(executed(random.Random(seed), 60))), ())
    unfenced = locks.check(list(executed(random.Random(seed), 60, fenced=False)))
    assert "fencing order" in {problem.name for problem in unfenced.problems}
    assert "stale holder" in {problem.name for problem in unfenced.problems}


def test_out_of_time_and_missing_revisions_are_no_verdict() -> None:
    history = list(executed(random.Random(1), 300))
    asked = Budget(10**6)
    assert locks.check(history, asked).valid is True
    for budget in range(10**6 - asked.left - 1):
        verdict = locks.check(history, Budget(budget))
        assert verdict.valid is None
        assert "out of time" in verdict.why
    assert "no revision" in locks.check([acquire(5, 0, 1), increment(5, 1, 2, 3)]).why
