"""Replication lag in milliseconds: never too long, hardly too short, in bounded memory."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import Index, NodeId, Term
from raftkv.server.replication_lag import MOST_MOMENTS, SHARE, ReplicationLag

TERM = Term(3)
A, B = NodeId(2), NodeId(3)
TICK_MS = 10.0


def matches(**peers: int) -> dict[NodeId, Index]:
    return {{"a": A, "b": B}[name]: Index(match) for name, match in peers.items()}


def test_a_peer_that_has_everything_has_no_lag() -> None:
    lag = ReplicationLag()
    for tick in range(100):
        lag.sample(tick * TICK_MS, TERM, Index(tick + 5), matches(a=tick + 5))
    assert lag.of(A, Index(104), 1000.0) == 0
    assert len(lag) == 0


def test_the_lag_of_a_stopped_peer_grows_from_the_first_entry_that_it_lacks() -> None:
    lag = ReplicationLag()
    lag.sample(0, TERM, Index(5), matches(a=5, b=5))
    lag.sample(1000, TERM, Index(6), matches(a=6, b=5))  # nothing was written for a second: no lag in that time
    assert lag.of(B, Index(5), 1000) == 0
    for tick in range(1, 50):
        lag.sample(1000 + tick * TICK_MS, TERM, Index(6 + tick), matches(a=6 + tick, b=5))
    assert lag.of(B, Index(5), 1500) == 500
    assert lag.of(A, Index(55), 1500) == 0
    assert lag.of(B, Index(30), 1500) == 250, "it has caught up by half: what it lacks now is younger"
    lag.sample(1600, TERM, Index(55), matches(a=55, b=55))
    assert lag.of(B, Index(55), 1600) == 0
    assert len(lag) == 0


def test_a_new_leader_counts_from_when_it_took_office() -> None:
    lag = ReplicationLag()
    lag.sample(0, TERM, Index(50), matches(a=1))
    lag.sample(5000, TERM, Index(50), matches(a=1))
    assert lag.of(A, Index(1), 5000) == 5000
    lag.sample(6000, Term(4), Index(50), matches(a=0))
    assert lag.of(A, Index(0), 6000) == 0
    assert lag.of(A, Index(0), 6200) == 200


def test_nothing_is_told_when_leadership_is_lost() -> None:
    lag = ReplicationLag()
    lag.sample(0, TERM, Index(50), matches(a=1))
    lag.reset()
    assert lag.of(A, Index(1), 9000) == 0
    assert len(lag) == 0


def test_a_new_peer_has_missed_nothing_before_it_came() -> None:
    lag = ReplicationLag()
    lag.sample(0, TERM, Index(50), matches(a=10))
    lag.sample(60_000, TERM, Index(50), matches(a=10, b=0))
    assert lag.of(B, Index(0), 60_300) == 300, "a learner that waits for its checkpoint"
    assert lag.of(A, Index(10), 60_300) == 60_300
    lag.sample(61_000, TERM, Index(90), matches(a=10, b=40))
    assert lag.of(B, Index(40), 61_000) == 1000, "installed: what it lacks, the leader has had all the time"


def test_a_peer_that_was_removed_is_forgotten() -> None:
    lag = ReplicationLag()
    lag.sample(0, TERM, Index(50), matches(a=10, b=10))
    lag.sample(100, TERM, Index(60), matches(a=60))
    assert lag.of(B, Index(10), 500) == 0
    assert len(lag) == 0, "and nothing is remembered for it"


def test_a_dead_peer_costs_bounded_memory_and_little_truth() -> None:
    """Without thinning, the moments of two hours would be 720,000. Thinned by halves, old ones would run together."""
    lag = ReplicationLag()
    written: list[float] = []  # when entry i + 2 was written
    most = 0
    for tick in range(720_000 // 20):  # every 20th tick, to be quick: time goes on the same
        now_ms = tick * TICK_MS * 20
        written.append(now_ms)
        lag.sample(now_ms, TERM, Index(len(written) + 1), matches(a=1, b=len(written)))
        most = max(most, len(lag))
    assert most <= MOST_MOMENTS
    now_ms = written[-1]
    for match in range(1, len(written), 97):
        true_ms = now_ms - written[match - 1]
        told_ms = lag.of(A, Index(match), now_ms)
        assert told_ms <= true_ms <= told_ms * (1 + 1 / SHARE) + TICK_MS * 20, match
    assert lag.of(A, Index(1), now_ms) == now_ms


@given(st.integers(0, 2**32), st.integers(1, 150))
def test_never_too_long_and_hardly_too_short(seed: int, ticks: int) -> None:
    """Against the definition, with every entry's own time."""
    rng = random.Random(seed)
    lag = ReplicationLag()
    written: list[float] = []
    confirmed = 0
    since_ms = now_ms = 0.0
    for tick in range(ticks):
        before_ms, now_ms = now_ms, now_ms + rng.choice([10, 10, 10, 11, 500])
        written += [rng.uniform(before_ms, now_ms)] * rng.choice([0, 1, 3])
        if rng.random() < 0.3:
            confirmed = rng.randint(confirmed, len(written))
        if tick == 0:
            since_ms = now_ms
        lag.sample(now_ms, TERM, Index(len(written)), matches(a=confirmed))
        told_ms = lag.of(A, Index(confirmed), now_ms)
        if confirmed == len(written):
            assert told_ms == 0
            continue
        true_ms = now_ms - max(written[confirmed], since_ms)
        assert told_ms <= true_ms
        if written[confirmed] > since_ms:
            assert true_ms <= told_ms * (1 + 1 / SHARE) + 500, "by a tick, however long that was"
