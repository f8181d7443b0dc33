"""The core's rules that are switched off one at a time, and what must then be found: by whatever runs many nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import pytest
from _pytest.mark.structures import ParameterSet

from tests.raft import sabotage


@dataclass(frozen=True, slots=True)
class Control:
    """A safeguard that is off, what must then be found, and within how many seeds."""

    rule: Callable[[pytest.MonkeyPatch], None]
    finding: str
    seeds: int = 20
    damage: bool = False
    """The broken promise itself (C7) does not count as a finding, only what comes of it."""
    slow: bool = False
    """Not in the default run (`make slow`)."""

    def __str__(self) -> str:
        return self.rule.__name__ + ("-damage" if self.damage else "")


class Markable(Protocol):
    @property
    def slow(self) -> bool: ...


def with_marks(controls: Iterable[Markable]) -> list[ParameterSet]:
    """Return the controls as parameters of a test, those that take long marked so."""
    return [pytest.param(control, marks=[pytest.mark.slow] * control.slow) for control in controls]


RULES = [  # found by the simulator and by the random runs of tests/raft within the same bounds
    Control(sabotage.promises_leave_at_once, "C7", seeds=1),
    Control(sabotage.promises_leave_at_once, "C[4568]", damage=True),
    Control(sabotage.vote_is_not_persisted, "C7", seeds=1),
    Control(sabotage.vote_is_not_persisted, "C[18]", seeds=150, damage=True, slow=True),
    Control(sabotage.a_restart_forgets_the_term, "C9"),
    Control(sabotage.stepping_down_forgets_the_vote, "C8", seeds=5),
    Control(sabotage.votes_are_given_twice, "C8"),
    Control(sabotage.any_log_may_lead, "C4"),
    Control(sabotage.half_is_a_majority, "C6", seeds=5),
    Control(sabotage.the_leader_counts_its_memory, "C6"),
    Control(sabotage.late_confirmations_count, "C5", seeds=100),
    Control(sabotage.old_requests_truncate, "C7|would replace a committed one"),
    Control(sabotage.logs_always_match, "C[357]"),
    Control(sabotage.heartbeats_commit_what_may_not_match, "C5|acknowledged data is gone", seeds=5),
    Control(sabotage.reads_do_not_wait_for_the_term, "C10|K6"),
    Control(sabotage.reads_need_no_quorum, "C10", seeds=50),
]
