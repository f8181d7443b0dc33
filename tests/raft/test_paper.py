"""The paper and the dissertation, section by section. Quotations are theirs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from raftkv.invariant import InvariantViolation
from raftkv.raft import (
    Configuration,
    EntryKind,
    Index,
    Message,
    NodeId,
    Position,
    Raft,
    RaftConfig,
    ReadState,
    Refusal,
    Role,
    Term,
)
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from tests.raft import sabotage
from tests.raft.network import Network
from tests.raft.oracle import SafetyViolation
from tests.raft.single import (
    ELECTION_TICKS,
    HEARTBEAT_TICKS,
    append,
    boot,
    candidate,
    granted,
    hear,
    heartbeat,
    leader,
    pre_candidate,
    pre_vote_request,
    refused,
    tick,
    vote_request,
)

Make = Callable[[], Raft]
ROLES: list[Make] = [boot, lambda: pre_candidate(boot()), lambda: candidate(boot()), lambda: leader(boot())]
ROLE_NAMES = ["follower", "pre-candidate", "candidate", "leader"]

# --- 5.1: terms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ROLES, ids=ROLE_NAMES)
def test_5_1_a_larger_term_is_adopted_in_every_role(make: Make) -> None:
    """5.1: "if one server's current term is smaller than the other's, then it updates its current term"."""
    raft = make()
    hear(raft, heartbeat(2, term=9))
    assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 9, 2)


@pytest.mark.parametrize("make", ROLES, ids=ROLE_NAMES)
@pytest.mark.parametrize("request_of", [heartbeat, vote_request, pre_vote_request])
def test_5_1_a_request_with_a_stale_term_is_rejected(make: Make, request_of: Callable[..., Message]) -> None:
    """5.1: "If a server receives a request with a stale term number, it rejects the request"."""
    raft = make()
    hear(raft, append(3, 5, (0, 0), 5))  # it knows term 5 now, and its leader
    before = (raft.role, raft.term, raft.leader, raft.log.last_index)
    answers = hear(raft, request_of(2, term=3), append(2, 3, (0, 0), 3, 3))
    assert [answer.term for answer in answers] == [5, 5], "whoever asks in an old term learns of the new one"
    for answer in answers:
        if isinstance(answer, AppendResponse):
            assert answer.rejected
        if isinstance(answer, VoteResponse | PreVoteResponse):
            assert not answer.granted
    assert (raft.role, raft.term, raft.leader, raft.log.last_index) == before


def test_5_1_a_leader_that_finds_its_term_out_of_date_steps_down() -> None:
    """5.1: "If a candidate or leader discovers that its term is out of date, it immediately reverts to follower"."""
    raft = leader(boot())
    hear(raft, HeartbeatResponse(sender=NodeId(2), receiver=NodeId(1), term=Term(7), read_sequence=0))
    assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 7, None)


# --- 5.2: leader election ---------------------------------------------------------------------------------------------


def test_5_2_a_server_begins_as_a_follower() -> None:
    assert boot().role is Role.FOLLOWER


def test_5_2_election_timeouts_are_drawn_from_a_fixed_interval() -> None:
    """5.2: "election timeouts are chosen randomly from a fixed interval", here [10, 19], and all of it."""
    drawn = set()
    for seed in range(200):
        raft = boot(seed=seed)
        drawn.add(next(count for count in itertools.count(1) if tick(raft) and raft.role is Role.PRE_CANDIDATE))
    assert drawn == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_5_2_heartbeats_keep_a_follower_from_campaigning() -> None:
    raft = boot()
    for _ in range(20):
        tick(raft, ELECTION_TICKS - 1)
        hear(raft, heartbeat(2, term=1))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 1)


def test_5_2_a_candidate_enters_a_new_term_votes_for_itself_and_asks_all_others() -> None:
    raft = pre_candidate(boot([1, 1], size=5))
    sent: list[Message] = []
    for voter in (2, 3):
        sent += hear(raft, PreVoteResponse(sender=NodeId(voter), receiver=NodeId(1), term=Term(2), granted=True))
    assert (raft.role, raft.term) == (Role.CANDIDATE, 2)
    requests = [message for message in sent if isinstance(message, VoteRequest)]
    assert [(r.receiver, r.term, r.last_term, r.last_index) for r in requests] == [(n, 2, 1, 2) for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_5_2_a_majority_of_the_full_cluster_wins(size: int) -> None:
    """5.2: "A candidate wins an election if it receives votes from a majority of the servers in the full cluster"."""
    others = [NodeId(i) for i in range(2, size + 1)]
    for answers in itertools.product([True, False], repeat=len(others)):
        raft = candidate(boot(size=size)) if size > 1 else boot(size=1)
        if size == 1:
            tick(raft, 2 * ELECTION_TICKS)
        votes_for, votes_against = 1, 0
        for voter, grants in zip(others, answers, strict=True):
            if raft.role is not Role.CANDIDATE:
                break
            hear(raft, granted(voter, raft.term) if grants else refused(voter, raft.term))
            votes_for, votes_against = votes_for + grants, votes_against + (not grants)
        if 2 * votes_for > size:
            assert raft.role is Role.LEADER
        elif 2 * votes_against >= size:
            assert raft.role is Role.FOLLOWER, "it can no longer win"
        else:
            assert raft.role is Role.CANDIDATE


def test_5_2_one_vote_a_term_first_come_first_served() -> None:
    """5.2: "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis"."""
    raft = boot(size=5)
    first, second, again = (hear(raft, vote_request(sender, term=3))[-1] for sender in (2, 3, 2))
    assert isinstance(first, VoteResponse)
    assert isinstance(second, VoteResponse)
    assert isinstance(again, VoteResponse)
    assert (first.granted, second.granted) == (True, False)
    assert again.granted, "the answer may have been lost"


def test_5_2_granting_a_vote_restarts_the_election_timer() -> None:
    """Figure 2, followers: only if the timeout elapses "without receiving AppendEntries RPC from current leader or
    granting vote to candidate" does a follower campaign; so voters give the one they chose time to win.
    """
    for seed in range(20):
        raft = boot([1], seed=seed)
        hear(raft, vote_request(2, 3, last=(0, 0)))  # its log is too old, but the term counts
        tick(raft, ELECTION_TICKS - 1)
        hear(raft, vote_request(3, 3, last=(1, 1)))
        tick(raft, ELECTION_TICKS - 1)
        assert raft.role is Role.FOLLOWER


def test_5_2_a_candidate_recognizes_a_leader_of_its_own_term() -> None:
    """5.2: "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes
    the leader as legitimate and returns to follower state".
    """
    raft = candidate(boot())
    hear(raft, heartbeat(2, term=raft.term))
    assert (raft.role, raft.leader) == (Role.FOLLOWER, 2)


def test_5_2_a_candidate_rejects_a_leader_of_an_older_term() -> None:
    raft = candidate(boot(term=5))
    hear(raft, heartbeat(2, term=5))
    assert (raft.role, raft.term) == (Role.CANDIDATE, 6)


def test_5_2_a_split_vote_ends_in_a_new_election() -> None:
    """5.2: "each candidate will time out and start a new election"; random timeouts keep them from splitting again."""
    network = Network(size=4)
    for node_id in (1, 2):
        network.start_campaign(node_id)
    while {network[1].role, network[2].role} != {Role.CANDIDATE}:
        network.deliver(next(m for m in network.queue if m.sender in (1, 2) or m.receiver in (1, 2)))
        network.queue.popleft()
    votes = {1: (1, 3), 2: (2, 4)}  # each candidate gets two of four votes
    network.drop = lambda m: isinstance(m, VoteRequest) and m.receiver not in votes[m.sender]
    network.settle()
    assert Role.LEADER not in {network[node_id].role for node_id in network.nodes}
    term = network[1].term
    network.heal()
    assert network[network.wait_for_leader()].term > term


def test_5_2_a_new_leader_sends_heartbeats_at_once_and_then_regularly() -> None:
    """5.2: "It then sends heartbeat messages to all of the other servers to establish its authority"."""
    raft = candidate(boot())
    at_once = [m.receiver for m in hear(raft, granted(2, raft.term)) if isinstance(m, HeartbeatRequest)]
    assert at_once == [2, 3]
    later = [m.receiver for m in tick(raft, HEARTBEAT_TICKS) if isinstance(m, HeartbeatRequest)]
    assert later == [2, 3]


def test_5_2_two_leaders_in_one_term_stop_the_node_that_sees_them() -> None:
    """5.2, election safety: it cannot happen; if it does, going on would make it worse."""
    raft = leader(boot())
    with pytest.raises(InvariantViolation, match="two leaders in term"):
        raft.step(heartbeat(2, term=raft.term))
    raft = boot()
    hear(raft, heartbeat(2, term=1))
    with pytest.raises(InvariantViolation, match="two leaders in term"):
        raft.step(heartbeat(3, term=1))


# --- 5.3: log replication ---------------------------------------------------------------------------------------------


def test_5_3_an_entry_is_committed_once_a_majority_stores_it_and_then_applied_everywhere() -> None:
    """5.3: "A log entry is committed once the leader that created the entry has replicated it on a majority"."""
    network = Network(size=5)
    network.elect(1)
    network.cut |= {(1, 4), (1, 5)}
    network.cut |= {(1, 3)}
    position = network.propose(1, b"x")
    assert network[1].log.commit < position.index, "two of five"
    network.cut.remove((1, 3))
    network.tick(HEARTBEAT_TICKS)
    assert network[1].log.commit == position.index, "three of five"
    network.heal()
    network.tick(2 * HEARTBEAT_TICKS)
    assert all(network.applied_data(node_id) == [b"x"] for node_id in network.nodes)


def test_5_3_a_follower_applies_no_more_than_the_leader_says_is_committed() -> None:
    raft = boot()
    hear(raft, append(2, 1, (0, 0), 1, 1, 1, commit=2))
    assert (raft.log.last_index, raft.log.commit, raft.log.applied) == (3, 2, 2)


def test_5_3_a_follower_takes_nothing_for_committed_that_the_request_does_not_cover() -> None:
    """Figure 2: commitIndex = min(leaderCommit, index of last *new* entry). What lies behind may be of another term."""
    raft = boot([1, 1, 1])
    hear(raft, append(2, 4, (1, 1), commit=3))
    assert (raft.log.last_index, raft.log.commit) == (3, 1)


@pytest.mark.parametrize(
    ("previous", "accepted"),
    [
        pytest.param((0, 0), True, id="the beginning always matches"),
        pytest.param((1, 1), True, id="matches in the middle"),
        pytest.param((2, 2), True, id="matches at the end"),
        pytest.param((3, 2), False, id="another term at that index"),
        pytest.param((2, 3), False, id="the log is shorter"),
    ],
)
def test_5_3_the_consistency_check(previous: tuple[int, int], accepted: bool) -> None:
    """5.3: "If the follower does not find an entry in its log with the same index and term, then it refuses"."""
    (answer,) = hear(boot([1, 2]), append(2, 3, previous))
    assert isinstance(answer, AppendResponse)
    assert answer.rejected is not accepted
    assert answer.index == previous[1]


@pytest.mark.parametrize(
    ("mine", "previous", "entries", "expected"),
    [
        ([1, 1], (1, 2), [3], [1, 1, 3]),
        ([1, 1], (1, 1), [2], [1, 2]),
        ([1, 1, 1], (0, 0), [2, 2], [2, 2]),
        ([1, 1, 1], (1, 1), [1], [1, 1, 1]),
        ([1, 1, 1], (1, 1), [1, 2], [1, 1, 2]),
        ([1, 1, 1], (1, 1), [], [1, 1, 1]),
    ],
)
def test_5_3_conflicting_entries_are_replaced_and_matching_ones_kept(
    mine: list[int], previous: tuple[int, int], entries: list[int], expected: list[int]
) -> None:
    """Figure 2, AppendEntries receiver, steps 3 and 4."""
    raft = boot(mine)
    hear(raft, append(2, 5, previous, *entries))
    assert [raft.log.term(Index(i)) for i in range(1, raft.log.last_index + 1)] == expected


FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("case", FIGURE_7)
@pytest.mark.parametrize("max_append_bytes", [1, 1 << 20], ids=["one entry a request", "many"])
def test_5_3_figure_7_a_leader_brings_every_follower_log_into_line(case: str, max_append_bytes: int) -> None:
    network = Network(size=3, max_append_bytes=max_append_bytes)
    network.start_with(1, [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], term=7)
    network.start_with(2, [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], term=7)
    network.start_with(3, FIGURE_7[case], term=7)
    network.isolate(3)  # in case (d) it would refuse its vote, and need not give it
    network.elect(1)
    network.heal()
    network.tick(2 * HEARTBEAT_TICKS)
    expected = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    assert [network.log_terms(node_id) for node_id in (1, 2, 3)] == [expected] * 3
    assert network[3].log.commit == 11
    refusals = [m for m in network.delivered if isinstance(m, AppendResponse) and m.rejected]
    assert len(refusals) <= 4, "one refused request a term of disagreement"


# --- 5.4.1: election restriction --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "granted_"),
    [
        pytest.param((3, 1), True, id="a later term beats a longer log"),
        pytest.param((2, 4), True, id="same term, longer"),
        pytest.param((2, 3), True, id="the same log"),
        pytest.param((2, 2), False, id="same term, shorter"),
        pytest.param((1, 9), False, id="an earlier term, however long"),
    ],
)
@pytest.mark.parametrize("kind", ["vote", "pre-vote"])
def test_5_4_1_votes_go_to_logs_that_are_at_least_as_up_to_date(
    last: tuple[int, int], granted_: bool, kind: str
) -> None:
    request = vote_request(2, 5, last) if kind == "vote" else pre_vote_request(2, 5, last)
    (answer,) = hear(boot([1, 2, 2]), request)
    assert isinstance(answer, VoteResponse | PreVoteResponse)
    assert answer.granted is granted_


# --- 5.4.2: committing entries from previous terms --------------------------------------------------------------------


def figure_8(network: Network) -> None:
    """Up to (c): node 1, leader of term 4, has replicated an entry of term 2 to a majority, but none of its own."""
    for node_id, terms in {1: [1, 2], 2: [1, 2], 3: [1], 4: [1], 5: [1, 3]}.items():
        network.start_with(node_id, terms, term=3, vote=5 if node_id == 5 else None)
    network.isolate(5)
    network.drop = lambda m: (
        isinstance(m, AppendRequest) and m.previous_index == 2 and network[m.receiver].log.last_index >= 2
    )
    network.elect(1)
    network.tick(10 * HEARTBEAT_TICKS, only=[1])
    holders = [node_id for node_id in network.nodes if network.log_terms(node_id)[1:2] == [2]]
    assert len(holders) >= 3, "the scene is not set"


def figure_8_d(network: Network) -> None:
    """(d): node 1 crashes, and node 5 is elected by nodes that hold the entry of term 2."""
    network.heal()
    network.crash(1)
    network.elect(5)


def test_5_4_2_figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting_replicas() -> None:
    network = Network(size=5, max_append_bytes=1)
    figure_8(network)
    assert network[1].log.commit < 2
    figure_8_d(network)
    network.restart(1)
    network.tick(4 * HEARTBEAT_TICKS)
    assert {tuple(network.log_terms(node_id)[:2]) for node_id in network.nodes} == {(1, 3)}


def test_5_4_2_figure_8_e_an_entry_of_the_current_term_commits_all_before_it() -> None:
    network = Network(size=5, max_append_bytes=1)
    figure_8(network)
    network.drop = lambda message: False
    network.tick(4 * HEARTBEAT_TICKS, only=[1])
    assert network[1].log.commit == 3
    network.heal()
    network.crash(1)
    with pytest.raises(AssertionError, match="was not elected"):
        network.elect(5)
    assert network.log_terms(network.wait_for_leader())[:3] == [1, 2, 4]


def test_5_4_2_control_without_the_commit_rule_figure_8_loses_a_committed_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotage.earlier_terms_are_committed_by_counting(monkeypatch)
    sabotage.without_the_cores_own_checks(monkeypatch)  # N5 sees it at once
    network = Network(size=5, max_append_bytes=1)
    figure_8(network)
    assert network[1].log.commit == 2, "the rule is not off"
    with pytest.raises(SafetyViolation, match="C4: node 5 leads term 5 without entry 2 of term 2"):
        figure_8_d(network)


def test_5_4_3_a_leader_has_every_entry_committed_before_it() -> None:
    """Figure 3, leader completeness: the node that missed the entry cannot win, however often it tries."""
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.propose(1, b"committed")
    network.heal()
    network.crash(1)
    with pytest.raises(AssertionError, match="was not elected"):
        network.elect(3)
    assert network.wait_for_leader() == 2


# --- 5.5, 5.6: crashes, timing ----------------------------------------------------------------------------------------


def test_5_5_requests_are_idempotent() -> None:
    """5.5: "If a follower receives an AppendEntries request that includes log entries already present in its log, it
    ignores those entries in the new request".
    """
    raft = boot()
    request = append(2, 1, (0, 0), 1, 1)
    first, second = hear(raft, request), hear(raft, request)
    assert first == second
    assert raft.log.last_index == 2


def test_5_5_a_restarted_follower_is_brought_up_to_date() -> None:
    network = Network()
    network.elect(1)
    network.crash(3)
    for number in range(20):
        network.propose(1, b"%d" % number)
    network.restart(3)
    network.tick(2 * HEARTBEAT_TICKS)
    assert network.applied_data(3) == network.applied_data(1) != []


def test_5_6_the_election_timeout_must_exceed_the_heartbeats() -> None:
    """5.6: broadcastTime << electionTimeout."""
    configuration = Configuration(frozenset({NodeId(1)}))
    with pytest.raises(InvariantViolation, match="must exceed two heartbeats"):
        RaftConfig(node_id=NodeId(1), configuration=configuration, election_ticks=10, heartbeat_ticks=5)


# --- 8: client interaction --------------------------------------------------------------------------------------------


def test_8_a_leader_commits_a_no_op_at_the_start_of_its_term() -> None:
    """Section 8: "each leader [commits] a blank no-op entry into the log at the start of its term"."""
    network = Network()
    network.start_with(1, [1, 1])
    network.start_with(2, [1, 1])
    network.elect(1)
    assert network[1].log.commit == 3
    assert [entry.kind for entry in network.node(1).applied][-1] is EntryKind.NOOP
    assert network.applied_data(1) == [b"1@1", b"2@1"], "it commits what earlier terms left behind"


def test_8_only_a_leader_takes_proposals() -> None:
    for make in ROLES[:3]:
        assert make().propose(b"x") is Refusal.NOT_LEADER
    assert isinstance(leader(boot()).propose(b"x"), Position)


# --- thesis 3.10: leadership transfer ---------------------------------------------------------------------------------


def test_thesis_3_10_the_target_takes_over_at_once() -> None:
    """3.10: without waiting for an election timeout, and although the others hear a leader."""
    network = Network(size=5)
    network.elect(1)
    network.tick(HEARTBEAT_TICKS)
    assert network.transfer(1, 3) is None
    assert (network[3].role, network[3].term, network[1].role) == (Role.LEADER, 2, Role.FOLLOWER)


def test_thesis_3_10_the_target_is_brought_up_to_date_first() -> None:
    """3.10 step 2: "The prior leader fully updates the target server's log to match its own"."""
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.propose(1, b"missed")
    network.heal()
    assert network.transfer(1, 3) is None
    assert network.role(3) is Role.FOLLOWER, "it lacks an entry"
    network.tick(HEARTBEAT_TICKS, only=[1])
    assert network.role(3) is Role.LEADER
    assert network.applied_data(3) == [b"missed"]


def test_thesis_3_10_meanwhile_the_leader_takes_no_proposals() -> None:
    """3.10 step 1: "The prior leader stops accepting new client requests"."""
    network = Network()
    network.elect(1)
    network.cut.add((1, 3))
    network.propose(1, b"x")
    network.transfer(1, 3)
    assert network[1].propose(b"y") is Refusal.TRANSFERRING


def test_thesis_3_10_a_transfer_that_takes_an_election_timeout_is_abandoned() -> None:
    """3.10: "If leadership transfer does not complete after about an election timeout, the prior leader aborts"."""
    network = Network()
    network.elect(1)
    network.cut.add((1, 3))
    network.propose(1, b"x")
    network.transfer(1, 3)
    ticks = 0
    while network[1].transferring:
        network.tick()
        ticks += 1
    assert ticks == ELECTION_TICKS
    assert isinstance(network[1].propose(b"y"), Position)


def test_thesis_3_10_asking_again_does_not_prolong_the_pause() -> None:
    """A client that repeats its request every few ticks must not stop all writes for good."""
    network = Network()
    network.elect(1)
    network.cut.add((1, 3))
    network.propose(1, b"x")
    for _ in range(ELECTION_TICKS):
        assert network.transfer(1, 3) is None
        network.tick()
    assert isinstance(network[1].propose(b"y"), Position)


@pytest.mark.parametrize(
    ("target", "why"), [(1, "is the leader already"), (9, r"not a voter of this cluster \(voters: 1, 2, 3\)")]
)
def test_thesis_3_10_an_impossible_transfer_is_refused_with_a_reason(target: int, why: str) -> None:
    network = Network()
    network.elect(1)
    network.tick(HEARTBEAT_TICKS)
    refusal = network.transfer(1, target)
    assert refusal is not None
    assert re.search(why, refusal)
    assert not network[1].transferring
    assert network[2].transfer(NodeId(1)) == "node 2 is not the leader"


def test_thesis_3_10_a_silent_node_is_no_target() -> None:
    network = Network(size=5)
    network.elect(1)
    network.crash(3)
    network.tick(ELECTION_TICKS)
    assert network.transfer(1, 3) == "node 3 has not answered the leader for an election timeout"
    assert network.transfer(1, None) is None
    assert network.wait_for_leader() in (2, 4, 5)


def test_thesis_3_10_without_a_target_the_most_caught_up_node_that_answers_takes_over() -> None:
    network = Network(size=5)
    network.elect(1)
    network.crash(5)
    network.tick(2 * HEARTBEAT_TICKS + 1)
    network.cut |= {(1, 4), (1, 3)}
    network.propose(1, b"x")  # only node 2 has it; node 5 has been silent for two heartbeats
    network.heal()
    assert network.transfer(1, None) is None
    assert network.role(2) is Role.LEADER

    network = Network(size=3)
    network.elect(1)
    network.crash(3)
    network.tick(2 * HEARTBEAT_TICKS + 2)
    assert network.transfer(1, None) is None
    assert network.role(2) is Role.LEADER, "node 3 has as much, but does not answer"


# --- thesis 4.2.3: disruptive servers ---------------------------------------------------------------------------------


def test_thesis_4_2_3_a_server_that_hears_a_leader_grants_no_vote_and_keeps_its_term() -> None:
    """4.2.3: "if a server receives a RequestVote request within the minimum election timeout of hearing from a current
    leader, it does not update its term or grant its vote".
    """
    raft = boot(size=5)
    hear(raft, heartbeat(2, term=1))
    tick(raft, ELECTION_TICKS - 1)
    assert hear(raft, vote_request(3, term=8)) == []
    assert raft.term == 1


def test_thesis_4_2_3_only_the_minimum_election_timeout_is_protected() -> None:
    """Even a node whose own timeout is longer votes once the leader has been silent for the minimum."""
    raft = next(raft for raft in (boot(seed=seed) for seed in itertools.count()) if _outlasts(raft))
    hear(raft, vote_request(3, term=8))
    assert raft.term == 8


def _outlasts(raft: Raft) -> bool:
    """Have it hear a leader, then nothing for election_ticks; whether it has not campaigned."""
    hear(raft, heartbeat(2, term=1))
    tick(raft, ELECTION_TICKS)
    return raft.role is Role.FOLLOWER


def test_thesis_4_2_3_a_leader_is_not_deposed_by_a_vote_request_either() -> None:
    raft = leader(boot())
    assert hear(raft, vote_request(3, term=8, last=(1, 9))) == []
    assert raft.role is Role.LEADER


def test_thesis_4_2_3_a_transfer_passes_the_protection() -> None:
    """4.2.3: "a special flag ... 'I have permission to disrupt the leader - it told me to!'"."""
    raft = boot(size=5)
    hear(raft, heartbeat(2, term=1))
    answers = hear(raft, vote_request(3, term=2, transfer=True))
    assert [a.granted for a in answers if isinstance(a, VoteResponse)] == [True]


# --- thesis 6.2: CheckQuorum ------------------------------------------------------------------------------------------


def test_thesis_6_2_a_leader_that_hears_no_quorum_for_an_election_timeout_steps_down() -> None:
    """6.2: "a leader steps down if an election timeout elapses without a successful round of heartbeats"."""
    network = Network(size=5)
    network.elect(1)
    network.tick(HEARTBEAT_TICKS)
    network.isolate(1)
    network.tick(ELECTION_TICKS - 1)
    assert network[1].role is Role.LEADER
    network.tick(2)
    assert (network[1].role, network[1].leader) == (Role.FOLLOWER, None)


def test_thesis_6_2_a_leader_that_hears_a_bare_quorum_stays() -> None:
    network = Network(size=5)
    network.elect(1)
    network.crash(4)
    network.crash(5)
    network.tick(10 * ELECTION_TICKS)
    assert (network[1].role, network[1].term) == (Role.LEADER, 1)


# --- thesis 6.4: read-only queries ------------------------------------------------------------------------------------


def test_thesis_6_4_a_read_needs_a_round_of_heartbeats_but_no_log_entry() -> None:
    network = Network()
    network.elect(1)
    network.propose(1, b"x")
    last = network[1].log.last_index
    request = network.read(1)
    assert [(read.request, read.index) for read in network.node(1).reads] == [(request, last)]
    assert network[1].log.last_index == last


def test_thesis_6_4_step_1_a_new_leader_first_commits_an_entry_of_its_term() -> None:
    raft = leader(boot([1, 1]))
    raft.read_index(7)
    assert raft.ready() is None, "no round may begin"
    no_op = 3
    ready_reads: list[ReadState] = []
    raft.step(AppendResponse(sender=NodeId(2), receiver=NodeId(1), term=raft.term, index=Index(no_op)))
    while (ready := raft.ready()) is not None:
        ready_reads += ready.reads
        for message in ready.messages:
            if isinstance(message, HeartbeatRequest) and message.receiver == 2 and message.read_sequence:
                raft.step(
                    HeartbeatResponse(
                        sender=NodeId(2), receiver=NodeId(1), term=raft.term, read_sequence=message.read_sequence
                    )
                )
    assert [(read.request, read.index) for read in ready_reads] == [(7, no_op)]


def test_thesis_6_4_step_3_without_a_quorum_no_read_is_confirmed() -> None:
    network = Network(size=5)
    network.elect(1)
    network.isolate(1)
    request = network.read(1)
    network.tick(2 * ELECTION_TICKS)
    assert network.node(1).reads == []
    assert network.node(1).reads_dropped == [request], "whoever waits must learn that it failed"


def test_thesis_6_4_reads_that_arrive_during_a_round_share_the_next_one() -> None:
    """6.4: "the leader can use a single round of heartbeats for any number of read-only queries it has accumulated"."""
    network = Network()
    network.elect(1)
    network.delivered.clear()
    for _ in range(50):
        network.read(1, settle=False)
    network.settle()
    assert len(network.node(1).reads) == 50
    assert len([m for m in network.delivered if isinstance(m, HeartbeatRequest)]) == 2 * 2


def test_thesis_6_4_a_read_on_a_follower_is_dropped_at_once() -> None:
    network = Network()
    network.elect(1)
    request = network.read(2)
    assert network.node(2).reads_dropped == [request]


# --- thesis 9.6: PreVote ----------------------------------------------------------------------------------------------


def test_thesis_9_6_a_partitioned_server_does_not_raise_its_term() -> None:
    """9.6: "a server that is partitioned ... will not be able to increase its term", so its return disturbs nobody."""
    network = Network()
    network.elect(1)
    network.isolate(3)
    network.tick(20 * ELECTION_TICKS)
    assert network[3].term == 1
    network.heal()
    network.tick(3 * ELECTION_TICKS)
    assert [network[node_id].term for node_id in network.nodes] == [1, 1, 1]
    assert network[1].role is Role.LEADER


def test_thesis_9_6_a_pre_vote_binds_nobody() -> None:
    raft = boot(size=5)
    answers = hear(raft, pre_vote_request(2, 1), pre_vote_request(3, 1))
    assert [a.granted for a in answers if isinstance(a, PreVoteResponse)] == [True, True]
    assert (raft.term, raft.role) == (0, Role.FOLLOWER)
    assert raft.ready() is None, "there is nothing to persist"


def test_thesis_9_6_a_server_that_hears_a_leader_refuses_pre_votes() -> None:
    raft = boot(size=5)
    hear(raft, heartbeat(2, term=1))
    (answer,) = hear(raft, pre_vote_request(3, 2))
    assert isinstance(answer, PreVoteResponse)
    assert not answer.granted


def test_thesis_9_6_a_pre_candidate_that_cannot_win_waits_for_the_next_timeout() -> None:
    raft = pre_candidate(boot())
    hear(
        raft,
        *(PreVoteResponse(sender=NodeId(n), receiver=NodeId(1), term=Term(0), granted=False) for n in (2, 3)),
    )
    assert (raft.role, raft.term) == (Role.FOLLOWER, 0)
    assert [m for m in tick(raft, 2 * ELECTION_TICKS) if isinstance(m, PreVoteRequest)]


# --- thesis 10.2.1: writing to the leader's disk in parallel ----------------------------------------------------------


def test_thesis_10_2_1_the_leader_sends_entries_before_its_own_disk_has_them() -> None:
    """10.2.1: "The leader can ... write to its disk in parallel with replicating to the followers"."""
    network = Network()
    network.elect(1)
    network.node(1).disk_is_slow = True
    position = network.propose(1, b"x")
    assert len(network.node(1).disk_log) < position.index
    assert network[1].log.commit == position.index, "a majority of followers is enough: 2 and 3 have it on disk"
    assert network[1].log.applied < position.index, "but nothing is applied that its own log may lose"
    network.flush(1)
    assert network[1].log.applied == position.index


def test_thesis_10_2_1_the_leader_counts_itself_only_when_durable() -> None:
    network = Network()
    network.elect(1)
    network.crash(3)
    network.node(1).disk_is_slow = True
    position = network.propose(1, b"x")
    assert network[1].log.commit < position.index, "only node 2 has it on disk"
    network.flush(1)
    assert network[1].log.commit == position.index


def test_thesis_10_2_1_a_leader_that_loses_unsynced_entries_loses_nothing_committed() -> None:
    network = Network()
    network.elect(1)
    network.node(1).disk_is_slow = True
    network.propose(1, b"x")
    network.crash(1)
    network.node(1).disk_is_slow = False
    network.restart(1)
    assert network.log_terms(1) == [1], "the entry was never on its disk"
    network.wait_for_leader()
    network.tick(2 * HEARTBEAT_TICKS)
    assert network.applied_data(1) == [b"x"]


def test_thesis_10_2_1_ready_says_on_how_many_voters_each_entry_is_durable() -> None:
    network = Network(size=5)
    network.elect(1)
    network.tick(HEARTBEAT_TICKS)
    network.crash(5)
    network.node(4).disk_is_slow = True
    network.propose(1, b"x")
    assert network[1].durable_on() == (2, 2, 2, 1, 1)
    assert network[2].durable_on() == ()


def test_a_timeout_now_reaches_only_followers() -> None:
    """Thesis 3.10: a leader or candidate that is told to campaign does already what it can."""
    raft = leader(boot())
    term = raft.term
    hear(raft, TimeoutNow(sender=NodeId(2), receiver=NodeId(1), term=term))
    assert (raft.role, raft.term) == (Role.LEADER, term)


def test_what_was_said_before_a_crash_is_still_known_after_it() -> None:
    """Figure 2, persistent state: currentTerm, votedFor, log[]."""
    network = Network()
    network.elect(1)
    network.propose(1, b"x")
    before = (network[2].term, network.node(2).disk_hard_state.vote, network.log_terms(2))
    network.crash(2)
    network.restart(2)
    assert (network[2].term, network.node(2).disk_hard_state.vote, network.log_terms(2)) == before
