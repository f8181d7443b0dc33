"""Whether a node should lead (`raftkv.raft.Fitness`): slow and full disks, and states that are not to be trusted."""

from __future__ import annotations

import pytest

from raftkv.raft import Fitness, Message, NodeId, Role, transfer
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatResponse, TimeoutNow
from raftkv.raft.state import RaftState
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, Group, change


def settled(voters: int = 3, **priorities: int) -> Group:
    """A group that node 1 leads, and whose members have all answered."""
    group = Group(voters, priorities={int(name[1:]): priority for name, priority in priorities.items()})
    group.elect(1)
    group.propose(1)
    group.tick(2 * HEARTBEAT_TICKS)
    return group


def led_by(group: Group) -> list[int]:
    return [node for node, member in group.members.items() if member.up and member.raft.role is Role.LEADER]


@pytest.mark.parametrize("fitness", [Fitness.HINDERED, Fitness.BARRED])
def test_a_leader_that_should_not_lead_hands_over_to_a_fit_voter(fitness: Fitness) -> None:
    group = settled()
    group[2].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    group[1].set_fitness(fitness)
    group.tick(2)
    assert led_by(group) == [3]
    assert group[3].term == 2, "in one step, without waiting for an election timeout"
    group.tick(6 * ELECTION_TICKS)
    assert led_by(group) == [3]
    group.propose(3, b"after")
    group.tick()
    assert b"after" in group.data(1), "it stores entries as ever"


def test_a_leader_with_a_disk_that_hangs_hands_over() -> None:
    """Its own disk confirms nothing: neither entries nor the next term."""
    group = settled()
    group.members[1].disk_is_slow = True
    group.propose(1, b"by the others")
    group[1].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    assert led_by(group) in ([2], [3])
    assert group.members[1].writes, "the disk still hangs"
    group.propose(led_by(group)[0], b"later")
    group.tick()
    assert b"later" in group.data(5 - led_by(group)[0])


def test_a_hindered_leader_stays_where_nobody_is_fit_and_hands_over_as_soon_as_somebody_is() -> None:
    group = settled()
    for node in (3, 2, 1):
        group[node].set_fitness(Fitness.HINDERED)
        group.tick(2 * HEARTBEAT_TICKS)
    group.tick(4 * ELECTION_TICKS)
    assert led_by(group) == [1]
    group[2].set_fitness(Fitness.FIT)
    group.tick(2 * HEARTBEAT_TICKS)
    assert led_by(group) == [2]


def test_a_hindered_leader_waits_for_a_fit_voter_that_lacks_committed_entries() -> None:
    group = settled()
    group[2].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    group.drop = lambda message: message.receiver == 3 and isinstance(message, AppendRequest)
    group.propose(1)
    group[1].set_fitness(Fitness.HINDERED)
    group.tick(3 * ELECTION_TICKS)
    assert led_by(group) == [1]
    assert not group.transferring(1), "proposals go on meanwhile"
    group.heal()
    group.tick(3 * HEARTBEAT_TICKS)
    assert led_by(group) == [3]


def test_a_hindered_leader_stays_where_no_quorum_answers_without_it() -> None:
    """Every commit needs its disk, and with a disk that hangs its vote for the next leader would never come."""
    group = settled()
    group.crash(2)
    group.tick(ELECTION_TICKS)
    group[1].set_fitness(Fitness.HINDERED)
    group.tick(3 * ELECTION_TICKS)
    assert led_by(group) == [1]
    assert not group.sent(TimeoutNow)
    group.restart(2)
    group.tick(2 * ELECTION_TICKS)
    assert led_by(group) in ([2], [3])


def entries_for(group: Group, node: int) -> int:
    requests = [one for one in group.sent(AppendRequest) if isinstance(one, AppendRequest)]
    return sum(len(request.entries) for request in requests if request.receiver == node)


def test_a_full_follower_is_sent_entries_only_while_no_quorum_answers_without_it() -> None:
    group = settled()
    group[2].set_full(True)
    group.tick(2 * HEARTBEAT_TICKS)
    assert not group[1].full_voters
    before = entries_for(group, 2)
    group.propose(1, b"by the others")
    group.tick(2 * ELECTION_TICKS)
    assert b"by the others" in group.data(3)
    assert entries_for(group, 2) == before
    group.crash(3)
    group.tick(2 * ELECTION_TICKS)
    assert list(group[1].full_voters) == [2]
    assert b"by the others" in group.data(2)
    group.propose(1, b"by this one")
    group.tick(2 * HEARTBEAT_TICKS)
    assert b"by this one" in group.data(1)
    group.restart(3)
    group.tick(2 * HEARTBEAT_TICKS)
    assert not group[1].full_voters
    before = entries_for(group, 2)
    group.propose(1, b"later")
    group.tick(2 * HEARTBEAT_TICKS)
    assert entries_for(group, 2) == before
    group[2].set_full(False)
    group.tick(2 * HEARTBEAT_TICKS)
    assert b"later" in group.data(2)


