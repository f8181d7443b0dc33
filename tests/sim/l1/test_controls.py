"""A simulator that finds nothing proves nothing: each safeguard that is switched off must be missed by somebody."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.raft.controls import with_marks
from tests.raft.sabotage import without_the_cores_own_checks
from tests.sim.l0 import sabotage as core
from tests.sim.l1 import run_seed, sabotage
from tests.sim.l1.plan import CHOOSERS


@dataclass(frozen=True, slots=True)
class Control:
    """A safeguard that is off, and within how many seeds that must be found."""

    rule: Callable[[pytest.MonkeyPatch], None]
    finding: str = ""
    """What must be found; empty: anything that a run must not show."""
    seeds: int = 60
    """Most take one or two; the rarest needs the right tear of a record, or a crash between two steps."""
    first: int = 0
    """Where to begin. The seeds before it were found to show nothing: they cost time and prove nothing."""
    step: int = 1
    """From one seed to the next."""
    slow: bool = False
    """Not in the default run (`make slow`)."""

    def __str__(self) -> str:
        return self.rule.__name__


def _of_choosers(
    rule: Callable[[pytest.MonkeyPatch], None], finding: str, first: int = 4, *, slow: bool = False
) -> Control:
    """Return a control that only clients which choose concerns and levels can notice."""
    return Control(rule, finding, seeds=20, first=first, step=CHOOSERS, slow=slow)


CONTROLS = [
    Control(sabotage.repeated_writes_are_applied_again, "exactly once", seeds=5),
    Control(sabotage.entries_are_applied_before_they_are_durable_here, seeds=5),
    Control(sabotage.appends_are_confirmed_before_they_are_durable, seeds=5),
    Control(sabotage.appends_are_not_synced, seeds=10),
    Control(sabotage.the_store_is_kept_over_a_power_loss, "determinism|CorruptRow", seeds=10),
    Control(sabotage.directories_are_not_synced, seeds=10),
    Control(sabotage.torn_records_are_accepted, seeds=20, slow=True),
    Control(sabotage.a_torn_tail_is_left_where_it_is, first=7),
    Control(sabotage.reads_do_not_wait_for_the_state, "real time|linearizable", first=9),
    Control(sabotage.open_outcomes_are_answered_as_no_effect, "no effect", seeds=10),
    Control(sabotage.writes_without_a_session_are_repeated, "exactly once", first=32),
    Control(sabotage.a_node_votes_again_after_a_restart, "durability|election safety", seeds=5),
    Control(sabotage.a_failed_sync_is_tried_again, "goes on after a failed", seeds=10),
    Control(sabotage.sessions_are_left_out_of_checkpoints, "determinism|exactly once", seeds=10),
    Control(sabotage.results_are_left_out_of_checkpoints, "determinism|exactly once", first=6),
    Control(sabotage.an_install_replaces_the_log_first, "a state that has applied|entries are missing", first=2),
    Control(sabotage.the_state_is_not_restored_at_recovery, "entries are missing|determinism|read", seeds=20),
    Control(sabotage.the_log_is_kept_at_recovery, first=2),
    Control(sabotage.checkpoints_are_not_synced, "no checkpoint that can be used|damaged", seeds=10),
    Control(sabotage.a_clean_mark_is_left_where_it_is, "corrupt|determinism", seeds=10),
    Control(
        sabotage.a_lost_disk_is_not_noticed, "goes on under its old id|to be durable here|both lead term", first=13
    ),
    Control(sabotage.leases_are_judged_by_the_nodes_own_clock, "lease|determinism", seeds=5),
    Control(sabotage.leases_expire_in_spite_of_renewals, "lease", seeds=5),
    Control(sabotage.leases_outlive_their_deadline_until_they_are_expired, "lease|fence", seeds=20, first=7),
    Control(sabotage.nobody_ends_leases, "lease in time", seeds=5, slow=True),
    Control(sabotage.tokens_are_left_out_of_checkpoints, "tokens|determinism", seeds=10),
    Control(sabotage.leases_are_left_out_of_checkpoints, "lease|determinism|stopped by itself", seeds=10),
    Control(sabotage.fences_by_holder_are_not_checked, "fence", seeds=10),
    Control(sabotage.fences_by_newest_token_are_not_checked, "fence", seeds=10),
    Control(sabotage.places_are_not_remembered_by_sessions, "exactly once", seeds=10, first=1),
    Control(sabotage.contenders_overtake, "line", seeds=20, slow=True),
    Control(sabotage.mutexes_let_two_in, "mutual exclusion", seeds=5),
    Control(sabotage.releases_grant_nobody, "line", seeds=5),
    Control(sabotage.watches_resume_one_revision_too_late, "watch", seeds=5),
    Control(sabotage.watches_resume_one_revision_too_early, "watch", seeds=5),
    Control(sabotage.watches_are_not_told_of_an_installed_snapshot, "watch", first=34, slow=True),
    Control(sabotage.a_pause_of_the_leader_counts_as_time, "cluster time", seeds=20, first=4, slow=True),
    Control(sabotage.cluster_time_runs_fast, "cluster time|lease in time", seeds=5),
    Control(sabotage.sweeps_remove_what_can_be_seen, "read|compaction|transaction|acknowledged|CorruptRow", seeds=5),
    Control(sabotage.one_node_sweeps_less_than_the_others, "determinism", seeds=5),
    Control(sabotage.compares_see_what_the_transaction_wrote, "transaction", seeds=20, first=1),
    Control(sabotage.conditions_are_not_looked_at, "transaction", seeds=5),
    _of_choosers(sabotage.quorum_reads_are_not_rinsed, "linearizable|sees writes at"),
    _of_choosers(sabotage.read_points_are_stamped_at_receipt, "bounded", first=9, slow=True),
    _of_choosers(sabotage.a_leader_counts_before_it_has_synced, "durable_on"),
    _of_choosers(sabotage.witnesses_and_learners_count_as_copies, "durable_on", first=9, slow=True),
    _of_choosers(sabotage.tokens_are_ignored, "at least"),
    Control(core.a_joint_change_needs_one_majority, "commit", first=4),
    Control(core.learners_count, "commit|durable_on", first=2),
    Control(core.a_restart_forgets_the_configurations_of_the_log, "commit", first=6, slow=True),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("control", with_marks(CONTROLS), ids=str)
def test_a_missing_safeguard_is_found(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.rule(monkeypatch)
    if control.rule.__module__ == core.__name__:
        without_the_cores_own_checks(monkeypatch)
    for seed in range(control.first, control.first + control.seeds * control.step, control.step):
        violation = run_seed(seed).violation
        if violation is not None and not violation.startswith("harness"):
            assert re.search(control.finding, violation), f"seed {seed} finds something else: {violation}"
            return
    pytest.fail(f"{control.seeds} seeds have not found it")


def test_every_sabotage_is_a_control() -> None:
    """Nobody adds one and forgets to let the simulator look for it."""
    made = {
        name
        for name, value in vars(sabotage).items()
        if callable(value) and getattr(value, "__module__", "") == sabotage.__name__ and name[0] != "_"
    }
    assert made <= {control.rule.__name__ for control in CONTROLS}
