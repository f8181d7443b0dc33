"""Majorities, by enumeration of everything up to seven voters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from raftkv.invariant import InvariantViolation
from raftkv.raft import NO_MEMBERS, Configuration, Index, NodeId
from raftkv.raft.quorum import VoteResult, committed_index, durable_on, has_quorum, majority, vote_result

SIZES = range(1, 8)


def voters_of(size: int) -> frozenset[NodeId]:
    return frozenset(NodeId(i) for i in range(1, size + 1))


def subsets(voters: frozenset[NodeId]) -> Iterator[frozenset[NodeId]]:
    for count in range(len(voters) + 1):
        for chosen in itertools.combinations(sorted(voters), count):
            yield frozenset(chosen)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(size: int, expected: int) -> None:
    assert majority(size) == expected


@pytest.mark.parametrize("size", SIZES)
def test_any_two_quorums_share_a_voter(size: int) -> None:
    configuration = Configuration(voters_of(size))
    quorums = [nodes for nodes in subsets(configuration.voters) if has_quorum(configuration, nodes)]
    assert all(a & b for a, b in itertools.combinations_with_replacement(quorums, 2))


@pytest.mark.parametrize("size", SIZES)
def test_no_smaller_number_would_intersect(size: int) -> None:
    """The threshold is not higher than it must be: one voter less, and two disjoint or complementary sets decide."""
    smaller = [nodes for nodes in subsets(voters_of(size)) if len(nodes) == majority(size) - 1]
    assert any(not a & b for a, b in itertools.product(smaller, smaller))


@pytest.mark.parametrize("size", SIZES)
def test_a_quorum_survives_every_minority_of_failures(size: int) -> None:
    configuration = Configuration(voters_of(size))
    for failed in subsets(configuration.voters):
        assert has_quorum(configuration, configuration.voters - failed) == (2 * len(failed) < size)


@pytest.mark.parametrize("size", SIZES)
def test_strangers_count_for_nothing(size: int) -> None:
    configuration = Configuration(voters_of(size))
    strangers = {NodeId(i) for i in range(100, 120)}
    assert not has_quorum(configuration, strangers)
    assert vote_result(configuration, dict.fromkeys(strangers, True)) is VoteResult.PENDING
    assert committed_index(configuration, dict.fromkeys(strangers, Index(9))) == 0


@pytest.mark.parametrize("size", SIZES)
def test_an_election_is_decided_exactly_when_the_open_votes_cannot_change_it(size: int) -> None:
    configuration = Configuration(voters_of(size))
    for answers in itertools.product([True, False, None], repeat=size):
        votes = {NodeId(i): answer for i, answer in enumerate(answers, start=1) if answer is not None}
        missing = answers.count(None)
        best, worst = answers.count(True) + missing, answers.count(True)
        if 2 * worst > size:
            expected = VoteResult.WON
        elif 2 * best > size:
            expected = VoteResult.PENDING
        else:
            expected = VoteResult.LOST
        assert vote_result(configuration, votes) is expected, votes


@pytest.mark.parametrize("size", SIZES)
def test_durable_on_k_is_what_k_voters_hold(size: int) -> None:
    configuration = Configuration(voters_of(size))
    values = range(4 if size <= 5 else 3)
    for held in itertools.product(values, repeat=size):
        match = {NodeId(i): Index(index) for i, index in enumerate(held, start=1)}
        durable = durable_on(configuration, match)
        assert len(durable) == size
        for k, index in enumerate(durable, start=1):
            assert sum(h >= index for h in held) >= k, "fewer than k voters hold it"
            assert sum(h > index for h in held) < k, "k voters hold even more"


SOME = [frozenset(map(NodeId, nodes)) for nodes in ((1,), (1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (1, 2, 3, 4, 5))]


@pytest.mark.parametrize(("new", "old"), list(itertools.permutations(SOME, 2)))
def test_in_a_joint_configuration_durable_on_k_is_what_k_of_either_set_hold(
    new: frozenset[NodeId], old: frozenset[NodeId]
) -> None:
    """Or all of the smaller one; whichever set stays, nothing was claimed that it does not hold."""
    nodes = sorted(new | old)
    witnesses = frozenset(nodes[1:2]) if min(len(new), len(old)) > 1 else frozenset()
    learner = NodeId(9)
    configuration = Configuration(new, outgoing=old, learners=frozenset({learner}), witnesses=witnesses)
    keepers = [voters - witnesses for voters in (new, old)]
    for held in itertools.product(range(3), repeat=len(nodes)):
        match = {node: Index(index) for node, index in zip(nodes, held, strict=True)} | {learner: Index(7)}
        durable = durable_on(configuration, match)
        assert len(durable) == max(map(len, keepers))
        for k, index in enumerate(durable, start=1):
            for enough in (index, index + 1):
                holders = [sum(match[node] >= enough for node in voters) for voters in keepers]
                reached = all(count >= min(k, len(voters)) for count, voters in zip(holders, keepers, strict=True))
                assert reached == (enough == index), (match, k)


def test_a_learner_never_counts_as_a_copy() -> None:
    configuration = Configuration(voters_of(2), learners=frozenset({NodeId(3)}))
    assert durable_on(configuration, {NodeId(1): Index(4), NodeId(2): Index(1), NodeId(3): Index(9)}) == (4, 1)


@pytest.mark.parametrize("size", SIZES)
def test_the_committed_index_is_the_highest_that_a_quorum_holds(size: int) -> None:
    configuration = Configuration(voters_of(size))
    for held in itertools.product(range(3), repeat=size):
        match = {NodeId(i): Index(index) for i, index in enumerate(held, start=1)}
        committed = committed_index(configuration, match)
        assert has_quorum(configuration, {node for node, index in match.items() if index >= committed})
        assert not has_quorum(configuration, {node for node, index in match.items() if index > committed})


def test_a_voter_that_never_answered_holds_nothing() -> None:
    configuration = Configuration(voters_of(3))
    assert durable_on(configuration, {NodeId(2): Index(7)}) == (7, 0, 0)
    assert committed_index(configuration, {NodeId(2): Index(7)}) == 0


def test_a_configuration_with_members_needs_a_voter_that_holds_data() -> None:
    one = frozenset({NodeId(1)})
    with pytest.raises(InvariantViolation, match="at least one voter"):
        Configuration(frozenset(), learners=one)
    with pytest.raises(InvariantViolation, match="a voter that holds data"):
        Configuration(one, witnesses=one)


def test_a_node_that_joins_decides_nothing() -> None:
    assert not has_quorum(NO_MEMBERS, {NodeId(1)})
    assert committed_index(NO_MEMBERS, {NodeId(1): Index(5)}) == 0
    assert not NO_MEMBERS.may_lead(NodeId(1))
