"""Bugs that real Raft systems shipped (the numbers are those of docs/invariants.md): the core must not have them.

Bug 11 and the core's half of bug 2 are in test_persistence.py; those of membership changes and snapshots in
test_bugs_membership.py, those of leader leases in test_lease.py.
"""

from __future__ import annotations

import pytest

from raftkv.invariant import InvariantViolation
from raftkv.raft import Index, NodeId, Role, Term
from raftkv.raft.log import ENTRY_OVERHEAD_BYTES
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from tests.raft.network import Network
from tests.raft.single import (
    ELECTION_TICKS,
    HEARTBEAT_TICKS,
    ME,
    append,
    boot,
    candidate,
    drain,
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

# --- votes and terms --------------------------------------------------------------------------------------------------


def test_bug_01_vote_answered_before_it_is_persisted() -> None:
    """The bug: a vote was given, forgotten in a crash, and given again in the same term to somebody else."""
    network = Network()
    network.node(2).disk_is_slow = True
    network.isolate(3)
    network.start_campaign(1)
    network.settle()
    assert network[1].role is Role.CANDIDATE, "node 2's vote waits for its disk"

    network.crash(2)
    network.heal()
    network.restart(2)
    assert network[2].term == 0, "it has forgotten the vote, and nobody was told of it"


def test_bug_01_a_candidate_asks_for_votes_only_when_its_own_is_on_disk() -> None:
    """The same bug on the other side: a candidate that forgets its term wins it twice, with two different logs."""
    raft = pre_candidate(boot())
    raft.step(PreVoteResponse(sender=NodeId(2), receiver=ME, term=Term(1), granted=True))
    assert (raft.role, raft.term) == (Role.CANDIDATE, 1)
    assert drain(raft, disk=False) == []
    raft.step(granted(2, 1))
    assert raft.role is Role.CANDIDATE, "its own vote does not count yet"
    raft.persisted(1)
    assert raft.role is not Role.CANDIDATE, "now it does"


def test_bug_03_stepping_down_keeps_the_vote_of_the_term() -> None:
    """The bug: a candidate that returned to follower in the same term forgot that it had voted, and voted again."""
    for step_down in (heartbeat(2, 1), refused(2, 1)):
        raft = candidate(boot())
        hear(raft, step_down, refused(3, 1) if isinstance(step_down, VoteResponse) else step_down)
        assert (raft.role, raft.term) == (Role.FOLLOWER, 1)
        (answer,) = hear(raft, vote_request(3, 1, last=(1, 99)))
        assert isinstance(answer, VoteResponse)
        assert not answer.granted


def test_bug_04_an_answer_of_another_term_is_no_vote() -> None:
    """The bug: an answer of a higher term was adopted and then counted, as a vote for the old campaign."""
    raft = candidate(boot())
    hear(raft, granted(2, 7))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 7)
    raft = candidate(boot(term=4))
    hear(raft, granted(2, 4))
    assert (raft.role, raft.term) == (Role.CANDIDATE, 5), "nor is one of an earlier term"


def test_bug_05_two_leaders_in_one_term() -> None:
    """The bug: a restart between two votes of one term elected both candidates."""
    network = Network()
    network.cut = {(1, 3), (3, 1)}
    network.start_campaign(1)
    network.start_campaign(3)
    while network.queue:
        message = network.queue.popleft()
        if network.deliver(message) and message.receiver == 2:
            network.crash(2)
            network.restart(2)
    asked = [m.sender for m in network.delivered if isinstance(m, VoteRequest) and m.receiver == 2 and m.term == 1]
    assert sorted(set(asked)) == [1, 3], "the scene is not set: two candidates in one term"
    assert network.oracle.leader_of == {1: asked[0]}


