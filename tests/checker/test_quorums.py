from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raftkv.checker import quorums
from raftkv.checker.history import Operation
from tests.checker.building import Budget, assert_verdict, names, op

Claims = dict[str, Any]


def write(
    value: int,
    began: float,
    ended: float,
    *,
    at: int = 0,
    outcome: str = "ok",
    process: int = 0,
    key: str = "k",
    **extra: Any,
) -> Operation:
    """Committed, on two disks; unless `extra` says something else."""
    claims = {"concern": "majority", "committed": True, "durable_on": 2} | extra
    return op("write", began, ended, key=key, value=value, revision=at, outcome=outcome, process=process, extra=claims)


def early(value: int, began: float, ended: float, **extra: Any) -> Operation:
    """Acknowledged by the leader alone."""
    claims: dict[str, Any] = {"concern": "leader", "committed": False, "durable_on": 1}
    return write(value, began, ended, **(claims | extra))


def read(
    value: int | None,
    began: float,
    ended: float,
    *,
    rev: int = 0,
    guarantee: str = "linearizable",
    process: int = 9,
    key: str = "k",
    **extra: Any,
) -> Operation:
    claims = {"guarantee": guarantee} | extra
    return op("read", began, ended, key=key, result=value, revision=rev, process=process, extra=claims)


def failed(error: str, began: float, ended: float, *, process: int = 0) -> Operation:
    return op("read", began, ended, key="k", outcome="fail", error=error, process=process)


ONE = write(1, 0, 1, at=10)
TWO = write(2, 2, 3, at=12)
OTHER = write(3, 4, 5, at=14, key="j")
SEES: dict[str, Any] = {"guarantee": "sees_writes_at_w_ge"}
LOST = "WriteLost: the write at 00000000000004d2-7-40? was acknowledged by fewer than a majority, and is lost"

