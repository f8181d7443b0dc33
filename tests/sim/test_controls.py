"""The simulator notices when a safeguard is off, within a stated number of seeds.

A simulator that finds nothing proves nothing. The seeds are 0, 1, 2, ..., as good as any others.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.raft import sabotage as rules
from tests.raft.controls import RULES, Control
from tests.sim.l0 import plan, sabotage
from tests.sim.l0.run import run

CONTROLS = [
    *RULES,
    Control(rules.reads_share_an_old_round, "C10", seeds=50),
    Control(rules.earlier_terms_are_committed_by_counting, "C[45]", seeds=100),
    Control(sabotage.nobody_is_sticky, "deposed the leader"),
    Control(sabotage.there_is_no_pre_vote, "deposed the leader"),
    Control(sabotage.leaders_need_no_quorum, "nobody takes over from a leader that hears nobody"),
    Control(sabotage.nobody_learns_of_a_new_term, "does not reach every node"),
    Control(sabotage.a_term_begins_without_an_entry, "no read is served"),
    Control(sabotage.lost_appends_are_not_repeated, "LivenessViolation"),
    Control(sabotage.a_transfer_never_ends, "no write is acknowledged"),
    Control(sabotage.what_a_candidate_hears_stays, "C[1478]"),
    Control(sabotage.a_broken_connection_means_nothing_is_known, "next 1 must be above match", seeds=5),
    Control(sabotage.a_joint_change_needs_one_majority, "C[146]", seeds=100),
    Control(sabotage.learners_count, "C6|nobody takes over"),
    Control(sabotage.a_joint_configuration_is_left_before_it_is_committed, "C12"),
    Control(sabotage.configurations_survive_truncation, "C11", seeds=100),
    Control(sabotage.a_restart_forgets_the_configurations_of_the_log, "C6|C11"),
    Control(sabotage.a_snapshot_brings_no_configuration, "C11"),
    Control(sabotage.nobody_is_sent_a_snapshot, "LivenessViolation"),
    Control(sabotage.a_lost_checkpoint_is_not_sent_again, "LivenessViolation", seeds=60),
    Control(sabotage.a_witness_may_lead, "C13", seeds=100),
    Control(sabotage.a_lease_begins_when_it_is_confirmed, "K6", seeds=150),
    Control(sabotage.a_lease_is_longer_than_the_promise, "K6", seeds=10),
    Control(sabotage.a_restart_forgets_the_promise, "K6"),
    Control(sabotage.hints_are_heeded_in_spite_of_leases, "K6", seeds=150),
    Control(sabotage.a_transfer_leaves_the_lease, "K6", seeds=10),
    Control(sabotage.a_lease_needs_no_commit_in_its_term, "K6", seeds=100),
    Control(sabotage.a_hindered_leader_stays, "a hindered leader does not hand over", seeds=30),
    Control(sabotage.a_barred_leader_stays, "a barred leader does not hand over", seeds=30),
    Control(sabotage.a_barred_node_stands_for_election, "C26", seeds=50),
    Control(sabotage.nobody_says_that_it_should_not_lead, "is fit$", seeds=50),
]


def can_matter(rule: Callable[[pytest.MonkeyPatch], None], parameters: plan.Parameters) -> bool:
    """Whether a cluster has what the rule is about; seeds that have not are passed over."""
    if "lease" in rule.__name__ or rule is sabotage.a_restart_forgets_the_promise:
        return parameters.lease_ms > 0
    return rule is not sabotage.a_witness_may_lead or parameters.witnesses > 0


@pytest.mark.parametrize("control", CONTROLS, ids=str)
def test_the_simulator_notices_that_a_safeguard_is_off(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.rule(monkeypatch)
    if control.rule.__module__ == rules.__name__:
        rules.without_the_cores_own_checks(monkeypatch)
    for seed in range(control.seeds):
        if not can_matter(control.rule, plan.draw(seed)[0]):
            continue
        violation = run(seed, watch_promises=not control.damage).violation
        if violation is not None:
            assert re.search(control.finding, violation), f"seed {seed} finds something else: {violation}"
            return
    pytest.fail(f"{control.seeds} seeds find nothing")


def test_every_sabotage_is_a_control() -> None:
    """Nobody adds one and forgets to let the simulator look for it."""
    named = {control.rule.__name__ for control in CONTROLS}
    for module in (rules, sabotage):
        made = {
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
        }
        assert made - named <= {"without_the_cores_own_checks"}
