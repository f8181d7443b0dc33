from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftkv.checker import leases
from raftkv.checker.history import Operation
from tests.checker.building import Budget, assert_verdict, names, op

L = {"lease": 7}
LOST = "LeaseNotFound: there is no lease 7"


def grant(began: float, ended: float, *, ttl: int = 1000, outcome: str = "ok", key: str = "k") -> Operation:
    return op("grant", began, ended, key=key, value=L | {"ttl_ms": ttl}, outcome=outcome)


def attach(began: float, ended: float, *, outcome: str = "ok", error: str = "", key: str = "k") -> Operation:
    return op("attach", began, ended, key=key, value=1, outcome=outcome, error=error, extra=L)


def renew(
    began: float, ended: float, *, ttl: int = 1000, outcome: str = "ok", error: str = "", key: str = "k"
) -> Operation:
    result = {"ttl_ms": ttl} if outcome == "ok" else None
    return op("renew", began, ended, key=key, value=L, result=result, outcome=outcome, error=error)


def revoke(began: float, ended: float, *, outcome: str = "ok", key: str = "k") -> Operation:
    return op("revoke", began, ended, key=key, value=L, outcome=outcome)


def there(began: float, ended: float, *, value: int = 1, key: str = "k") -> Operation:
    return op("read", began, ended, key=key, result=value)


def gone(began: float, ended: float, *, key: str = "k") -> Operation:
    return op("read", began, ended, key=key)


HELD = [grant(0, 10), attach(11, 20)]

