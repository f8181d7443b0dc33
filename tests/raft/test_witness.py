"""Witnesses: they vote and hold (term, index), never data; two data nodes and a witness survive the loss of either."""

from __future__ import annotations

import itertools

import pytest

from raftkv.raft import Configuration, EntryKind, Index, NodeId, Role, replication
from raftkv.raft.messages import AppendRequest, AppendResponse, InstallSnapshot
from raftkv.raft.quorum import committed_index, durable_on, has_quorum
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, Group, change, ids
from tests.raft.test_quorum import subsets

PATIENCE = ELECTION_TICKS + 2 * HEARTBEAT_TICKS


def two_and_a_witness() -> Group:
    group = Group(3, witnesses=[3])
    group.elect(1)
    group.propose(1, b"first")
    return group


def held_by(nodes: frozenset[NodeId]) -> dict[NodeId, Index]:
    return dict.fromkeys(nodes, Index(1))


SHAPES = [
    Configuration(ids(*range(1, size + 1)), witnesses=ids(*range(size + 1 - witnesses, size + 1)))
    for size in range(2, 6)
    for witnesses in range(1, size)
]


@pytest.mark.parametrize("configuration", SHAPES, ids=str)
def test_what_is_committed_is_held_by_a_quorum_and_by_data(configuration: Configuration) -> None:
    """For every set of holders and every set of excused nodes."""
    data = configuration.voters - configuration.witnesses
    for holders, excused in itertools.product(subsets(configuration.voters), subsets(data)):
        if committed_index(configuration, held_by(holders), excused) == 1:
            assert has_quorum(configuration, holders), "Raft's own rule"
            assert holders & data, "somebody has the data"
            assert len(holders & data) * 2 > len(configuration.voters) or data - excused <= holders


@pytest.mark.parametrize("configuration", SHAPES, ids=str)
def test_with_all_data_nodes_well_no_single_loss_loses_what_is_committed(configuration: Configuration) -> None:
    data = configuration.voters - configuration.witnesses
    for holders in subsets(configuration.voters):
        if committed_index(configuration, held_by(holders)) == 1 and len(data) > 1:
            assert all((holders - {lost}) & data for lost in data)


def test_the_rule_of_two_data_nodes_and_a_witness() -> None:
    configuration = Configuration(ids(1, 2, 3), witnesses=ids(3))
    committed = {
        (holders, excused): committed_index(configuration, held_by(holders), excused) == 1
        for holders in subsets(configuration.voters)
        for excused in (ids(), ids(2))
    }
    assert {holders for (holders, excused), yes in committed.items() if yes and not excused} == {
        ids(1, 2),
        ids(1, 2, 3),
    }
    assert {holders for (holders, excused), yes in committed.items() if yes and excused} == {
        ids(1, 2),
        ids(1, 3),
        ids(1, 2, 3),
    }


def test_a_joint_commit_follows_the_rule_in_both_halves() -> None:
    joint = Configuration(ids(1, 2, 3), outgoing=ids(1, 2, 4), witnesses=ids(3))
    assert committed_index(joint, held_by(ids(1, 3, 4))) == 0, "2 is well and lacks it"
    assert committed_index(joint, held_by(ids(1, 3, 4)), ids(2)) == 1
    assert committed_index(joint, held_by(ids(1, 3)), ids(2)) == 0, "no majority of {1, 2, 4}"
    assert committed_index(joint, held_by(ids(1, 2))) == 1


def test_durable_on_counts_no_witness() -> None:
    configuration = Configuration(ids(1, 2, 3), witnesses=ids(3))
    assert durable_on(configuration, {NodeId(1): Index(5), NodeId(2): Index(4), NodeId(3): Index(5)}) == (5, 4)


def test_a_witness_is_sent_no_payload_but_whole_configurations() -> None:
    group = two_and_a_witness()
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    entries = [
        entry
        for message in group.sent(AppendRequest, receiver=3)
        if isinstance(message, AppendRequest)
        for entry in message.entries
    ]
    assert {entry.data for entry in entries if entry.kind is EntryKind.COMMANDS} == {b""}
    assert group[3].configuration == group[1].configuration
    assert group[3].log.last_index == group[1].log.last_index
    assert group.data(2) == [b"first"]
    assert group[3].is_witness
    assert not group[1].is_witness


def test_a_witness_never_leads() -> None:
    group = two_and_a_witness()
    assert group[1].transfer(NodeId(3)) == "node 3 is a witness: it holds no data and never leads"
    group.crash(1)
    group.crash(2)
    group.tick(5 * ELECTION_TICKS)
    assert group.role(3) is Role.FOLLOWER
    assert group[3].leader is None
    assert group[3].term == 1


def test_a_witness_is_not_preferred_whatever_its_priority() -> None:
    group = Group(3, witnesses=[3], priorities={2: 1, 3: 5})
    group.elect(1)
    group.tick(2 * ELECTION_TICKS)
    assert group.role(2) is Role.LEADER, "the best of those that may lead"


@pytest.mark.parametrize("lost", [1, 2])
def test_the_loss_of_either_data_node_loses_nothing_and_stops_nothing(lost: int) -> None:
    group = two_and_a_witness()
    group.propose(1, b"second")
    group.crash(lost)
    leader = group.wait_for_leader()
    assert leader == 3 - lost
    group.propose(leader, b"third")
    group.tick(PATIENCE)
    assert group.data(leader) == [b"first", b"second", b"third"]
    group.propose(leader, b"fourth")
    assert group.data(leader)[-1] == b"fourth", "once it is excused, nobody waits for the dead one"


