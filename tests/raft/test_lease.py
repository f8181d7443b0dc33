"""Leader leases (thesis 6.4.1): what a leader may rest on, and what takes that away. Also hints and priorities."""

from __future__ import annotations

import random

import pytest

from raftkv.raft import HardState, Index, NodeId, Raft, RaftConfig, Role, Term
from raftkv.raft.messages import (
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteResponse,
)
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, LEASE_MS, Group
from tests.raft.single import ME, drain, heartbeat, pre_vote_request, tick, vote_request
from tests.raft.test_snapshots import THREE


def voter(*, leases: bool = True, settled: bool = True) -> Raft:
    """Node 1 of three, just started, or long after its start."""
    raft = Raft(
        RaftConfig(
            node_id=ME,
            configuration=THREE,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            lease_ms=LEASE_MS if leases else 0,
            quarantine_ticks=ELECTION_TICKS if leases else 0,
        ),
        hard_state=HardState(Term(5)),
        entries=(),
        applied=Index(0),
        rng=random.Random(1),
    )
    tick(raft, ELECTION_TICKS if settled else 0)
    return raft


def led_by_1(size: int = 3, **settings: object) -> Group:
    group = Group(size, leases=True, **settings)  # type: ignore[arg-type]
    group.tick(ELECTION_TICKS)
    group.elect(1)
    group.tick(HEARTBEAT_TICKS)
    return group


def leased(group: Group, node: int = 1) -> int:
    """The newest round that a lease of `node` may rest on; 0: none."""
    rounds = group[node].rounds
    return rounds[1] if rounds is not None else 0


def votes(raft: Raft, term: int, *, transfer: bool = False) -> bool:
    """Ask for the vote of `raft` for node 3. Return whether it is given."""
    raft.step(vote_request(3, term, transfer=transfer))
    answers = [message for message in drain(raft) if isinstance(message, VoteResponse)]
    return any(answer.granted for answer in answers)


def test_bug_42_a_lease_rests_on_a_quorum() -> None:
    group = led_by_1()
    rounds = group[1].rounds
    assert rounds is not None
    newest, confirmed = rounds
    assert newest == confirmed > 0
    group.isolate(1)
    group.tick(HEARTBEAT_TICKS)
    assert leased(group) == confirmed, "nobody has answered since"


def test_without_leases_there_are_none() -> None:
    group = Group(3)
    group.elect(1)
    assert group[1].rounds is None


def test_a_single_node_confirms_its_rounds_itself_and_serves_reads() -> None:
    group = led_by_1(1)
    assert leased(group) > 0
    group.tick(3 * HEARTBEAT_TICKS)
    group.read(1, 1)
    group.tick()
    assert 1 in group.members[1].reads


def test_reads_go_on_beside_the_rounds_of_leases() -> None:
    group = led_by_1()
    for request in range(1, 20):
        group.read(1, request)
        group.tick()
    assert set(group.members[1].reads) == set(range(1, 20))


@pytest.mark.parametrize("leases", [True, False])
def test_a_vote_is_refused_as_long_as_a_lease_may_rest_on_it(leases: bool) -> None:
    raft = voter(leases=leases)
    raft.step(heartbeat(2, 5))
    drain(raft)
    for _ in range(ELECTION_TICKS - 1):
        assert not votes(raft, 6)
        raft.tick()
    assert raft.term == 5
    raft.tick()
    assert votes(raft, 6)


def test_bug_43_it_is_refused_although_the_term_has_changed_meanwhile() -> None:
    """A late answer brings a new term, and with it the voter forgets its leader: it must not forget its promise."""
    raft = voter()
    raft.step(heartbeat(2, 5))
    raft.step(PreVoteResponse(sender=NodeId(3), receiver=ME, term=Term(6), granted=False))
    drain(raft)
    assert (raft.term, raft.leader) == (6, None)
    assert not votes(raft, 6)
    raft.step(pre_vote_request(3, 7))
    assert [m.granted for m in drain(raft) if isinstance(m, PreVoteResponse)] == [False]
    tick(raft, ELECTION_TICKS)
    assert votes(raft, 6) or votes(raft, 7)


def test_what_was_promised_in_an_earlier_life_holds_with_other_settings() -> None:
    """Leases are off now: hints count, and the timer may be over before the promise is."""
    raft = Raft(
        RaftConfig(
            node_id=ME,
            configuration=THREE,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            quarantine_ticks=3 * ELECTION_TICKS,
        ),
        hard_state=HardState(Term(5)),
        entries=(),
        applied=Index(0),
        rng=random.Random(1),
    )
    raft.step(heartbeat(2, 5))
    raft.suspect(NodeId(2))
    for _ in range(3 * ELECTION_TICKS - 1):
        raft.tick()
        assert raft.role is Role.FOLLOWER
        assert not votes(raft, 6)
    tick(raft, 2 * ELECTION_TICKS)
    assert raft.role is Role.PRE_CANDIDATE


