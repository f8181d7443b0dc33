"""A simulator that finds nothing proves nothing: each safeguard that is switched off must be missed by somebody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.l1 import run_seed, sabotage

WITHIN_SEEDS = 60
"""Each sabotage is found within so many seeds. Most take one or two; the rarest needs the right tear of a record."""

SABOTAGE: list[Callable[[pytest.MonkeyPatch], None]] = [
    sabotage.repeated_writes_are_applied_again,
    sabotage.entries_are_applied_before_they_are_durable_here,
    sabotage.appends_are_confirmed_before_they_are_durable,
    sabotage.appends_are_not_synced,
    sabotage.the_store_is_kept_over_a_power_loss,
    sabotage.directories_are_not_synced,
    sabotage.torn_records_are_accepted,
    sabotage.a_torn_tail_is_left_where_it_is,
    sabotage.reads_do_not_wait_for_the_state,
    sabotage.open_outcomes_are_answered_as_no_effect,
    sabotage.writes_without_a_session_are_repeated,
    sabotage.a_node_votes_again_after_a_restart,
    sabotage.a_failed_sync_is_tried_again,
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: str(sabotage.__name__))
def test_a_missing_safeguard_is_found(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    for seed in range(WITHIN_SEEDS):
        violation = run_seed(seed).violation
        if violation is not None and not violation.startswith("harness"):
            return
    pytest.fail(f"{WITHIN_SEEDS} seeds have not found it")