def test_a_full_follower_that_is_to_lead_is_sent_what_it_lacks() -> None:
    group = settled()
    group[2].set_full(True)
    group.tick(2 * HEARTBEAT_TICKS)
    group.propose(1, b"k")
    assert group[1].transfer(NodeId(2)) is None
    group.tick(2 * HEARTBEAT_TICKS)
    assert led_by(group) == [2]


def test_without_a_quorum_that_answers_nobody_is_said_to_be_full() -> None:
    group = settled(5)
    group[2].set_full(True)
    group.tick(2 * HEARTBEAT_TICKS)
    for node in (3, 4, 5):
        group.crash(node)
    group.tick(ELECTION_TICKS - 1)
    assert not group[1].full_voters


def test_a_node_that_has_not_said_whether_it_is_fit_is_not_handed_leadership() -> None:
    group = Group(3)
    group.drop = lambda message: isinstance(message, HeartbeatResponse)
    group.elect(1)
    group.propose(1)
    group[1].set_fitness(Fitness.HINDERED)
    group.tick(ELECTION_TICKS // 2)
    assert led_by(group) == [1]
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    assert led_by(group) in ([2], [3])


def test_an_offer_that_is_not_taken_is_repeated_ever_more_seldom() -> None:
    """Each stops proposals for an election timeout."""
    group = settled()
    group.drop = lambda message: isinstance(message, TimeoutNow)
    group[1].set_fitness(Fitness.HINDERED)
    paused = 0
    for _ in range(30 * ELECTION_TICKS):
        group.tick()
        paused += group.transferring(1)
    assert led_by(group) == [1]
    assert 0 < paused <= 5 * ELECTION_TICKS


@pytest.mark.parametrize("hindered", [True, False])
def test_an_offer_that_was_never_taken_is_repeated_within_a_bounded_time(hindered: bool) -> None:
    """However long it was in vain: the voter may have come to itself since."""
    group = settled(n3=0 if hindered else 5)
    group.drop = lambda message: isinstance(message, TimeoutNow)
    if hindered:
        group[1].set_fitness(Fitness.HINDERED)
    group.tick(300 * ELECTION_TICKS)
    assert led_by(group) == [1]
    group.heal()
    group.tick((transfer.MOST_PATIENCE + 3) * ELECTION_TICKS)
    assert led_by(group) != [1]


def test_hindered_voters_are_passed_over_by_preference_and_by_transfers_without_a_name() -> None:
    group = settled(n3=5)
    group[3].set_fitness(Fitness.HINDERED)
    group.tick(6 * ELECTION_TICKS)
    assert led_by(group) == [1], "its priority does not count now"
    assert group[1].transfer() is None
    group.collect(1)
    group.settle()
    assert led_by(group) == [2]


def test_a_hindered_voter_takes_over_when_told_so_by_name_and_when_there_is_nobody_else() -> None:
    group = settled()
    for node in (2, 3):
        group[node].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    assert group[1].followers()[NodeId(2)].hindered
    assert group[1].transfer() == "no other voter that may lead has answered this leader yet"
    assert group[1].transfer(NodeId(2)) is None
    group.collect(1)
    group.settle()
    assert led_by(group) == [2]
    assert group[2].transfer(leaving=True) is None, "a node that stops takes whom there is ..."
    group.collect(2)
    group.settle()
    assert led_by(group) == [1], "... and the fit one first"


def test_a_hindered_voter_is_elected_where_no_other_can_be() -> None:
    """Availability first."""
    group = settled()
    group.crash(1)
    for node in (2, 3):
        group[node].set_fitness(Fitness.HINDERED)
    assert group.wait_for_leader() in (2, 3)


def test_a_hindered_follower_that_takes_nothing_in_is_sent_entries_ever_again_but_seldom() -> None:
    """A full disk drops them; a megabyte a heartbeat would be a lot for nothing."""

    def attempts(fitness: Fitness) -> int:
        group = settled()
        group[3].set_fitness(fitness)
        group.tick(2 * HEARTBEAT_TICKS)
        sent = 0

        def full(message: Message) -> bool:
            nonlocal sent
            dropped = message.receiver == 3 and isinstance(message, AppendRequest) and bool(message.entries)
            sent += dropped
            return dropped

        group.drop = full
        group.propose(1, b"x")
        group.tick(40 * ELECTION_TICKS)
        assert led_by(group) == [1]
        group.heal()
        group.tick(6 * ELECTION_TICKS)
        assert b"x" in group.data(3), "it gets them once there is room"
        return sent

    assert attempts(Fitness.FIT) > 100
    assert 5 <= attempts(Fitness.HINDERED) <= 25


# --- barred -----------------------------------------------------------------------------------------------------------


def test_a_barred_node_never_stands_for_election_and_votes() -> None:
    group = settled()
    group[2].set_fitness(Fitness.BARRED)
    group.crash(1)
    assert group.wait_for_leader() == 3, "by the vote of node 2"
    group.crash(3)
    group.restart(1)
    group[1].set_fitness(Fitness.BARRED)
    group.tick(20 * ELECTION_TICKS)
    assert led_by(group) == []
    assert {group.role(1), group.role(2)} == {Role.FOLLOWER}
    group[2].set_fitness(Fitness.FIT)
    assert group.wait_for_leader() == 2


def test_a_barred_node_does_not_stand_when_the_leader_tells_it_to() -> None:
    group = settled()
    group[2].set_fitness(Fitness.BARRED)
    assert group[1].transfer(NodeId(2)) is None
    group.collect(1)
    group.tick(2 * ELECTION_TICKS)
    assert group.sent(TimeoutNow, receiver=2)
    assert led_by(group) == [1]
    assert group[1].term == 1


def test_a_barred_leader_leaves_where_nobody_is_fit() -> None:
    group = settled()
    for node in (2, 3):
        group[node].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    group[1].set_fitness(Fitness.BARRED)
    group.tick()
    assert led_by(group) == []
    assert group.wait_for_leader() in (2, 3)


def test_a_barred_leader_leaves_when_its_transfer_comes_to_nothing() -> None:
    group = settled()
    group.drop = lambda message: isinstance(message, TimeoutNow)
    group[1].set_fitness(Fitness.BARRED)
    group.tick(1)
    assert group.transferring(1)
    group.tick(ELECTION_TICKS)
    assert group.role(1) is Role.FOLLOWER
    assert group.wait_for_leader() in (2, 3)


def test_a_barred_leader_lets_a_laggard_catch_up_before_it_leaves() -> None:
    group = settled()
    group.drop = lambda message: isinstance(message, AppendResponse)
    group[1].propose(b"not confirmed")
    group.collect(1)
    group.settle()
    group[1].set_fitness(Fitness.BARRED)
    group.tick(1)
    assert led_by(group) == [1]
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    assert led_by(group) in ([2], [3])


def test_a_candidate_that_is_barred_gives_up() -> None:
    group = settled()
    group.isolate(2)
    while group.role(2) is not Role.PRE_CANDIDATE:
        group.tick()
    group[2].set_fitness(Fitness.BARRED)
    assert group.role(2) is Role.FOLLOWER
    assert group[2].fitness is Fitness.BARRED


def test_a_barred_only_voter_leads_no_more() -> None:
    group = settled(1)
    group[1].set_fitness(Fitness.BARRED)
    group.tick(5 * ELECTION_TICKS)
    assert led_by(group) == []


def test_a_removed_leader_asks_a_fit_voter_to_take_over() -> None:
    """Whoever is furthest may be hindered: a fit one comes first, and a hindered one before nobody."""
    group = settled()
    group[3].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    group.begin(1, change(remove=[1]))
    group.tick(2)
    assert [message.receiver for message in group.sent(TimeoutNow)] == [2]


def test_a_leader_that_leaves_prefers_one_that_has_all_that_is_committed_to_a_fit_one() -> None:
    group = settled()
    group[3].set_fitness(Fitness.HINDERED)
    group.tick(2 * HEARTBEAT_TICKS)
    group.drop = lambda message: message.receiver == 2 and isinstance(message, AppendRequest)
    group.propose(1, b"not at node 2")
    assert group[1].transfer(leaving=True) is None
    group.collect(1)
    group.settle()
    assert led_by(group) == [3]


def test_without_the_safeguard_a_hindered_leader_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above."""

    def careless(state: RaftState) -> None:
        pass

    monkeypatch.setattr(transfer, "relieve", careless)
    with pytest.raises(AssertionError):
        test_a_leader_that_should_not_lead_hands_over_to_a_fit_voter(Fitness.HINDERED)
    with pytest.raises(AssertionError):
        test_a_leader_with_a_disk_that_hangs_hands_over()
