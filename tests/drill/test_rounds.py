"""From what was seen to the figures of a round."""

from __future__ import annotations

import pytest

from raftkv.drill.measure.record import Fault, How, Outcome, Record, Role
from raftkv.drill.measure.rounds import Round, last_sign_of_life, longest_gap, measured
from tests.drill.histories import AT, killed, read, sight, write


def measure(record: Record) -> Round:
    return measured(record, record.faults[0])


def test_the_moments_of_a_kill() -> None:
    one = measure(killed())
    assert one.detection_s == pytest.approx(0.04)
    assert (one.new_leader, one.new_term) == (3, 4)
    assert one.election_s == pytest.approx(0.07)
    assert one.first_write_s == pytest.approx(0.09)
    assert one.mttr_s == pytest.approx(3.0)
    assert one.recovered


def test_the_recovery_time_is_the_longest_wait_of_a_writer_for_the_new_leader() -> None:
    gap = measure(killed()).gap
    assert gap is not None
    assert (gap.began, gap.ended, gap.closed) == (10.002, 10.117, True)


def test_a_longer_wait_later_in_the_round_is_told_apart() -> None:
    gap = measure(killed()).longest_gap
    assert gap is not None
    assert gap.seconds == pytest.approx(13.3 - 10.117)


def test_what_the_old_leader_acknowledged_is_no_first_write() -> None:
    record = killed()
    record.writes = [one for one in record.writes if one.term <= 3]
    one = measure(record)
    assert one.first_write_s is None
    assert not one.recovered
    assert one.gap is not None
    assert not one.gap.closed
    assert one.gap.ended == 13.4, "as far as was looked"


def test_a_failed_write_of_the_new_term_is_no_first_write() -> None:
    record = killed()
    record.writes.insert(3, write(10.08, outcome=Outcome.FAILED))
    one = measure(record)
    assert one.first_write_s == pytest.approx(0.09)
    assert (one.failed, one.unknown) == (1, 0)


def test_nobody_is_elected() -> None:
    record = killed()
    record.sights = [one for one in record.sights if one.term <= 3]
    one = measure(record)
    assert (one.election_s, one.new_leader, one.mttr_s) == (None, None, None)
    assert one.detection_s == pytest.approx(0.04)
    assert not one.recovered


def test_a_node_that_is_back_and_lacks_entries_has_not_recovered() -> None:
    record = killed()
    record.sights = record.sights[:-1]
    one = measure(record)
    assert one.mttr_s is None
    assert not one.recovered


def test_a_paused_leader_that_still_believes_in_itself_has_not_recovered() -> None:
    record = killed()
    record.sights[-3:] = [sight(12.9, 1, Role.LEADER, term=3, leader=1, applied=900)]
    assert measure(record).mttr_s is None


def test_a_node_was_struck_after_its_last_sign_of_life() -> None:
    record = Record(
        sights=[sight(9.9, 1, Role.LEADER), sight(11.4, 1, Role.LEADER), sight(11.6, 2)],
        faults=[Fault(round=1, how=How.KILL, node=1, term=3, at=AT)],
    )
    assert last_sign_of_life(record, record.faults[0]) == 11.4
    del record.sights[1]
    assert last_sign_of_life(record, record.faults[0]) == AT


def test_as_long_as_the_fault_lasts_nothing_has_recovered() -> None:
    record = killed()
    record.faults[0].undone = None
    assert measure(record).mttr_s is None


def test_the_old_leader_may_lead_again() -> None:
    record = killed()
    record.sights[-1] = sight(13.0, 1, Role.LEADER, term=5, leader=1, applied=505)
    assert measure(record).mttr_s == pytest.approx(3.0)


def test_a_transfer_is_noticed_when_the_old_leader_steps_down() -> None:
    record = killed()
    record.sights.insert(3, sight(10.02, 1, leader=0))
    assert measure(record).detection_s == pytest.approx(0.02)


def test_a_round_ends_where_the_next_fault_begins() -> None:
    record = killed()
    record.faults.append(Fault(round=2, how=How.KILL, node=3, term=4, at=12.0))
    one = measure(record)
    assert one.until == 12.0
    assert one.mttr_s is None, "seen in the next round"
    assert one.acknowledged == 4


def test_reads_are_counted_within_the_round() -> None:
    record = killed()
    record.reads.append(read(10.5, outcome=Outcome.FAILED))
    one = measure(record)
    assert (one.reads, one.reads_failed) == (2, 1)


def test_who_still_waits_at_the_end_has_the_longest_gap() -> None:
    gap = longest_gap([write(9.0), write(9.1), write(9.2, writer=1)], AT, 20.0)
    assert gap is not None
    assert (gap.began, gap.ended, gap.closed) == (9.1, 20.0, False)


def test_without_an_acknowledgement_there_is_no_gap() -> None:
    assert longest_gap([write(9.0, outcome=Outcome.UNKNOWN)], AT, 20.0) is None