def test_bug_06_counting_replicas_of_an_earlier_term() -> None:
    """The bug: an entry of an earlier term was committed by counting. The whole of figure 8 is in test_paper.py."""
    raft = leader(boot([1, 2], term=4))
    hear(raft, AppendResponse(sender=NodeId(2), receiver=ME, term=raft.term, index=Index(2)))
    assert raft.log.commit == 0
    hear(raft, AppendResponse(sender=NodeId(2), receiver=ME, term=raft.term, index=Index(3)))
    assert raft.log.commit == 3


def test_bug_07_pre_vote_with_peers_in_lower_and_higher_terms() -> None:
    """The bug: nodes whose terms differ refused each other's pre-votes for ever.

    Node 3 was a candidate in a term that the others never entered, and its log is too short to win. Node 1, in a lower
    term, must learn of that term and be elected above it.
    """
    network = Network()
    network.start_with(1, [1, 1])
    network.start_with(2, [1, 1])
    network.start_with(3, [1], term=8, vote=3)
    network.crash(2)
    assert network.wait_for_leader() == 1
    assert network[1].term > 8
    assert network[3].term == network[1].term


def test_bug_08_a_pre_vote_looks_at_the_log() -> None:
    """The bug: a node that could never win was granted pre-votes, and deposed the leader again and again."""
    (answer,) = hear(boot([1, 2]), pre_vote_request(2, 3, last=(1, 9)))
    assert isinstance(answer, PreVoteResponse)
    assert not answer.granted


def test_bug_09_pre_vote_and_check_quorum_do_not_lock_each_other() -> None:
    """The bug: a node in a higher term ignored the leader's heartbeats as stale, and the others ignored that node
    because they heard the leader: it was stuck for ever.
    """
    network = Network()
    network.start_with(3, [], term=9)
    network.partition([1, 2], [3])
    network.elect(1)
    assert network[1].term < 9
    network.heal()
    network.tick(5 * ELECTION_TICKS)
    leader_id = network.wait_for_leader()
    assert network[leader_id].term > 9
    assert [(network[n].term, network[n].leader) for n in network.nodes] == [(network[leader_id].term, leader_id)] * 3


def test_bug_10_a_node_that_comes_back_does_not_disrupt() -> None:
    """The bug: a node that was cut off campaigned in ever higher terms and deposed a working leader on its return."""
    network = Network(size=5)
    network.elect(1)
    network.cut = {(other, 5) for other in network.nodes}  # it can speak, but hears nothing
    network.tick(20 * ELECTION_TICKS)
    network.heal()
    network.tick(5 * ELECTION_TICKS)
    assert [(network[n].term, network[n].leader) for n in network.nodes] == [(1, 1)] * 5


# --- log and commit ---------------------------------------------------------------------------------------------------


def test_bug_12_next_is_above_match() -> None:
    """The bug: a late refusal took nextIndex below matchIndex, and the leader sent what was acknowledged long ago."""
    raft = leader(boot([1, 1, 1]))
    peer = NodeId(2)
    hear(raft, AppendResponse(sender=peer, receiver=ME, term=raft.term, index=Index(4)))
    for late in range(4):
        hear(
            raft,
            AppendResponse(sender=peer, receiver=ME, term=raft.term, rejected=True, index=Index(late)),
        )
        raft.unreachable(peer)
    raft.propose(b"x")
    sent = [m for m in drain(raft) if isinstance(m, AppendRequest) and m.receiver == peer]
    assert [m.previous_index for m in sent] == [4]


def test_bug_13_an_append_without_its_predecessor_is_never_sent() -> None:
    """The bug: the leader could not read the entry before the next one and sent the append as if at the log's start.

    Here a term that is not in the log is None, never 0, and such a follower waits for a snapshot instead.
    """
    raft = boot([1, 1])
    assert raft.log.term(Index(3)) is None
    assert raft.log.term(Index(0)) == 0
    assert not raft.log.matches(Index(3), Term(0))
    (answer,) = hear(raft, append(2, 1, (0, 5), 1))
    assert isinstance(answer, AppendResponse)
    assert answer.rejected, "an append behind an entry that nobody has"


