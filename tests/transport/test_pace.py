"""How fast checkpoints leave."""

from __future__ import annotations

import pytest

from raftkv.transport.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize("senders", [1, 3])
def test_all_senders_together_stay_below_the_rate(senders: int) -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    sent, due = 0, [clock.s] * senders
    while clock.s < 200:
        sender = due.index(min(due))
        clock.s = max(clock.s, due[sender])
        pace.begin()
        sent += 250
        due[sender] = clock.s + pace.spent_s(250)
    assert 99_000 <= sent <= 101_000


def test_time_that_nobody_used_is_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    for _ in range(2):
        pace.begin()
        assert pace.spent_s(500) == pytest.approx(0.5)
        clock.s += 60


def test_a_send_that_took_long_need_not_wait() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    pace.begin()
    clock.s += 5
    assert pace.spent_s(500) == 0


def test_without_a_rate_nobody_waits() -> None:
    pace = Pace(0, Clock())
    pace.begin()
    assert pace.spent_s(1 << 40) == 0