GOOD = {
    "nothing": [],
    "sees what was acknowledged": [read(None, 0, 1), ONE, TWO, read(2, 4, 5, rev=12, at=12)],
    "at once": [ONE, read(1, 2, 3, rev=10), TWO, read(2, 2, 3, rev=12)],
    "a lease": [ONE, read(1, 2, 3, rev=10, guarantee="lease", level="lease")],
    "a state of the past": [ONE, TWO, read(1, 4, 5, rev=10, guarantee="stale_prefix", level="local", at=11)],
    "few voters miss what few had": [ONE, TWO, read(1, 4, 5, rev=10, sees_writes_at=3, **SEES)],
    "few voters see what all had": [
        ONE,
        write(2, 2, 3, at=12, durable_on=3),
        read(2, 4, 5, rev=12, sees_writes_at=3, **SEES),
    ],
    "few voters miss what was counted by a later configuration": [
        ONE,
        write(2, 2, 3, at=12, durable_on=3, configuration=8),
        read(1, 4, 5, rev=10, sees_writes_at=3, configuration=7, **SEES),
    ],
    "two of these may contradict each other": [
        ONE,
        TWO,
        read(2, 4, 5, rev=12, sees_writes_at=3, **SEES),
        read(1, 6, 7, rev=10, sees_writes_at=3, process=8, **SEES),
    ],
    "within its bound": [ONE, TWO, read(1, 4, 5, rev=10, guarantee="bounded", staleness_ms=2)],
    "not older than what was seen": [
        ONE,
        TWO,
        read(1, 4, 5, rev=10, guarantee="at_least"),
        read(2, 6, 7, rev=12, guarantee="at_least"),
    ],
    "another client has seen more": [
        ONE,
        TWO,
        read(2, 4, 5, rev=12, guarantee="at_least", process=8),
        read(1, 6, 7, rev=10, guarantee="at_least"),
    ],
    "an early one is missed": [ONE, early(2, 2, 3), read(1, 4, 5, rev=10)],
    "an early one is seen": [ONE, early(2, 2, 3), read(2, 4, 5, rev=12), read(2, 6, 7, rev=12)],
    "an early one is missed, then seen": [ONE, early(2, 2, 3), read(1, 4, 5, rev=10), read(2, 6, 7, rev=12)],
    "an early one was lost, and its client was told": [
        ONE,
        early(2, 2, 3, term=7, index=40),
        failed(LOST, 4, 5),
        read(1, 6, 7, rev=10, process=0, guarantee="at_least"),
    ],
    "an early one that is forgotten": [
        ONE,
        early(2, 2, 3),
        failed("TokenOutOfRange: compacted", 4, 5),
        read(1, 6, 7, rev=10, process=0),
    ],
    "an early one, overwritten by another client": [
        ONE,
        early(2, 2, 3),
        write(3, 4, 5, at=14, process=1),
        read(3, 6, 7, rev=14, process=0),
    ],
    "a state of the past does not show one's own": [
        ONE,
        early(2, 2, 3),
        read(1, 4, 5, rev=10, process=0, guarantee="stale_prefix"),
    ],
    "unknown, and it happened": [ONE, write(2, 2, 3, outcome="info"), read(1, 4, 5, rev=10), read(2, 6, 7, rev=12)],
    "another key's revision": [ONE, OTHER, read(1, 6, 7, rev=10, at=14)],
    "nothing is said of revisions": [ONE, TWO, read(2, 4, 5)],
    "nothing is promised": [ONE, TWO, read(None, 4, 5, guarantee="unspecified")],
    "fell back to less, as was allowed": [
        ONE,
        read(None, 2, 3, guarantee="stale_prefix", level="linearizable", fallback=True),
    ],
    "not older than nothing": [ONE, read(None, 2, 3, guarantee="stale_prefix", level="at_least")],
    "with its token": [
        ONE,
        read(1, 2, 3, rev=10, guarantee="at_least", level="at_least", token="4d2-7-40", applied_index=40),
    ],
    "early, on as many as were asked for": [early(1, 0, 1, concern=2, durable_on=2)],
    "committed, and fewer have it than was asked for": [write(1, 0, 1, at=10, concern="all", durable_on=2)],
    "the same entry, the same state": [
        ONE,
        read(1, 2, 3, rev=10, at=12, applied_index=40),
        read(1, 2, 3, rev=10, at=12, applied_index=40),
    ],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    # Jepsen's analysis of etcd and Consul (2014): a leader that had been replaced answered "consistent" reads from its
    # own state, without asking a majority.
    "stale read": ([ONE, TWO, read(1, 4, 5, rev=10)], {"stale read"}),
    "stale read: under a lease": ([ONE, TWO, read(1, 4, 5, rev=10, guarantee="lease")], {"stale read"}),
    "stale read: it is not there": ([ONE, read(None, 2, 3)], {"stale read"}),
    "stale read: another read has shown it": (
        [ONE, write(2, 2, 9, at=12), read(2, 3, 4, rev=12), read(1, 5, 6, rev=10, process=8)],
        {"stale read"},
    ),
    "stale read: another read has shown an early one": (
        [ONE, early(2, 2, 3), read(2, 4, 5, rev=12, guarantee="stale_prefix"), read(1, 6, 7, rev=10)],
        {"stale read"},
    ),
    "stale read: the state is older than another key's write": (
        [ONE, OTHER, read(1, 6, 7, rev=10, at=12)],
        {"stale read"},
    ),
    "write missed": (
        [ONE, write(2, 2, 3, at=12, durable_on=3), read(1, 4, 5, rev=10, sees_writes_at=3, **SEES)],
        {"write missed"},
    ),
    "write missed: the state is older": (
        [ONE, write(3, 4, 5, at=14, durable_on=3, key="j"), read(1, 6, 7, rev=10, at=12, sees_writes_at=3, **SEES)],
        {"write missed"},
    ),
    "older than its bound": (
        [ONE, TWO, read(1, 8, 9, rev=10, guarantee="bounded", staleness_ms=4)],
        {"older than its bound"},
    ),
    "older than its token": (
        [ONE, read(1, 2, 3, rev=10, guarantee="at_least", token="4d2-7-40", applied_index=39)],
        {"older than its token"},
    ),
    "went back in time": (
        [ONE, TWO, read(2, 4, 5, rev=12, guarantee="stale_prefix"), read(1, 6, 7, rev=10, guarantee="at_least")],
        {"went back in time"},
    ),
    "went back in time: behind its own write": (
        [ONE, TWO, read(1, 4, 5, rev=10, guarantee="at_least", process=0)],
        {"went back in time"},
    ),
    "went back in time: over two keys": (
        [
            ONE,
            TWO,
            OTHER,
            read(3, 6, 7, rev=14, key="j", guarantee="at_least"),
            read(1, 8, 9, rev=10, guarantee="at_least"),
        ],
        {"went back in time"},
    ),
    "went back in time: a read of few voters, of a client that never does": (
        [ONE, TWO, read(2, 4, 5, rev=12, sees_writes_at=3, **SEES), read(1, 6, 7, rev=10, sees_writes_at=3, **SEES)],
        {"went back in time"},
    ),
    "own write missed": (
        [ONE, early(2, 2, 3), read(1, 4, 5, rev=10, guarantee="at_least", process=0)],
        {"own write missed"},
    ),
    "own write missed: linearizable": ([early(2, 2, 3), read(None, 4, 5, process=0)], {"own write missed"}),
    "lost write seen": (
        [ONE, early(2, 2, 3, term=7, index=40), failed(LOST, 4, 5), read(2, 6, 7, rev=12)],
        {"lost write seen"},
    ),
    "lost write seen: a node said that it was lost": (
        [
            ONE,
            early(2, 2, 3, term=7, index=40),
            failed("WriteLost: the write that the token names (entry 40, term 7) is lost", 4, 5),
            read(2, 6, 7, rev=12),
        ],
        {"lost write seen"},
    ),
    "a lost write comes back behind a later one": (
        [early(1, 0, 1), write(2, 2, 3, at=12), read(2, 4, 5, rev=12), read(1, 6, 7, rev=15)],
        {"revision order"},
    ),
    "weaker than asked": (
        [ONE, read(1, 2, 3, rev=10, guarantee="stale_prefix", level="linearizable")],
        {"weaker than asked"},
    ),
    "weaker than asked: its client has seen something": (
        [ONE, read(1, 2, 3, rev=10, guarantee="stale_prefix", level="at_least", process=0)],
        {"weaker than asked"},
    ),
    "weaker than asked: it named a token": (
        [ONE, read(1, 2, 3, rev=10, guarantee="stale_prefix", level="at_least", token="4d2-7-40")],
        {"weaker than asked"},
    ),
    "weaker than asked: a read of few voters calls itself bounded": (
        [ONE, read(1, 2, 3, rev=10, guarantee="bounded", staleness_ms=9, level="quorum:2")],
        {"weaker than asked"},
    ),
    # As with MongoDB below majority, or a Redis that fails over: an acknowledged write is rolled back.
    "lost write": (
        [ONE, TWO, OTHER, read(1, 6, 7, rev=10, at=14, guarantee="stale_prefix")],
        {"lost write"},
    ),
    "lost write: it is not there at all": ([ONE, read(None, 6, 7, at=14, guarantee="stale_prefix")], {"lost write"}),
    "impossible state: what another read has shown": (
        [
            ONE,
            write(2, 2, 3, outcome="info"),
            read(2, 4, 5, rev=12, guarantee="stale_prefix"),
            read(1, 4, 5, rev=10, at=13, guarantee="stale_prefix", process=8),
        ],
        {"impossible state"},
    ),
    "impossible state: one entry, two revisions": (
        [ONE, read(1, 2, 3, rev=10, at=12, applied_index=40), read(1, 2, 3, rev=10, at=13, applied_index=40)],
        {"impossible state"},
    ),
    "impossible state: a later entry, an earlier revision": (
        [
            ONE,
            read(1, 2, 3, rev=10, at=13, applied_index=40),
            read(1, 2, 3, rev=10, at=12, applied_index=41, process=8),
        ],
        {"impossible state"},
    ),
    "impossible state: it shows what came after it": (
        [ONE, read(1, 2, 3, rev=10, at=9, guarantee="stale_prefix")],
        {"impossible state"},
    ),
    "never written": ([ONE, read(7, 2, 3, rev=12)], {"never written"}),
    "failed write": ([write(1, 0, 1, outcome="fail"), read(1, 2, 3, rev=10)], {"failed write"}),
    "read from the future": ([read(1, 0, 1, rev=10), write(1, 2, 3, at=10)], {"read from the future"}),
    "wrong revision: of an acknowledged write": ([ONE, read(1, 2, 3, rev=11)], {"wrong revision"}),
    "wrong revision: another value": (
        [ONE, write(2, 0, 9, outcome="info"), read(2, 2, 3, rev=10)],
        {"wrong revision"},
    ),
    "wrong revision: written twice": (
        [write(1, 0, 1, outcome="info"), read(1, 2, 3, rev=10), read(1, 4, 5, rev=12)],
        {"wrong revision"},
    ),
    "acknowledged early": ([write(1, 0, 1, committed=False)], {"acknowledged early"}),
    "acknowledged early: by all": ([write(1, 0, 1, concern="all", committed=False)], {"acknowledged early"}),
    "acknowledged early: by fewer than asked": ([early(1, 0, 1, concern=2)], {"acknowledged early"}),
    "acknowledged early: committed, and without a revision": ([write(1, 0, 1)], {"acknowledged early"}),
    "revision order": ([write(1, 0, 1, at=12), write(2, 2, 3, at=10)], {"revision order"}),
    "duplicate revision": ([write(1, 0, 5, at=10), write(2, 0, 5, at=10)], {"duplicate revision"}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    assert_verdict(quorums.check(history), ())


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(quorums.check(history), wanted)


def test_what_the_check_is_told() -> None:
    by_number = [early(1, 0, 1, concern=2, durable_on=2)]
    assert names(quorums.check(by_number, voters=3)) == {"acknowledged early"}
    assert_verdict(quorums.check(by_number, voters=5), ())
    leased = [ONE, TWO, read(1, 4, 5, rev=10, guarantee="lease")]
    assert_verdict(quorums.check(leased, trust_lease=False), ())
    bounded = [ONE, TWO, read(1, 8, 9, rev=10, guarantee="bounded", staleness_ms=4)]
    assert_verdict(quorums.check(bounded, slack_ms=1), ())
    back = [ONE, TWO, *(read(n, 2 * n, 2 * n + 1, rev=8 + 2 * n, sees_writes_at=3, **SEES) for n in (2,))]
    back.append(read(1, 8, 9, rev=10, sees_writes_at=3, **SEES))
    assert_verdict(quorums.check(back, monotonic=False), ())


def executed(rng: random.Random, count: int) -> list[Operation]:
    """One log of writes; reads of states that are as old as their claims allow."""
    log: list[tuple[int, str, int, float]] = []  # revision, key, value, when it took effect
    history: list[Operation] = []
    copies: dict[int, int] = {}
    ended: dict[int, float] = {}
    shown: list[tuple[float, int]] = []
    seen: dict[int, int] = {}
    revision = 1
    for moment in range(count):
        process, key = rng.randrange(5), rng.choice("ab")
        began, end = moment - rng.uniform(0, 0.4), moment + rng.uniform(0, 0.4)
        if rng.random() < 0.5:
            outcome = rng.choice(["ok"] * 6 + ["info", "fail"])
            took_effect = outcome == "ok" or (outcome == "info" and rng.random() < 0.5)
            if took_effect:
                revision += rng.randint(1, 3)
                log.append((revision, key, moment, moment))
            durable_on = rng.choice([0, 2, 3])
            if outcome == "ok":
                copies[revision], ended[revision] = durable_on, end
                seen[process] = revision
            at = revision if outcome == "ok" else 0
            history.append(
                write(moment, began, end, at=at, outcome=outcome, process=process, key=key, durable_on=durable_on)
            )
            continue
        guarantee = rng.choice(["linearizable", "lease", "bounded", "at_least", "sees_writes_at_w_ge", "stale_prefix"])
        staleness = rng.randint(1, 20)
        match guarantee:
            case "linearizable" | "lease":
                floor = max([r for r, _, _, when in log], default=0)
            case "bounded":
                floor = max([r for r, when in ended.items() if when < began - staleness], default=0)
            case "sees_writes_at_w_ge":
                floor = max([r for r, when in ended.items() if when < began and copies[r] >= 3], default=0)
            case _:
                floor = 0
        if guarantee != "stale_prefix":
            floor = max(floor, seen.get(process, 0))
        state = rng.choice([r for r, *_ in log if r >= floor] or [0])
        seen[process] = max(seen.get(process, 0), state)
        shown.append((end, state))
        found = [(r, value) for r, name, value, _ in log if name == key and r <= state]
        rev, value = found[-1] if found else (0, None)
        history.append(
            read(
                value,
                began,
                end,
                rev=rev,
                guarantee=guarantee,
                process=process,
                key=key,
                sees_writes_at=3,
                staleness_ms=staleness,
                at=state,
                applied_index=2 * state,
            )
        )
    return history


@pytest.mark.parametrize("seed", range(20))
def test_at_random(seed: int) -> None:
    rng = random.Random(seed)
    for told in (lambda one: one, _without_states):
        history = [told(one) for one in executed(rng, 150)]
        assert_verdict(quorums.check(history), ())


def _without_states(one: Operation) -> Operation:
    return replace(one, extra={name: value for name, value in one.extra.items() if name not in ("at", "applied_index")})


WRONG: list[tuple[str, Callable[[Operation], Operation]]] = [
    ("stale read", lambda one: replace(one, extra=dict(one.extra) | {"guarantee": "linearizable"})),
    (
        "older than its bound",
        lambda one: replace(one, extra=dict(one.extra) | {"guarantee": "bounded", "staleness_ms": 0}),
    ),
    ("write missed", lambda one: replace(one, extra=dict(one.extra) | SEES | {"sees_writes_at": 2})),
    ("went back in time", lambda one: replace(one, extra=dict(one.extra) | {"guarantee": "at_least"})),
]


@pytest.mark.parametrize(("name", "claim"), WRONG, ids=[name for name, _ in WRONG])
def test_a_claim_that_is_too_high_is_found(name: str, claim: Callable[[Operation], Operation]) -> None:
    rng = random.Random(5)
    for _ in range(10):
        history = executed(rng, 200)
        boasting = [claim(one) if one.f == "read" else one for one in history]
        assert name in names(quorums.check(boasting))
        assert name in names(quorums.check([_without_states(one) for one in boasting]))


def test_out_of_time_is_no_verdict() -> None:
    history = executed(random.Random(1), 500)
    asked = Budget(10**6)
    assert quorums.check(history, asked).valid is True
    for budget in range(10**6 - asked.left - 1):
        verdict = quorums.check(history, Budget(budget))
        assert verdict.valid is None
        assert "out of time" in verdict.why
