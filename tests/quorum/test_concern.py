from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import InvalidArgument
from raftkv.quorum import (
    ALL,
    DEFAULT,
    LEADER,
    MAJORITY,
    Needed,
    concern_name,
    concern_words,
    majority,
    needed,
    parse_concern,
)
from raftkv.quorum.concern import MAX_VOTERS

COUNTS = st.integers(1, 9)


@pytest.mark.parametrize(
    ("text", "concern"),
    [("leader", LEADER), ("majority", MAJORITY), ("all", ALL), ("1", 1), ("3", 3), (1, 1), (5, 5), ("03", 3)],
)
def test_what_can_be_asked_for(text: str | int, concern: int) -> None:
    assert parse_concern(text) == concern


@pytest.mark.parametrize(
    "text",
    [0, -1, -2, MAX_VOTERS + 1, True, "", "0", "-1", "+1", " 2", "2.0", "most", "Majority", "default", "٣", "9" * 5000],
)
def test_what_can_not(text: str | int) -> None:
    with pytest.raises(InvalidArgument, match="none of leader, majority, all, or a number of voters from 1 on"):
        parse_concern(text)


@given(st.integers(1, MAX_VOTERS) | st.sampled_from([LEADER, MAJORITY, ALL]))
def test_a_name_is_what_can_be_asked_for(concern: int) -> None:
    assert parse_concern(concern_name(concern)) == concern


def test_names() -> None:
    assert [concern_name(one) for one in (DEFAULT, 1, 2, MAJORITY, ALL)] == [
        "default",
        "leader",
        "2",
        "majority",
        "all",
    ]


@given(COUNTS)
def test_any_two_majorities_meet_and_nothing_smaller_does(voters: int) -> None:
    assert 2 * majority(voters) > voters
    assert 2 * (majority(voters) - 1) <= voters


@pytest.mark.parametrize(
    ("voters", "concern", "expected"),
    [
        (1, 1, Needed(1, early=False, waits=True)),
        (3, LEADER, Needed(1, early=True, waits=False)),
        (3, 2, Needed(2, early=False, waits=True)),
        (3, 3, Needed(3, early=False, waits=True)),
        (3, MAJORITY, Needed(2, early=False, waits=False)),
        (3, ALL, Needed(3, early=False, waits=True)),
        (4, 2, Needed(2, early=True, waits=False)),
        (4, 3, Needed(3, early=False, waits=True)),
        (5, 2, Needed(2, early=True, waits=False)),
        (5, 4, Needed(4, early=False, waits=True)),
    ],
)
def test_what_a_concern_comes_to(voters: int, concern: int, expected: Needed) -> None:
    assert needed(concern, voters=voters, keepers=voters) == expected


@given(COUNTS, st.data())
def test_every_concern_of_every_size(voters: int, data: st.DataObject) -> None:
    """Also with witnesses: a majority is one of voters, the others count those that hold data."""
    keepers = data.draw(st.integers(1, voters))
    for concern in range(1, keepers + 1):
        found = needed(concern, voters=voters, keepers=keepers)
        assert found.voters == concern
        assert found.early == (concern < majority(voters))
        assert found.waits != found.early, "it is answered before it is committed, or waits for more than that"
    least = max(1, majority(voters) - (voters - keepers))  # the witnesses may be part of the majority
    assert needed(MAJORITY, voters=voters, keepers=keepers) == Needed(least, early=False, waits=False)
    assert needed(ALL, voters=voters, keepers=keepers) == Needed(keepers, early=False, waits=True)


@pytest.mark.parametrize("concern", [4, MAX_VOTERS, DEFAULT, -3])
def test_more_voters_than_there_are(concern: int) -> None:
    with pytest.raises(InvalidArgument, match=rf"write concern {concern} is not possible: 1 to 3 voters, or leader,"):
        needed(concern, voters=3, keepers=3)


def test_more_voters_than_hold_data() -> None:
    assert needed(2, voters=3, keepers=2) == Needed(2, early=False, waits=True)
    with pytest.raises(InvalidArgument, match=r"3 is not possible: 1 to 2 voters \(of 3 voters 1 hold no data\)"):
        needed(3, voters=3, keepers=2)


def test_a_refusal_names_what_was_asked_for_by_number_or_by_name() -> None:
    assert [concern_words(one) for one in (1, 2, MAJORITY, ALL)] == ["1 (leader)", "2", "majority", "all"]
