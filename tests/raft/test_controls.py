"""The crafted tests of single rules fail when their rule is off. (For the random runs, see test_network.py.)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.raft import sabotage, test_bugs, test_paper, test_persistence

NOTICED_BY: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (sabotage.promises_leave_at_once, test_bugs.test_bug_01_vote_answered_before_it_is_persisted),
    (sabotage.promises_leave_at_once, test_persistence.test_an_acknowledgement_waits_for_its_write),
    (sabotage.vote_is_not_persisted, test_bugs.test_bug_05_two_leaders_in_one_term),
    (sabotage.a_restart_forgets_the_term, test_paper.test_what_was_said_before_a_crash_is_still_known_after_it),
    (sabotage.stepping_down_forgets_the_vote, test_bugs.test_bug_03_stepping_down_keeps_the_vote_of_the_term),
    (sabotage.votes_are_given_twice, test_paper.test_5_2_one_vote_a_term_first_come_first_served),
    (sabotage.any_log_may_lead, test_paper.test_5_4_3_a_leader_has_every_entry_committed_before_it),
    (sabotage.half_is_a_majority, test_paper.test_thesis_10_2_1_the_leader_counts_itself_only_when_durable),
    (sabotage.earlier_terms_are_committed_by_counting, test_bugs.test_bug_06_counting_replicas_of_an_earlier_term),
    (sabotage.the_leader_counts_its_memory, test_paper.test_thesis_10_2_1_the_leader_counts_itself_only_when_durable),
    (
        sabotage.the_leader_counts_its_memory,
        test_bugs.test_bug_32_a_single_node_commits_nothing_before_its_disk_has_it,
    ),
    (
        sabotage.late_confirmations_count,
        test_persistence.test_bug_11_late_confirmation_of_an_overwritten_append,
    ),
    (sabotage.late_confirmations_count, test_persistence.test_bug_11_a_b_a),
    (
        sabotage.late_confirmations_count,
        test_persistence.test_what_counts_as_durable_is_on_disk_now_and_after_every_write_under_way,
    ),
    (sabotage.old_requests_truncate, test_bugs.test_bug_15_an_old_append_truncates_nothing_that_matches),
    (sabotage.reads_do_not_wait_for_the_term, test_bugs.test_bug_40_no_read_before_a_commit_in_the_own_term),
    (sabotage.reads_share_an_old_round, test_bugs.test_bug_41_an_answer_to_an_earlier_round_confirms_no_later_read),
    (sabotage.reads_need_no_quorum, test_bugs.test_bug_42_a_deposed_leader_confirms_no_read),
]


@pytest.mark.parametrize(
    ("rule", "test"), NOTICED_BY, ids=[f"{rule.__name__}-{test.__name__}" for rule, test in NOTICED_BY]
)
def test_the_crafted_test_notices_that_its_rule_is_off(
    rule: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    test()
    rule(monkeypatch)
    with pytest.raises(AssertionError):
        test()