GOOD = {
    # A run under restarts: the lease was dead when it was to be renewed, and its key went with the next Expire.
    "dead at once, and its key goes a little later": [
        *HELD,
        renew(1040, 1100, ttl=0),
        there(1101, 1130),
        gone(1340, 1350),
    ],
    "nothing": [],
    "there, then gone": [*HELD, there(30, 40), there(900, 990), gone(1200, 1210)],
    "gone a moment after its ttl": [*HELD, gone(999, 1001)],
    "gone late: cluster time lags": [*HELD, there(3000, 3010), gone(9000, 9010)],
    "a renewal makes it last": [*HELD, renew(600, 700), there(1500, 1510), gone(1601, 1610)],
    "a renewal that came late found it: cluster time lagged": [*HELD, renew(5000, 5010), there(5500, 5510)],
    "an unknown renewal promises nothing": [*HELD, renew(600, 700, outcome="info"), gone(1100, 1110)],
    "an unknown renewal may have worked": [*HELD, renew(600, 700, outcome="info"), there(1500, 1510), gone(1700, 1710)],
    "a renewal that came too late": [*HELD, renew(1500, 1510, outcome="fail", error=LOST), gone(1600, 1610)],
    "a renewal that found nothing": [*HELD, renew(1500, 1510, ttl=0), gone(1600, 1610)],
    "revoked": [*HELD, revoke(30, 40), gone(41, 50)],
    "read while it is revoked": [*HELD, revoke(30, 40), gone(31, 33), gone(31, 39)],
    "an unknown revoke that was done late": [*HELD, revoke(30, 40, outcome="info"), there(50, 60), gone(70, 80)],
    "an unknown revoke that was not done": [*HELD, revoke(30, 40, outcome="info"), there(50, 60), there(900, 910)],
    "read while it is attached": [grant(0, 10), attach(11, 20), gone(12, 19), there(12, 19)],
    "gone before it was attached": [grant(0, 10), gone(5, 8), attach(11, 20), there(21, 22)],
    "an unknown attachment, done late": [grant(0, 10), attach(11, 20, outcome="info"), gone(30, 31), there(50, 51)],
    "the lease is not known to be granted": [grant(0, 10, outcome="info"), attach(11, 20, outcome="fail", error=LOST)],
    "attached too late": [grant(0, 10), attach(1100, 1120, outcome="fail", error=LOST), gone(1130, 1140)],
    "two keys on two leases": [
        *HELD,
        grant(0, 10, key="j"),
        attach(11, 20, key="j"),
        revoke(21, 22, key="j"),
        there(30, 40),
    ],
    # Found in a run: the lease is dead by its time, and the entry that deletes its key comes 40 ms later.
    "seen once more after its lease had ended": [*HELD, renew(1100, 1110, ttl=0), there(1115, 1140), gone(1200, 1210)],
    "granted with its key": [
        op("grant", 0, 10, key="k", value=L | {"ttl_ms": 1000}, extra={"value": 1}),
        there(11, 12),
        gone(1100, 1110),
    ],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    "ended early": ([*HELD, gone(500, 510)], {"ended early"}),
    "ended early: by a millisecond": ([*HELD, gone(990, 999)], {"ended early"}),
    # What a store does whose leader counts by its own wall clock, when that jumps; or whose new leader does not
    # know of the last renewals.
    "ended early: in spite of a renewal": ([*HELD, renew(600, 610), gone(1200, 1210)], {"ended early"}),
    "ended early: a later renewal shows that it was there": (
        [*HELD, gone(1500, 1510), renew(1505, 1520)],
        {"ended early"},
    ),
    "ended early: a renewal was refused": ([*HELD, renew(500, 510, outcome="fail", error=LOST)], {"ended early"}),
    "ended early: a renewal found nothing": ([*HELD, renew(500, 510, ttl=0)], {"ended early"}),
    "ended early: nothing to attach to": (
        [grant(0, 10), attach(500, 510, outcome="fail", error=LOST)],
        {"ended early"},
    ),
    "ended early: before it was revoked": ([*HELD, gone(500, 510), revoke(600, 610)], {"ended early"}),
    # As in ZOOKEEPER-5010: an ephemeral node that is gone at one server is seen at another one later.
    "came back": ([*HELD, gone(1100, 1110), there(1200, 1210)], {"came back"}),
    "came back: the attachment was unknown, and seen": (
        [grant(0, 10), attach(11, 20, outcome="info"), there(21, 22), gone(1100, 1110), there(1200, 1210)],
        {"came back"},
    ),
    "came back: it is renewed": ([*HELD, gone(1100, 1110), renew(1200, 1210)], {"came back", "ended early"}),
    "came back: it was not known, long ago": (
        [*HELD, renew(1100, 1110, outcome="fail", error=LOST), there(11_200, 11_210), gone(11_300, 11_310)],
        {"came back"},
    ),
    "came back: it was not known, and is renewed": (
        [*HELD, renew(1100, 1110, ttl=0), renew(1200, 1210)],
        {"came back", "ended early"},
    ),
    "outlived its revoke": ([*HELD, revoke(30, 40), there(50, 60)], {"outlived its revoke"}),
    "outlived its revoke: it is renewed": ([*HELD, revoke(30, 40), renew(50, 60)], {"outlived its revoke"}),
    "outlived its end": ([*HELD, there(20_000, 20_010)], {"outlived its end"}),
    "outlived its end: renewed once": ([*HELD, renew(500, 510), there(12_000, 12_010)], {"outlived its end"}),
    "outlived its end: of an unknown grant": (
        [grant(0, 10, outcome="info"), attach(11, 20), there(20_000, 20_010)],
        {"outlived its end"},
    ),
    "never written": ([*HELD, there(30, 40, value=2)], {"never written"}),
    "a failed attachment": (
        [grant(0, 10), attach(11, 20, outcome="fail"), there(30, 40)],
        {"never written"},
    ),
    "read from the future": ([grant(0, 10), there(5, 6), attach(11, 20)], {"read from the future"}),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    assert_verdict(leases.check(history), ())


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(leases.check(history), wanted)


def test_margin_and_patience() -> None:
    early = [*HELD, gone(940, 951)]
    assert names(leases.check(early)) == {"ended early"}
    assert_verdict(leases.check(early, margin_ms=50), ())
    late = [*HELD, there(3000, 3010)]
    assert_verdict(leases.check(late), ())
    assert names(leases.check(late, patience_ms=1000)) == {"outlived its end"}


def executed(rng: random.Random, count: int) -> Iterator[Operation]:
    """Leases by a cluster time that lags more and more."""
    for number in range(count):
        key, now, ttl = f"k{number}", rng.uniform(0, 1000), rng.choice([500, 1000, 3000])
        yield grant(now, now + 5, ttl=ttl, key=key)
        end = now + rng.uniform(0, 5) + ttl + rng.expovariate(1 / 300)
        yield attach(now + 6, now + 9, key=key)
        now += 10
        for _ in range(rng.randint(0, 12)):
            at = now + rng.uniform(0, 5)
            match rng.randrange(4):
                case 0 if at < end:
                    outcome = rng.choice(["ok", "ok", "info"])
                    yield renew(now, now + 5, ttl=ttl, key=key, outcome=outcome)
                    if outcome == "ok" or rng.random() < 0.5:
                        end = at + ttl + rng.expovariate(1 / 300)
                case 0:
                    yield renew(now, now + 5, key=key, outcome="fail", error=LOST)
                case 1 if rng.random() < 0.3:
                    outcome = rng.choice(["ok", "info"])
                    yield revoke(now, now + 5, key=key, outcome=outcome)
                    if outcome == "ok" or rng.random() < 0.5:
                        end = min(end, at)
                case _:
                    yield there(now, now + 5, key=key) if at < end else gone(now, now + 5, key=key)
            now += 5 + rng.expovariate(2 / ttl)
        yield gone(end + 10, end + 20, key=key) if now < end else gone(now + 1, now + 2, key=key)


@pytest.mark.parametrize("seed", range(20))
def test_at_random(seed: int) -> None:
    assert_verdict(leases.check(list(executed(random.Random(seed), 200))), ())


def test_out_of_time_is_no_verdict() -> None:
    verdict = leases.check(HELD, Budget(0))
    assert verdict.valid is None
    assert "out of time" in verdict.why
    assert leases.check(HELD, Budget(1)).valid is True
