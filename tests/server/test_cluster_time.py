"""Cluster time: what counts of a clock, and what does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftkv.kv.limits import MIN_LEASE_TTL_MS
from raftkv.server.cluster_time import MAX_STEP_MS, ClusterTime


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
