"""How late ticks come."""

from __future__ import annotations

from raftkv.server.pulse import Pulse


def test_the_longest_delay_counts_while_somebody_measures() -> None:
    pulse = Pulse()
    pulse.late(70)
    with pulse.measure() as first:
        pulse.late(5)
        with pulse.measure() as second:
            pulse.late(3)
        pulse.late(9)
    pulse.late(80)
    assert (first.ms, second.ms) == (9, 3)