def test_bug_14_entries_larger_than_a_message_arrive_whole_and_alone() -> None:
    """The bug: an append above the size limit was cut in the middle, or never sent."""
    network = Network(max_append_bytes=200)
    network.elect(1)
    network.isolate(3)
    for size in (10, 5000, 10, 10):
        network.propose(1, bytes(size))
    network.heal()
    network.delivered.clear()
    network.tick(2 * HEARTBEAT_TICKS)
    sizes = [
        [len(e.data) for e in m.entries]
        for m in network.delivered
        if isinstance(m, AppendRequest) and m.receiver == 3 and m.entries
    ]
    assert sizes == [[10], [5000], [10, 10]]
    assert 2 * (10 + ENTRY_OVERHEAD_BYTES) <= 200, "the last two fit"
    assert network.applied_data(3) == network.applied_data(1)


def test_bug_15_an_old_append_truncates_nothing_that_matches() -> None:
    """The bug: everything behind prevLogIndex was deleted first, acknowledged entries included."""
    raft = boot()
    first, second = append(2, 1, (0, 0), 1), append(2, 1, (1, 1), 1, 1)
    hear(raft, first, second)
    (answer,) = hear(raft, first)
    assert raft.log.last_index == 3
    assert isinstance(answer, AppendResponse)
    assert answer.index == 1, "and it acknowledges only what that request held"


def test_bug_16_a_truncation_below_commit_stops_the_node() -> None:
    """The bug: a faulty leader (or message) could take back what was committed. It cannot happen; if it does, stop."""
    raft = boot([1, 1, 1], commit=2)
    with pytest.raises(InvariantViolation, match="entry 2 would replace a committed one"):
        raft.step(append(2, 2, (1, 1), 2))


def test_bug_17_whoever_waits_for_a_proposal_learns_its_fate() -> None:
    """The bug: a waiter hung when its entry was replaced (or compacted) before it was seen to be applied.

    The core tells the position at once and every change of role and term; the entry applied at that index settles it.
    Compaction does not exist yet.
    """
    network = Network()
    network.elect(1)
    network.isolate(1)
    position = network.propose(1, b"lost")
    network.tick(3 * ELECTION_TICKS, only=[2, 3])
    winner = network.wait_for_leader()
    network.propose(winner, b"won")
    told: list[tuple[Role, int]] = []
    network.heal()
    for _ in range(3 * ELECTION_TICKS):
        network.tick()
        told.append((network[1].role, network[1].term))
    applied = network.node(1).applied[position.index - 1]
    assert applied.index == position.index
    assert applied.term > position.term, "another entry is there: the proposal had no effect"
    assert told[-1][0] is Role.FOLLOWER
    assert told[-1][1] > position.term


# --- storage, the core's half -----------------------------------------------------------------------------------------


def test_bug_32_a_single_node_commits_nothing_before_its_disk_has_it() -> None:
    """The bug: on a single node, where no follower is waited for, a write was acknowledged before it was durable."""
    network = Network(size=1)
    network.elect(1)
    network.node(1).disk_is_slow = True
    position = network.propose(1, b"x")
    assert network[1].log.commit < position.index
    assert network.applied_data(1) == []
    network.flush(1)
    assert network.applied_data(1) == [b"x"]


# --- reads and leases -------------------------------------------------------------------------------------------------


def test_bug_40_no_read_before_a_commit_in_the_own_term() -> None:
    """The bug: a new leader served reads at its old commit index, below what its predecessor had acknowledged."""
    network = Network()
    network.elect(1)
    network.drop = lambda m: isinstance(m, HeartbeatRequest) and m.receiver == 2
    network.propose(1, b"acknowledged")  # node 2 has the entry, but not the news that it is committed
    committed = network[1].log.commit
    assert network[2].log.commit < committed <= network[2].log.last_index

    network.crash(1)
    network.drop = lambda m: isinstance(m, AppendRequest)  # its no-op reaches nobody
    network.elect(2)
    network.read(2)
    network.tick(2 * HEARTBEAT_TICKS)
    assert network.node(2).reads == [], "heartbeats alone confirm nothing yet"

    network.heal()
    network.tick(2 * HEARTBEAT_TICKS)
    (read,) = network.node(2).reads
    assert read.index >= committed


