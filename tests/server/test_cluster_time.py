"""Cluster time: what counts of a clock, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv.lease_table import LeaseTable
from raftkv.kv.limits import MIN_LEASE_TTL_MS
from raftkv.server.cluster_time import MAX_STEP_MS, ClusterTime
from tests.kv.dict_store import DictStore


class StandingClock:
    def __init__(self) -> None:
        self.ms = 1_000_000.0

    def now_ms(self) -> float:
        return self.ms


def test_it_goes_on_where_the_last_leader_ended() -> None:
    clock = StandingClock()
    time = ClusterTime(clock)
    clock.ms += 400
    time.tick()
    clock.ms += 400
    time.take_over(applied_time_ms=70_000)
    assert time.stamp_ms() == 70_000
    clock.ms += 250
    assert time.stamp_ms() == 70_250


def test_a_pause_or_a_jump_counts_as_one_step() -> None:
    clock = StandingClock()
    time = ClusterTime(clock)
    time.take_over(0)
    clock.ms += 3_600_000
    assert time.stamp_ms() == MAX_STEP_MS
    time.tick()
    assert time.stamp_ms() == MAX_STEP_MS
    clock.ms += 10
    assert time.stamp_ms() == MAX_STEP_MS + 10
    assert MAX_STEP_MS <= MIN_LEASE_TTL_MS, "no lease that was renewed a moment ago ends by a jump alone"


@given(st.lists(st.tuples(st.sampled_from(("tick", "stamp", "look twice")), st.floats(0, 2_000)), max_size=60))
def test_it_never_goes_back_and_is_never_faster_than_the_clock(steps: list[tuple[str, float]]) -> None:
    clock = StandingClock()
    time = ClusterTime(clock)
    time.take_over(1_000)
    stamps = [time.stamp_ms()]
    for action, passed_ms in steps:
        clock.ms += passed_ms
        if action == "tick":
            time.tick()
        elif action == "look twice":
            stamps.append(time.stamp_ms())
        stamps.append(time.stamp_ms())
        assert stamps[-1] <= 1_000 + (clock.ms - 1_000_000.0) + 1e-6
    assert stamps == sorted(stamps)


@given(st.floats(0, 3), st.lists(st.floats(0.1, 200), max_size=10), st.floats(-1, 3))
def test_no_lease_ends_before_its_ttl_has_passed_on_the_clock(
    before_ms: float, steps_ms: list[float], over_ms: float
) -> None:
    """Stamps are whole milliseconds, what has passed is not: a lease may be late by one of them, and never early."""
    clock, store = StandingClock(), DictStore()
    time = ClusterTime(clock)
    time.take_over(0)
    clock.ms += before_ms
    granted_at = clock.ms
    with store.write() as writer:
        leases = LeaseTable(writer)
        leases.grant(writer, 1, MIN_LEASE_TTL_MS, time.stamp_ms())
    left_ms = max(0.0, granted_at + MIN_LEASE_TTL_MS + over_ms - clock.ms - sum(steps_ms))
    for step_ms in [*steps_ms, left_ms / 2, left_ms / 2]:  # a step above MAX_STEP_MS would count for less
        clock.ms += step_ms
        time.tick()
        lasted_ms = clock.ms - granted_at
        if lasted_ms < MIN_LEASE_TTL_MS - 1e-6:
            assert leases.alive(1, time.stamp_ms())
            assert leases.due(time.stamp_ms()) == 0
        if lasted_ms > MIN_LEASE_TTL_MS + 2:
            assert leases.due(time.stamp_ms()) == 1


@given(
    st.integers(3_000, 5_000),
    st.floats(1, 3),
    st.lists(st.tuples(st.floats(0, 10), st.sampled_from((0.0, 0.0, 120.0, 490.0, 3_600_000.0))), max_size=6),
)
def test_a_jump_takes_one_step_off_a_lease_at_most_and_a_fast_clock_shortens_it_in_proportion(
    ttl_ms: int, rate: float, moments: list[tuple[float, float]]
) -> None:
    clock, store = StandingClock(), DictStore()
    time = ClusterTime(clock)
    time.take_over(0)
    with store.write() as writer:
        leases = LeaseTable(writer)
        leases.grant(writer, 1, ttl_ms, time.stamp_ms())
    jumps = [jump_ms for _, jump_ms in moments if jump_ms]
    safe_ms = (ttl_ms - MAX_STEP_MS * len(jumps)) / rate - 1
    lasted_ms = 0.0  # by a true clock
    pending = list(moments)
    while leases.alive(1, time.stamp_ms()):
        passed_ms, jump_ms = pending.pop(0) if pending else (10.0, 0.0)
        clock.ms += passed_ms * rate + jump_ms
        lasted_ms += passed_ms
        time.tick()
    assert lasted_ms >= safe_ms


def test_an_hour_takes_a_step_off_a_lease() -> None:
    clock, store = StandingClock(), DictStore()
    time = ClusterTime(clock)
    time.take_over(0)
    with store.write() as writer:
        leases = LeaseTable(writer)
        leases.grant(writer, 1, 3_000, time.stamp_ms())
    for jump_ms in (3_600_000, 500, 500, 500, 500, 500):
        clock.ms += jump_ms
        time.tick()
        assert leases.alive(1, time.stamp_ms())
    clock.ms += 2
    assert not leases.alive(1, time.stamp_ms()), "by a true clock, 2,502 ms of 3,000 have passed"
