from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvalidArgument
from raftkv.quorum import (
    Answer,
    Begin,
    LogEnd,
    Membership,
    Target,
    Wait,
    decide,
    is_rinsed,
    majority,
    required_replicas,
    target_of,
)

ENDS = st.builds(LogEnd, st.integers(1, 4), st.integers(3, 9))


def membership(
    *voters: int, index: int = 1, witnesses: frozenset[int] = frozenset(), joint: bool = False
) -> Membership:
    return Membership(index, frozenset(voters), witnesses, joint)


THREE = membership(1, 2, 3)


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5, 7])
def test_how_many_to_ask(voters: int) -> None:
    assert required_replicas(0, voters) == majority(voters)
    assert [required_replicas(replicas, voters) for replicas in range(1, voters + 1)] == list(range(1, voters + 1))
    for replicas in (-1, voters + 1, 1000):
        with pytest.raises(
            InvalidArgument, match=rf"QUORUM\({replicas}\) is not possible: 1 to {voters} voters, or none named"
        ):
            required_replicas(replicas, voters)


def test_nobody_has_answered() -> None:
    assert decide(THREE, {}, 2) == Wait(2)


def test_enough_have_answered() -> None:
    answers = {1: Answer(LogEnd(2, 7), THREE), 3: Answer(LogEnd(3, 5), THREE)}
    assert decide(THREE, answers, 3) == Wait(1)
    assert decide(THREE, answers, 2) == Target(LogEnd(3, 5), 2), "terms first"
    assert decide(THREE, answers, 1) == Target(LogEnd(3, 5), 2), "more than asked for count as well"


def test_witnesses_know_where_the_log_ends() -> None:
    three = membership(1, 2, 3, witnesses=frozenset({3}))
    answers = {1: Answer(LogEnd(2, 7), three), 3: Answer(LogEnd(2, 8), three)}
    assert decide(three, answers, 2) == Target(LogEnd(2, 8), 2)


def test_who_is_no_voter_does_not_count() -> None:
    """A learner, or one that was removed."""
    answers = {1: Answer(LogEnd(2, 7), THREE), 4: Answer(LogEnd(9, 9), THREE)}
    assert decide(THREE, answers, 2) == Wait(1)


def test_a_newer_configuration_begins_anew() -> None:
    newer = membership(2, 3, 4, index=6)
    joint = membership(2, 3, 4, index=5, joint=True)
    answers = {
        1: Answer(LogEnd(2, 7), THREE),
        2: Answer(LogEnd(2, 7), joint),
        4: Answer(LogEnd(2, 7), newer),
        3: Answer(LogEnd(2, 7), THREE),
    }
    assert decide(THREE, answers, 2) == Begin(newer), (
        "the newest of them, although enough have answered, and a stranger"
    )
    del answers[4]
    assert decide(THREE, answers, 2) == Begin(joint), "whoever coordinates refuses it"


def test_who_has_not_heard_of_the_configuration_does_not_count() -> None:
    newer = membership(1, 2, 4, index=6)
    answers = {1: Answer(LogEnd(2, 7), newer), 2: Answer(LogEnd(2, 5), THREE)}
    assert decide(newer, answers, 2) == Wait(1)


def test_another_configuration_at_the_same_place_does_not_count() -> None:
    """One of the two is in a log that will be cut."""
    other = membership(1, 2, 4)
    answers = {1: Answer(LogEnd(2, 7), THREE), 2: Answer(LogEnd(3, 7), other)}
    assert decide(THREE, answers, 2) == Wait(1)


def test_nodes_that_have_compacted_their_logs_count() -> None:
    """They know of the same configuration that it is in force from a later place on."""
    compacted = membership(1, 2, 3, index=20)
    answers = {1: Answer(LogEnd(2, 25), compacted), 2: Answer(LogEnd(2, 24), THREE)}
    assert decide(THREE, answers, 2) == Target(LogEnd(2, 25), 2)
    assert decide(compacted, answers, 2) == Target(LogEnd(2, 25), 2)
    del answers[1]
    assert decide(compacted, {**answers, 3: Answer(LogEnd(2, 19), THREE)}, 2) == Target(LogEnd(2, 24), 2)
    assert decide(compacted, {3: Answer(LogEnd(2, 19), THREE)}, 1) == Wait(1), "it may lack what was before"


def test_a_disk_that_ends_before_its_configuration_does_not_count() -> None:
    """The configuration is appended and not yet on disk: what was committed before it may be missing, too."""
    newer = membership(1, 2, 3, index=6)
    answers = {1: Answer(LogEnd(2, 6), newer), 2: Answer(LogEnd(2, 5), newer)}
    assert decide(newer, answers, 2) == Wait(1)


@given(st.integers(1, 7), st.data())
def test_the_target_is_made_of_voters_of_one_configuration(size: int, data: st.DataObject) -> None:
    own = membership(*range(size), index=data.draw(st.integers(0, 2)))
    replicas = data.draw(st.integers(1, size))
    answers = data.draw(
        st.dictionaries(
            st.integers(0, size + 2),
            st.builds(
                Answer,
                st.builds(LogEnd, st.integers(1, 4), st.integers(0, 9)),
                st.builds(lambda index: membership(*range(size + index // 3), index=index), st.integers(0, 6)),
            ),
        )
    )
    counted = [
        answer.end
        for voter, answer in answers.items()
        if voter < size
        and answer.membership.voters == own.voters
        and answer.end.last_index >= answer.membership.configuration_index
    ]
    decision = decide(own, answers, replicas)
    newer_ones = [answer.membership for answer in answers.values() if answer.membership.voters != own.voters]
    match decision:
        case Begin(newer):
            assert newer in newer_ones
            assert newer.configuration_index == max(one.configuration_index for one in newer_ones)
        case Wait(missing):
            assert not newer_ones
            assert missing == max(replicas - len(counted), 1)
            assert len(counted) < replicas or max(counted, key=_index).last_index < own.configuration_index
        case Target(end, made_of):
            assert not newer_ones
            assert made_of == len(counted) >= replicas
            assert end in counted
            assert all(end >= other for other in counted)


def _index(end: LogEnd) -> int:
    return end.last_index


@given(st.lists(ENDS, min_size=1))
def test_more_answers_never_lower_the_target(ends: list[LogEnd]) -> None:
    targets = [target_of(ends[: count + 1]) for count in range(len(ends))]
    assert targets == sorted(targets)


@pytest.mark.parametrize(
    ("applied_term", "applied_index", "rinsed"),
    [(3, 7, True), (3, 8, True), (3, 6, False), (4, 1, True), (4, 7, True), (2, 6, False), (0, 0, False)],
)
def test_a_state_that_has_the_target_is_rinsed(applied_term: int, applied_index: int, rinsed: bool) -> None:
    assert is_rinsed(LogEnd(3, 7), applied_term, applied_index) is rinsed


def test_an_empty_log_is_rinsed_by_every_state() -> None:
    assert is_rinsed(LogEnd(0, 0), 0, 0)


def test_an_index_of_an_earlier_term_does_not_rinse() -> None:
    """Found by the model check: see test_scenarios."""
    assert not is_rinsed(LogEnd(3, 7), 2, 7)
    assert not is_rinsed(LogEnd(3, 7), 2, 100)


@given(ENDS, ENDS, ENDS)
def test_a_rinsed_state_stays_rinsed(target: LogEnd, applied: LogEnd, later: LogEnd) -> None:
    if is_rinsed(target, *applied) and later >= applied:
        assert is_rinsed(target, *later)