def test_a_node_that_has_just_started_votes_for_nobody() -> None:
    group = led_by_1()
    group.crash(2)
    group.restart(2)
    group.isolate(1, 3)
    while group.role(3) is not Role.PRE_CANDIDATE:
        group[3].tick()
    for request in drain(group[3]):
        if request.receiver == 2:
            group[2].step(request)
    assert [m.granted for m in drain(group[2]) if isinstance(m, PreVoteResponse)] == [False]
    assert not votes(voter(settled=False), 6)


def test_a_transfer_may_ask_for_votes_at_once() -> None:
    raft = voter()
    raft.step(heartbeat(2, 5))
    drain(raft)
    assert votes(raft, 6, transfer=True)


def test_a_vote_once_given_is_given_again() -> None:
    """The answer may have been lost."""
    raft = voter()
    assert votes(raft, 6)
    assert votes(raft, 6)


def test_leases_ignore_hints() -> None:
    raft = voter()
    raft.step(heartbeat(2, 5))
    raft.suspect(NodeId(2))
    assert raft.leader == 2
    assert not votes(raft, 6)


def test_bug_40_no_lease_before_a_commit_in_the_own_term() -> None:
    group = Group(3, leases=True)
    group.drop = lambda message: isinstance(message, AppendResponse)
    group.tick(ELECTION_TICKS)
    for _ in range(10 * ELECTION_TICKS):
        group.tick()
        leaders = [node for node in (1, 2, 3) if group.role(node) is Role.LEADER]
        if leaders:
            break
    assert leaders
    group.tick(3 * HEARTBEAT_TICKS)
    assert leased(group, leaders[0]) == 0


def test_bug_41_no_lease_from_an_earlier_term_of_leadership() -> None:
    """Node 1 leads, hands over, leads again: its old rounds count for nothing."""
    group = led_by_1()
    assert leased(group) > 0
    assert group[1].transfer(NodeId(2)) is None
    group.collect(1)
    group.settle()
    assert group.role(2) is Role.LEADER
    assert group[1].rounds is None
    assert group[2].transfer(NodeId(1)) is None
    group.collect(2)
    group.drop = lambda message: isinstance(message, HeartbeatResponse)
    group.settle()
    assert group.role(1) is Role.LEADER
    assert group[1].log.matches(group[1].log.commit, group[1].term), "it might have a lease"
    assert leased(group) == 0


def test_bug_43_no_lease_while_a_transfer_is_under_way_nor_after_its_timeout_now_has_left() -> None:
    """The message may arrive at any time in this term."""
    group = led_by_1()
    group.drop = lambda message: isinstance(message, TimeoutNow)
    assert group[1].transfer(NodeId(2)) is None
    assert leased(group) == 0
    group.collect(1)
    group.settle()
    group.tick(ELECTION_TICKS + 1)
    assert group.role(1) is Role.LEADER
    assert not group.transferring(1)
    assert leased(group) == 0


def test_a_transfer_that_never_sent_timeout_now_leaves_the_lease() -> None:
    group = led_by_1()
    group.drop = lambda message: message.receiver == 2 and not isinstance(message, HeartbeatRequest)
    group.propose(1)
    assert group[1].transfer(NodeId(2)) is None
    assert leased(group) == 0, "it may leave at any moment"
    group.collect(1)
    group.tick(ELECTION_TICKS + 1)
    assert not group.transferring(1)
    assert leased(group) > 0


def test_a_round_that_is_no_lease_yet_is_numbered_all_the_same() -> None:
    """It is confirmed while a transfer is under way, and counts when that was given up: the driver has to know when it
    began, which was before its heartbeats left."""
    group = led_by_1()
    group.drop = lambda message: message.receiver == 2 and not isinstance(message, HeartbeatRequest)
    group.propose(1)
    assert group[1].transfer(NodeId(2)) is None
    group.collect(1)
    before = group[1].rounds
    assert before is not None
    during = before
    while group.transferring(1):
        during = group[1].rounds or before
        group.tick()
    assert during[0] > before[0]
    assert during[1] == 0
    assert leased(group) >= during[0]