def test_bug_40_nor_after_a_transfer() -> None:
    """The bug: the target of a transfer trusted what the old leader had told it."""
    network = Network()
    network.elect(1)
    network.propose(1, b"x")
    network.tick(HEARTBEAT_TICKS)
    network.drop = lambda m: isinstance(m, AppendRequest) and m.term > 1
    assert network.transfer(1, 2) is None
    assert network[2].role is Role.LEADER
    network.read(2)
    network.tick(HEARTBEAT_TICKS)
    assert network.node(2).reads == []


def test_bug_41_an_answer_to_an_earlier_round_confirms_no_later_read() -> None:
    """The bug: a retried read used the id of the first try, and the answer to the first confirmed the second."""
    raft = leader(boot())
    term = raft.term
    hear(raft, AppendResponse(sender=NodeId(2), receiver=ME, term=term, index=Index(1)))

    def answer(sequence: int) -> HeartbeatResponse:
        return HeartbeatResponse(sender=NodeId(2), receiver=ME, term=term, read_sequence=sequence)

    raft.read_index(7)
    first = max(m.read_sequence for m in drain(raft) if isinstance(m, HeartbeatRequest))
    raft.step(answer(first))
    ready = raft.ready()
    assert ready is not None
    assert [read.request for read in ready.reads] == [7]

    raft.read_index(7)  # the same number, another read
    second = max(m.read_sequence for m in drain(raft) if isinstance(m, HeartbeatRequest))
    assert second > first
    raft.step(answer(first))
    late = raft.ready()
    assert late is None or late.reads == ()
    raft.step(answer(second))
    ready = raft.ready()
    assert ready is not None
    assert [read.request for read in ready.reads] == [7]


def test_bug_42_a_deposed_leader_confirms_no_read() -> None:
    """The bug: a leader on the wrong side of a partition answered from its own state."""
    network = Network()
    network.elect(1)
    network.isolate(1)
    network.tick(4 * ELECTION_TICKS, only=[2, 3])
    (newer,) = [n for n in (2, 3) if network.role(n) is Role.LEADER]
    network.propose(newer, b"newer")
    assert network.role(1) is Role.LEADER, "it has not noticed"

    request = network.read(1)
    network.tick(2 * ELECTION_TICKS, only=[1])
    assert network.node(1).reads == []
    assert network.node(1).reads_dropped == [request]


def test_bug_43_timeout_now_of_an_earlier_term_is_ignored() -> None:
    """The bug: TimeoutNow made a node lead while another's lease still ran. There are no leases; but a late TimeoutNow
    of an earlier leader must not disturb the present one.
    """
    raft = boot()
    hear(raft, append(2, 4, (0, 0), 4))
    hear(raft, TimeoutNow(sender=NodeId(3), receiver=ME, term=Term(3)))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 4)
    asked = hear(raft, TimeoutNow(sender=NodeId(2), receiver=ME, term=Term(4)))
    assert {m.leadership_transfer for m in asked if isinstance(m, VoteRequest)} == {True}


def test_bug_43_only_a_vote_request_of_a_transfer_passes_the_stickiness() -> None:
    """What a lease will rest on: nobody who hears a leader votes for another one, unless the leader asked for it."""
    raft = boot()
    hear(raft, append(2, 4, (0, 0), 4))
    tick(raft, ELECTION_TICKS - 1)
    assert hear(raft, vote_request(3, 5, last=(4, 1))) == []
    assert hear(raft, vote_request(3, 5, last=(4, 1), transfer=True)) != []
