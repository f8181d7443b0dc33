"""Every reason for which a cluster is not drilled, alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.drill.measure.fitness import LAG_MAX, Follower, Picture, Voter, absences, objections

IN_STEP = Follower(match=1000, active=True, in_step=True)
HEALTHY = Picture(
    leader=1,
    last_index=1000,
    voters=[Voter(id=1), Voter(id=2), Voter(id=3)],
    followers={2: IN_STEP, 3: IN_STEP},
    alarms=[],
    changing=False,
)


def behind(picture: Picture, follower: Follower) -> Picture:
    return replace(picture, followers={2: follower, 3: follower})


def test_a_healthy_cluster_is_fit() -> None:
    assert absences(HEALTHY) == []
    assert objections(HEALTHY) == []


def test_one_follower_that_lags_is_no_objection_while_another_has_caught_up() -> None:
    assert objections(replace(HEALTHY, followers={2: IN_STEP, 3: replace(IN_STEP, match=1)})) == []


def test_a_follower_may_be_a_little_behind() -> None:
    assert objections(behind(HEALTHY, replace(IN_STEP, match=1000 - LAG_MAX))) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: behind(it, replace(IN_STEP, match=1000 - LAG_MAX - 1)), "node 2 lacks 101 entries"),
        (lambda it: behind(it, replace(IN_STEP, active=False)), "node 3 does not answer the leader"),
        (lambda it: behind(it, replace(IN_STEP, in_step=False)), "is being brought up to date, 0 entries behind"),
        (lambda it: replace(it, followers={}), "node 2 is not known to the leader"),
        (lambda it: replace(it, alarms=["node 2 raises NO_SPACE"]), "node 2 raises NO_SPACE"),
        (lambda it: replace(it, changing=True), "a change of members is under way"),
        (lambda it: replace(it, voters=[Voter(id=1), Voter(id=2)]), "of 2 voters, 2 answer, and a majority is 2"),
        (
            lambda it: replace(it, voters=[Voter(id=1), Voter(id=2), Voter(id=3, unreachable="x")]),
            "of 3 voters, 2 answer, and a majority is 2",
        ),
        (
            lambda it: replace(it, voters=[Voter(id=1), Voter(id=2, witness=True), Voter(id=3, witness=True)]),
            "there is no other voter with data",
        ),
    ],
)
def test_it_is_refused(change: Callable[[Picture], Picture], reason: str) -> None:
    (objection,) = objections(change(HEALTHY))
    assert reason in objection


def test_one_node_alone_has_nobody_to_take_over() -> None:
    majority, heir = objections(replace(HEALTHY, voters=[Voter(id=1)], followers={}))
    assert "of 1 voter, 1 answer, and a majority is 1" in majority
    assert "there is no other voter with data" in heir


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda it: replace(it, leader=0), "there is no leader"),
        (
            lambda it: replace(it, voters=[Voter(id=1), Voter(id=2), Voter(id=3, unreachable="h:1: refused")]),
            "voter 3 does not answer: h:1: refused",
        ),
        (lambda it: replace(it, strangers=["h:9 is a node of another cluster"]), "h:9 is a node of another cluster"),
    ],
)
def test_something_is_not_there(change: Callable[[Picture], Picture], reason: str) -> None:
    assert absences(change(HEALTHY)) == [reason]