def test_a_follower_that_promises_less_does_not_count() -> None:
    """Nodes are restarted one by one with another setting."""
    group = led_by_1()
    group.isolate(3)
    group.drop = lambda message: isinstance(message, HeartbeatResponse)
    group.tick(HEARTBEAT_TICKS)
    confirmed = leased(group)
    for promise, counts in ((0, False), (LEASE_MS - 1, False), (LEASE_MS, True)):
        newest = group[1].rounds
        assert newest is not None
        group[1].step(
            HeartbeatResponse(
                sender=NodeId(2), receiver=NodeId(1), term=group[1].term, read_sequence=newest[0], lease_ms=promise
            )
        )
        assert (leased(group) > confirmed) is counts


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hint_starts_a_pre_vote_early() -> None:
    raft = voter(leases=False)
    raft.step(heartbeat(2, 5))
    drain(raft)
    raft.suspect(NodeId(2))
    assert raft.leader is None
    assert any(isinstance(m, PreVoteRequest) for m in tick(raft, HEARTBEAT_TICKS))


def test_a_hint_never_skips_those_who_still_hear_the_leader() -> None:
    group = Group(3)
    group.elect(1)
    group[2].suspect(NodeId(1))
    group.cut |= {(1, 2), (2, 1)}
    group.tick(ELECTION_TICKS)
    assert group.role(1) is Role.LEADER
    assert group[3].leader == 1
    assert group[1].term == 1


def test_a_leader_that_is_alive_after_all_is_heard_again_for_a_whole_time_out() -> None:
    """The hint shortens one wait, not all that follow."""
    raft = voter(leases=False)
    raft.step(heartbeat(2, 5))
    drain(raft)
    raft.suspect(NodeId(2))
    raft.step(heartbeat(2, 5))
    drain(raft)
    tick(raft, ELECTION_TICKS - 1)
    assert (raft.role, raft.leader) == (Role.FOLLOWER, 2)


@pytest.mark.parametrize("peer", [1, 3, 9])
def test_a_hint_about_anybody_else_changes_nothing(peer: int) -> None:
    raft = voter(leases=False)
    raft.step(heartbeat(2, 5))
    drain(raft)
    raft.suspect(NodeId(peer))
    assert raft.leader == 2
    assert raft.ready() is None


def test_a_hint_to_a_leader_or_a_candidate_changes_nothing() -> None:
    group = Group(3)
    group.elect(1)
    group[1].suspect(NodeId(2))
    group[1].suspect(NodeId(1))
    assert group.role(1) is Role.LEADER
    group.crash(1)
    raft = group[2]
    while raft.role is not Role.PRE_CANDIDATE:
        raft.tick()
    raft.suspect(NodeId(1))
    assert raft.role is Role.PRE_CANDIDATE


def test_after_the_leaders_death_hints_elect_a_new_one_within_a_few_ticks() -> None:
    group = Group(3)
    group.elect(1)
    group.crash(1)
    group[2].suspect(NodeId(1))
    group[3].suspect(NodeId(1))
    group.tick(2 * HEARTBEAT_TICKS)
    assert Role.LEADER in {group.role(2), group.role(3)}


# --- priorities -------------------------------------------------------------------------------------------------------


def test_a_preferred_voter_is_given_leadership_when_it_is_caught_up() -> None:
    group = Group(3, priorities={3: 1})
    group.drop = lambda message: message.receiver == 3 and not isinstance(message, HeartbeatRequest)
    group.elect(1)
    group.propose(1)
    group.tick(3 * ELECTION_TICKS)
    assert group.role(1) is Role.LEADER, "node 3 lags"
    group.heal()
    group.tick(8 * ELECTION_TICKS)
    assert group.role(3) is Role.LEADER
    term = group[3].term
    group.tick(5 * ELECTION_TICKS)
    assert group[3].term == term, "and keeps it"


def test_equals_leave_leadership_where_it_is() -> None:
    group = Group(3, priorities={1: 1, 2: 1, 3: 1})
    group.elect(1)
    group.tick(5 * ELECTION_TICKS)
    assert group.role(1) is Role.LEADER
    assert group[1].term == 1


def test_a_preferred_voter_that_never_takes_over_is_offered_it_ever_more_seldom() -> None:
    """Each offer stops proposals for an election timeout."""
    group = Group(3, priorities={3: 1})
    group.drop = lambda message: isinstance(message, TimeoutNow)
    group.elect(1)
    paused = 0
    for _ in range(30 * ELECTION_TICKS):
        group.tick()
        paused += group.transferring(1)
    assert group.role(1) is Role.LEADER
    assert 0 < paused <= 5 * ELECTION_TICKS