def test_what_is_stuck_is_committed_when_the_dead_node_is_excused() -> None:
    """No message says so: everything has been acknowledged by then."""
    group = two_and_a_witness()
    group.crash(2)
    index = group.propose(1, b"second")
    assert group[1].log.commit < index, "node 2 is well, as far as anybody knows"
    group.tick(PATIENCE)
    assert group[1].log.commit == index


def test_the_witness_alone_does_not_outlive_its_data() -> None:
    """Node 2 is dead, 1 goes on with the witness, then dies too: node 2 must not lead without what was acknowledged."""
    group = two_and_a_witness()
    group.crash(2)
    group.tick(PATIENCE)
    group.propose(1, b"second")
    assert group.data(1) == [b"first", b"second"]
    group.crash(1)
    group.restart(2)
    group.tick(5 * ELECTION_TICKS)
    assert group.role(2) is not Role.LEADER
    group.restart(1)
    leader = group.wait_for_leader()
    group.tick(PATIENCE)
    assert leader == 1
    assert group.data(2) == [b"first", b"second"]


def lose_the_leader_after_the_witness_might_have_got_ahead() -> Group:
    """The leader appends an entry that never reaches node 2, and dies. The entry was not acknowledged."""
    group = two_and_a_witness()
    group.drop = lambda message: isinstance(message, AppendRequest) and message.receiver == 2
    group.propose(1, b"reached nobody but, perhaps, the witness")
    group.tick(HEARTBEAT_TICKS)
    group.crash(1)
    group.heal()
    group.tick(10 * ELECTION_TICKS)
    return group


def test_a_witness_never_bars_the_last_data_node_from_office() -> None:
    """It gets an entry only when every data node that is well has it: with a longer log it would refuse its vote."""
    group = lose_the_leader_after_the_witness_might_have_got_ahead()
    assert group.role(2) is Role.LEADER
    group.propose(2, b"second")
    assert group.data(2) == [b"first", b"second"]


def test_control_a_witness_that_is_sent_everything_bars_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "send_limit", lambda state, peer: state.log.last_index)
    group = lose_the_leader_after_the_witness_might_have_got_ahead()
    assert group.role(2) is not Role.LEADER


def test_a_witness_gets_nothing_that_the_leader_could_lose() -> None:
    """Node 2 is dead. The leader crashes before an entry is on its disk: the witness must not be ahead of it then."""
    group = two_and_a_witness()
    group.crash(2)
    group.tick(PATIENCE)
    group.members[1].disk_is_slow = True
    group.propose(1, b"lost")
    assert group[3].log.last_index < group[1].log.last_index
    group.crash(1)
    group.members[1].disk_is_slow = False
    group.restart(1)
    assert group.wait_for_leader() == 1


def test_a_data_node_that_comes_back_holds_up_nobody_while_it_catches_up() -> None:
    group = two_and_a_witness()
    group.crash(2)
    group.tick(PATIENCE)
    for _ in range(8):
        group.propose(1, b"more")
    group.drop = lambda message: isinstance(message, AppendResponse) and message.sender == 2 and message.index > 5
    group.restart(2)
    group.tick(2 * HEARTBEAT_TICKS)
    index = group.propose(1, b"meanwhile")
    assert group[1].followers()[NodeId(2)].match < index - 3
    assert group[1].log.commit == index
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    group.drop = lambda message: message.receiver == 2
    index = group.propose(1, b"both again")
    assert group[1].log.commit < index, "caught up, it is counted on again"


def test_a_witness_that_lags_behind_the_log_needs_no_checkpoint() -> None:
    group = two_and_a_witness()
    group.crash(3)
    for _ in range(5):
        group.propose(1, b"more")
    group.tick(HEARTBEAT_TICKS)
    group.checkpoint(1)
    group.restart(3)
    group.tick(3 * HEARTBEAT_TICKS)
    assert group.sent(InstallSnapshot, receiver=3)
    group.propose(1, b"more")
    assert group[3].log.last_index == group[1].log.last_index
    assert group[3].is_witness, "the snapshot has the configuration"


def test_a_witness_joins_and_leaves() -> None:
    group = Group(2)
    group.elect(1)
    group.start_empty(3)
    group.change(1, change(witnesses=[3]))
    group.tick(2 * HEARTBEAT_TICKS)
    assert group[1].configuration.witnesses == ids(3)
    assert group[3].is_witness
    group.propose(1, b"with it")
    group.change(1, change(remove=[3]))
    assert group[1].configuration.witnesses == ids()
    index = group.propose(1, b"without it")
    assert group[1].log.commit == index


def test_a_witness_that_leaves_is_sent_no_payload_to_the_end() -> None:
    group = two_and_a_witness()
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    group.members[2].disk_is_slow = group.members[4].disk_is_slow = True
    group.begin(1, change(promote=[4], remove=[3]))
    group.flush(2)
    group.flush(4)
    group.settle()
    assert group[1].configuration.witnesses == ids()
    assert group.changing(1)
    group.propose(1, b"secret")
    entries = [
        entry
        for message in group.sent(AppendRequest, receiver=3)
        if isinstance(message, AppendRequest)
        for entry in message.entries
    ]
    assert b"secret" not in {entry.data for entry in entries}


def test_a_witness_joins_only_where_the_others_are_a_quorum_without_it() -> None:
    """It has never answered: it may not be there at all."""
    group = Group(1)
    group.elect(1)
    assert "the cluster would stop" in group.refuses(1, change(witnesses=[2]))
