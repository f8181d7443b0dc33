"""Changes of the members: joint consensus (paper 6; thesis 4), learners, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raftkv.raft import NO_MEMBERS, Configuration, Entry, EntryKind, Index, Message, NodeId, Position, Role, Term
from raftkv.raft.configurations import Configurations
from raftkv.raft.membership import MembershipChange, decode_configuration, encode_configuration, left, plan
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatRequest, TimeoutNow
from raftkv.raft.quorum import has_quorum
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, Group, change, ids
from tests.raft.test_quorum import subsets


def led_by_1(voters: int = 3, **settings: Any) -> Group:
    group = Group(voters, **settings)
    group.elect(1)
    return group


def with_learner(group: Group, node: int = 4) -> Group:
    group.start_empty(node)
    group.change(1, change(learners=[node]))
    group.tick(HEARTBEAT_TICKS)
    return group


# --- configurations as values -----------------------------------------------------------------------------------------


def test_a_configuration_survives_its_encoding() -> None:
    for configuration in (
        NO_MEMBERS,
        Configuration(ids(1)),
        Configuration(ids(1, 2, 9), ids(1, 2, 3), ids(4), ids(2), ((NodeId(1), "a:1"), (NodeId(4), "b:2"))),
        Configuration(ids(1), removed=ids(2, 2**64 - 1)),
    ):
        assert decode_configuration(encode_configuration(configuration)) == configuration


def test_a_configuration_of_an_earlier_version_has_removed_nobody() -> None:
    data = b'{"voters":[1],"outgoing":[],"learners":[],"witnesses":[],"addresses":[]}'
    assert decode_configuration(data) == Configuration(ids(1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b'{"voters":[1]}',
        b'{"voters":[0],"outgoing":[],"learners":[],"witnesses":[],"addresses":[],"removed":[]}',
        b'{"voters":[true],"outgoing":[],"learners":[],"witnesses":[],"addresses":[],"removed":[]}',
        b'{"voters":[1],"outgoing":[],"learners":[1],"witnesses":[],"addresses":[],"removed":[]}',
        b'{"voters":[],"outgoing":[],"learners":[1],"witnesses":[],"addresses":[],"removed":[]}',
        b'{"voters":[1],"outgoing":[],"learners":[],"witnesses":[],"addresses":[1],"removed":[]}',
        b'{"voters":[1],"outgoing":[],"learners":[],"witnesses":[],"addresses":[],"removed":[],"more":1}',
        b"\xff",
    ],
)
def test_anything_else_is_no_configuration(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_configuration(data)


def test_a_change_of_voters_is_joint_and_a_change_of_learners_is_not() -> None:
    before = Configuration(ids(1, 2, 3), learners=ids(4, 5))
    joint = plan(before, change(promote=[4], remove=[2]), {})
    assert isinstance(joint, Configuration)
    assert (joint.voters, joint.outgoing, joint.learners) == (ids(1, 3, 4), ids(1, 2, 3), ids(5))
    assert left(joint) == Configuration(ids(1, 3, 4), learners=ids(5), removed=ids(2))
    simple = plan(before, change(learners=[6], remove=[5]), {})
    assert simple == Configuration(
        ids(1, 2, 3), learners=ids(4, 6), addresses=((NodeId(6), "host6:1"),), removed=ids(5)
    )


def test_every_change_keeps_quorums_that_meet() -> None:
    """Paper 6: no quorum of C_old and of C_old,new, nor of C_old,new and of C_new, misses the other.

    For every C_old and C_new of at most three out of four nodes: six nodes' worth of changes, also complete exchanges.
    """
    everybody = ids(1, 2, 3, 4)
    sets = [nodes for nodes in subsets(everybody) if 1 <= len(nodes) <= 3]

    def quorums(configuration: Configuration) -> list[frozenset[NodeId]]:
        return [nodes for nodes in subsets(everybody) if has_quorum(configuration, nodes)]

    checked = 0
    for old in sets:
        for new in sets:
            joint = Configuration(new, outgoing=old)
            for one, other in [
                (Configuration(old), joint),
                (joint, joint),
                (joint, left(joint)),
            ]:
                assert all(a & b for a in quorums(one) for b in quorums(other)), (one, other)
                checked += 1
    assert checked == 3 * 14 * 14


def test_without_the_joint_step_quorums_may_miss_each_other() -> None:
    """Control for the test above: this is why C_old,new exists (paper figure 10)."""
    assert has_quorum(Configuration(ids(1, 2, 3)), ids(1, 2))
    assert has_quorum(Configuration(ids(3, 4, 5)), ids(4, 5))


# --- what is refused (the bad input) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (change(), "the change is empty"),
        (change(learners=[2]), "node 2 is a member already (voter)"),
        (change(learners=[4]), "node 4 is a member already (learner)"),
        (change(witnesses=[3]), "node 3 is a member already (voter)"),
        (change(learners=[7, 7]), "a node is to join twice"),
        (change(learners=[7], witnesses=[7]), "a node is to join twice"),
        (change(learners=[0]), "0 is no node id: ids are 1 to 2**64 - 1"),
        (change(learners=[2**64]), "18446744073709551616 is no node id: ids are 1 to 2**64 - 1"),
        (change(promote=[9]), "node 9 is not a member: add it as a learner first"),
        (change(promote=[2]), "node 2 is a voter already"),
        (change(promote=[4], remove=[4]), "node 4 cannot be promoted and removed at once"),
        (change(remove=[9]), "node 9 is not a member (members: 1, 2, 3, 4)"),
        (
            change(remove=[1, 2, 3]),
            "the cluster would have no voter left that holds data: add and promote another one first",
        ),
    ],
)
def test_bad_changes_are_refused_precisely(request_: MembershipChange, reason: str) -> None:
    group = with_learner(led_by_1())
    assert group.refuses(1, request_) == reason


@pytest.mark.parametrize("comes_back_as", ["learners", "witnesses"])
def test_an_id_is_used_once(comes_back_as: str) -> None:
    """A witness's disk looks like one that is up to date: equal terms and indexes, and no data. A new disk under an old
    id has forgotten its votes."""
    group = with_learner(led_by_1())
    group.change(1, change(remove=[4]))
    assert group.refuses(1, change(**{comes_back_as: [4]})) == (
        "node 4 was removed, and an id is used once: give the node another id and an empty directory"
    )


def test_an_id_that_was_never_in_force_can_be_used() -> None:
    """The change that would have added it was rolled back, and the one that would have removed it."""
    group = with_learner(led_by_1())
    before = group[1].configuration
    group.isolate(1)
    assert isinstance(group[1].change_membership(change(remove=[4])), Position)
    assert group[1].configuration.removed == ids(4)
    group.elect(2)
    group.heal()
    group.tick(4 * ELECTION_TICKS)
    assert group[1].configuration == before


def test_two_nodes_cannot_share_an_address() -> None:
    group = with_learner(led_by_1())
    twice = MembershipChange(learners=((NodeId(7), "host2:1"),))
    assert group.refuses(1, twice) == "host2:1 is the peer address of node 2 already"
    same = MembershipChange(learners=((NodeId(7), "host7:1"), (NodeId(8), "host7:1")))
    assert group.refuses(1, same) == "host7:1 is the peer address of node 7 already"
    in_place = MembershipChange(learners=((NodeId(7), "host4:1"),), remove=ids(4))
    assert isinstance(group[1].change_membership(in_place), Position)


def test_the_last_voter_cannot_be_removed() -> None:
    group = led_by_1(1)
    assert group.refuses(1, change(remove=[1])).startswith("the cluster would have no voter left that holds data")


def test_the_last_data_node_cannot_be_removed_although_a_witness_stays() -> None:
    group = led_by_1(3, witnesses=[3])
    assert group.refuses(1, change(remove=[1, 2])).startswith("the cluster would have no voter left that holds data")


def test_a_learner_that_lags_is_not_promoted_and_is_once_it_has_caught_up() -> None:
    """Thesis 4.2.1."""
    group = with_learner(led_by_1())
    group.isolate(4)
    for _ in range(5):
        group.propose(1)
    assert group.refuses(1, change(promote=[4])) == "node 4 cannot be promoted yet: it lacks 5 entries, and may lack 3"
    group.tick(ELECTION_TICKS)
    assert "has not answered" in group.refuses(1, change(promote=[4]))
    group.heal()
    group.tick(3 * HEARTBEAT_TICKS)
    group.change(1, change(promote=[4]))
    assert group[4].configuration == group[1].configuration
    assert group[4].configuration.voters == ids(1, 2, 3, 4)


def test_a_learner_that_never_answered_is_not_promoted() -> None:
    group = led_by_1()
    group.start_empty(4)
    group.isolate(4)
    group.change(1, change(learners=[4]))
    assert "it has not answered" in group.refuses(1, change(promote=[4]))


def test_one_change_at_a_time() -> None:
    group = with_learner(led_by_1())
    group.isolate(2, 3)
    group.begin(1, change(promote=[4]))
    assert group.changing(1)
    assert group.refuses(1, change(remove=[2])).startswith("another change of the members is under way (entry ")
    group.heal()
    group.tick(3 * HEARTBEAT_TICKS)
    assert not group.changing(1)
    group.change(1, change(remove=[2]))


def test_only_the_leader_changes_members_and_not_during_a_transfer() -> None:
    group = led_by_1()
    assert group.refuses(2, change(learners=[4])) == "node 2 is not the leader"
    group.members[2].disk_is_slow = True
    assert group[1].propose(b"x")
    group.collect(1)
    assert group[1].transfer(NodeId(2)) is None
    group.settle()
    assert group.transferring(1)
    assert group.refuses(1, change(learners=[4])) == "leadership is being transferred to node 2"


def test_a_change_that_would_stop_the_cluster_is_refused() -> None:
    """Node 3 is dead; without node 2 nobody could commit, not even the way back."""
    group = led_by_1()
    group.crash(3)
    group.tick(2 * ELECTION_TICKS)
    assert "the cluster would stop" in group.refuses(1, change(remove=[2]))
    group.change(1, change(remove=[3]))
    assert group[1].configuration.voters == ids(1, 2)


def test_a_configuration_enters_the_log_by_change_membership_only() -> None:
    group = led_by_1()
    with pytest.raises(AssertionError, match="change_membership"):
        group[1].propose(encode_configuration(Configuration(ids(1))), EntryKind.CONFIGURATION)


def test_a_transfer_to_a_learner_a_stranger_or_a_dead_node_is_refused() -> None:
    group = with_learner(led_by_1())
    group.crash(3)
    group.tick(ELECTION_TICKS)
    reasons = {target: group[1].transfer(NodeId(target)) for target in (1, 3, 4, 9)}
    assert reasons == {
        1: "node 1 is the leader already",
        3: "node 3 has not answered the leader for an election timeout",
        4: "node 4 is a learner: promote it first",
        9: "node 9 is not a voter of this cluster (voters: 1, 2, 3)",
    }
    assert not group.transferring(1)


# --- what happens -----------------------------------------------------------------------------------------------------


def test_a_learner_is_sent_the_log_and_decides_nothing() -> None:
    """Thesis 4.2.1."""
    group = with_learner(led_by_1())
    group.isolate(2, 3)
    index = group.propose(1, b"not committed")
    assert group[4].log.last_index == index
    assert group[1].log.commit < index
    group.tick(2 * ELECTION_TICKS)
    assert group.role(1) is Role.FOLLOWER, "a learner's answers keep nobody in office"
    assert group.role(4) is Role.FOLLOWER, "nor does it campaign"


def test_a_cluster_grows_from_one_to_three_to_five_and_shrinks_again() -> None:
    group = led_by_1(1)
    written: list[bytes] = []

    def write() -> None:
        written.append(b"%d" % len(written))
        group.propose(1, written[-1])

    for joining in ([2, 3], [4, 5]):
        for node in joining:
            group.start_empty(node)
        write()
        group.change(1, change(learners=joining))
        write()
        group.change(1, change(promote=joining))
        write()
    assert group[1].voters == ids(1, 2, 3, 4, 5)
    for leaving in ([5, 4], [3, 2]):
        group.change(1, change(remove=leaving))
        write()
    assert group[1].voters == ids(1)
    assert group.data(1) == written


def test_three_members_are_replaced_at_once() -> None:
    """Paper 6: an arbitrary change in one step."""
    group = led_by_1()
    for node in (4, 5, 6):
        group.start_empty(node)
    group.change(1, change(learners=[4, 5, 6]))
    group.change(1, change(promote=[4, 5, 6], remove=[1, 2, 3]))
    leader = group.wait_for_leader()
    assert leader in (4, 5, 6)
    assert group[leader].configuration.voters == ids(4, 5, 6)
    group.propose(leader, b"after")
    group.tick(HEARTBEAT_TICKS)
    assert all(group.data(node) == [b"after"] for node in (4, 5, 6))


def test_both_majorities_are_needed_while_joint() -> None:
    """Paper 6: "agreement requires separate majorities from both the old and new configurations"."""
    group = led_by_1()
    for node in (4, 5):
        group.start_empty(node)
    group.change(1, change(learners=[4, 5]))
    group.isolate(4, 5)
    group.begin(1, change(promote=[4, 5], remove=[2, 3]))
    assert group[1].configuration.joint
    before = group[1].log.commit
    index = group.propose(1, b"needs 4 or 5 as well")
    assert group[1].log.commit == before
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    assert group[1].log.commit > index
    assert group[1].voters == ids(1, 4, 5)


def test_a_leader_that_is_removed_manages_the_cluster_until_c_new_is_committed() -> None:
    """Paper 6, thesis 4.2.2: it does not count itself, and steps down then."""
    group = led_by_1()
    group.members[2].disk_is_slow = True
    group.begin(1, change(remove=[1]))
    assert group.role(1) is Role.LEADER
    assert group[1].configuration.joint, "2 of 3, but 1 of the new 2"
    group.flush(2)
    group.settle()
    assert group[1].configuration == left(group[1].configuration)
    assert group[1].configuration.voters == ids(2, 3)
    assert group.changing(1)
    assert group.role(1) is Role.LEADER, "its own disk and node 3 have C_new: that is one of two"
    group.members[2].disk_is_slow = False
    group.flush(2)
    group.settle()
    assert group.role(1) is Role.FOLLOWER
    assert group.sent(TimeoutNow, sender=1), "nobody has to wait for an election timeout"
    assert {group.role(2), group.role(3)} == {Role.LEADER, Role.FOLLOWER}


def test_those_who_leave_are_sent_c_new_and_are_tracked_until_it_is_committed() -> None:
    group = led_by_1()
    group.members[2].disk_is_slow = True
    group.begin(1, change(remove=[3]))
    group.flush(2)
    group.settle()
    assert 3 in group[1].followers()
    assert group[3].configuration.voters == ids(1, 2), "it knows, and will not campaign"
    group.flush(2)
    group.settle()
    assert 3 not in group[1].followers()
    assert not group.changing(3), "it has been told that this is final"


def test_a_transfer_whose_target_leaves_is_over() -> None:
    """The change began before the transfer; its end removes the target, and must not leave the leader waiting."""
    group = led_by_1()
    group.members[2].disk_is_slow = True
    group.members[3].disk_is_slow = True
    group.begin(1, change(remove=[3]))
    assert group[1].transfer(NodeId(3)) == "node 3 is not a voter of this cluster (voters: 1, 2)"
    assert group[1].transfer(NodeId(2)) is None
    group.flush(2)
    group.settle()
    group.members[2].disk_is_slow = group.members[3].disk_is_slow = False
    group.flush(2)
    group.flush(3)
    group.tick(HEARTBEAT_TICKS)
    assert group.role(2) is Role.LEADER
    assert not group.transferring(1)


def test_c_old_new_of_a_dead_leader_is_finished_by_the_next_one() -> None:
    """Thesis 4.3: the change goes on wherever C_old,new survives."""
    group = with_learner(led_by_1())
    group.drop = lambda message: isinstance(message, AppendResponse)
    group.begin(1, change(promote=[4], remove=[1]))
    assert group[2].configuration.joint
    group.crash(1)
    group.heal()
    leader = group.wait_for_leader()
    group.tick(3 * HEARTBEAT_TICKS)
    assert group[leader].configuration.voters == ids(2, 3, 4)
    assert not group.changing(leader)


def c_new_only(message: Message) -> bool:
    """Whether a message carries C_new of a change."""
    return isinstance(message, AppendRequest) and any(
        entry.kind is EntryKind.CONFIGURATION and not decode_configuration(entry.data).joint
        for entry in message.entries
    )


def test_a_node_that_is_being_removed_may_have_to_lead_once_more() -> None:
    """Thesis 4.2.2: C_new is in its log only, and everybody else's log is too old to win."""
    group = Group(2)
    group.elect(2)
    group.drop = c_new_only
    group.begin(2, change(remove=[2]))
    assert group[1].configuration.joint
    assert group[2].configuration.voters == ids(1)
    group.crash(2)
    group.restart(2)
    group.drop = lambda message: False
    group.tick(10 * ELECTION_TICKS)
    assert group[1].configuration.voters == ids(1)
    assert group.role(1) is Role.LEADER
    assert group.role(2) is Role.FOLLOWER, "and then it is over"
    assert not group.changing(2)


def test_c_old_new_that_a_new_leader_knows_to_be_committed_is_left() -> None:
    group = with_learner(led_by_1())
    group.drop = c_new_only
    group.begin(1, change(promote=[4], remove=[3]))
    group.tick(HEARTBEAT_TICKS)
    assert group[2].configuration.joint
    group.crash(1)
    group.heal()
    leader = group.wait_for_leader()
    group.tick(3 * HEARTBEAT_TICKS)
    assert group[leader].voters == ids(1, 2, 4)
    assert not group.changing(leader)


def test_a_new_leader_sends_a_leaving_witness_no_payload() -> None:
    """It is no witness of the configuration in force any more."""
    group = Group(4, witnesses=[4])
    group.elect(1)
    group.isolate(4)
    last = group.propose(1, b"secret")
    group.drop = lambda message: isinstance(message, AppendResponse) and message.index > last + 1
    group.begin(1, change(remove=[4]))
    assert group[2].configuration.witnesses == ids()
    group.heal()
    group.drop = lambda message: isinstance(message, AppendResponse) and message.sender != 4
    group.crash(1)
    for _ in range(6 * ELECTION_TICKS):
        group.tick()
        if group.sent(AppendResponse, sender=4) and group[4].log.last_index >= last:
            break
    assert group.changing(2)
    sent = [e for m in group.sent(AppendRequest, receiver=4) if isinstance(m, AppendRequest) for e in m.entries]
    assert {entry.data for entry in sent if entry.kind is EntryKind.COMMANDS} == {b""}


def test_compaction_keeps_the_configuration_that_was_in_force() -> None:
    """A later one may still be truncated."""
    old, new = Configuration(ids(1, 2)), Configuration(ids(1, 2, 3))
    entries = [
        Entry(Term(1), Index(index), EntryKind.CONFIGURATION, encode_configuration(configuration))
        for index, configuration in ((5, old), (8, new))
    ]
    configurations = Configurations(Configuration(ids(1)), Index(0), entries)
    configurations.compact(Index(6))
    assert configurations.current == new
    assert configurations.at(Index(6)) == configurations.at(Index(7)) == old
    configurations.truncate(Index(8))
    assert configurations.current == old


def test_reads_go_on_while_members_change() -> None:
    """ReadIndex asks the configuration in force: both majorities while joint (notes/tunable-quorum)."""
    group = with_learner(led_by_1())
    group.drop = lambda message: isinstance(message, AppendResponse)
    group.begin(1, change(promote=[4], remove=[2, 3]))
    assert group[1].configuration.joint
    group.isolate(4)
    group.read(1, 1)
    assert group.members[1].reads == {}, "a majority of {1, 4} has not answered"
    group.cut.clear()
    group.isolate(2, 3)
    group.read(1, 2)
    assert group.members[1].reads == {}, "a majority of {1, 2, 3} has not answered"
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    assert set(group.members[1].reads) == {1, 2}


def test_a_read_does_not_wait_for_members_that_have_gone() -> None:
    """The answers it waits for never come, because the cluster has shrunk to its leader."""
    group = led_by_1(2)
    group.drop = lambda message: isinstance(message, HeartbeatRequest)
    group[1].read_index(1)
    group.begin(1, change(remove=[2]))
    group.crash(2)
    group.tick(2)
    assert group[1].voters == ids(1)
    assert set(group.members[1].reads) == {1}


def test_late_answers_of_departed_members_are_ignored() -> None:
    group = led_by_1()
    group.change(1, change(remove=[3]))
    commit = group[1].log.commit
    group[1].step(
        AppendResponse(sender=NodeId(3), receiver=NodeId(1), term=group[1].term, index=Index(group[1].log.last_index))
    )
    assert group[1].log.commit == commit
    assert 3 not in group[1].followers()


# --- everything at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_changes_crashes_partitions_and_snapshots(seed: int) -> None:
    """raft-bugs 25: none of it together loses an update; after the faults the cluster works."""
    rng = random.Random(seed)
    group = Group(3, witnesses=[3] if seed % 3 == 0 else [], leases=seed % 4 == 0)
    spare = [4, 5, 6, 7, 8, 9]
    acknowledged: dict[Index, bytes] = {}
    for step in range(250):
        up = [node for node, member in group.members.items() if member.up]
        node = rng.choice(list(group.members))
        leaders = [n for n in up if group.role(n) is Role.LEADER]
        match rng.randrange(14):
            case 0 | 1 | 2 if leaders:
                leader = rng.choice(leaders)
                data = b"%d" % step
                position = group[leader].propose(data)
                group.collect(leader)
                if isinstance(position, Position):
                    group.settle()
                    raft = group[leader]
                    if raft.log.commit >= position.index and raft.term == position.term:
                        acknowledged[position.index] = data
            case 3 if leaders:
                leader = rng.choice(leaders)
                configuration = group[leader].configuration
                wishes = [change(promote=configuration.learners)]
                wishes.append(change(remove=rng.sample(sorted(configuration.members), 1)))
                if spare and len(configuration.members) < 5:
                    group.start_empty(spare[0]) if spare[0] not in group.members else None
                    wishes.append(change(learners=[spare[0]]))
                wish = rng.choice(wishes)
                if not isinstance(group[leader].change_membership(wish), str) and wish.learners:
                    spare.pop(0)
                group.collect(leader)
            case 4 if node in up:
                group.crash(node)
            case 5 | 6:
                for dead in [n for n, member in group.members.items() if not member.up]:
                    group.restart(dead)
            case 7:
                group.isolate(node)
            case 8:
                group.heal()
            case 9 if node in up and group.members[node].applied > 0:
                try:
                    group.checkpoint(node, keep=rng.randrange(4))
                except ValueError:
                    assert group.members[node].applied < group[node].log.first_index - 1, "a snapshot is being restored"
            case 10 if node in up:
                member = group.members[node]
                member.disk_is_slow = not member.disk_is_slow
                if not member.disk_is_slow:
                    group.flush(node)
            case 11 if leaders and node in up:
                group[rng.choice(leaders)].transfer(NodeId(node))
            case 12 if node in up and group[node].leader is not None:
                group[node].suspect(NodeId(group[node].leader or 0))
            case _:
                pass
        rng.choice([group.tick, group.settle])()
    group.heal()
    for node, member in group.members.items():
        member.disk_is_slow = False
        if member.up:
            group.flush(node)
        else:
            group.restart(node)
    group.tick(4 * ELECTION_TICKS)
    leader = group.wait_for_leader()
    group.propose(leader, b"the end")
    group.tick(4 * ELECTION_TICKS)
    leader = group.wait_for_leader()
    for index, data in acknowledged.items():
        assert group.history[index].data == data
    for voter in group[leader].configuration.voters - group[leader].configuration.witnesses:
        assert group.data(voter)[-1:] == [b"the end"], f"node {voter} does not catch up"


# --- a damaged node that comes back under another id (ADR 9) ----------------------------------------------------------


@pytest.mark.parametrize("witness", [False, True])
def test_a_node_takes_the_place_and_the_address_of_another_in_one_step(witness: bool) -> None:
    """While the change is under way both are members, and have the same address; nobody ever has neither."""
    addresses = ((NodeId(1), "a:1"), (NodeId(2), "b:1"), (NodeId(3), "c:1"))
    before = Configuration(ids(1, 2, 3), witnesses=ids(3) if witness else ids(), addresses=addresses)
    joining = ((NodeId(4), "c:1"),)
    made = plan(
        before,
        MembershipChange(
            learners=() if witness else joining, witnesses=joining if witness else (), remove=frozenset(ids(3))
        ),
        {},
    )
    assert isinstance(made, Configuration)
    assert dict(made.addresses) == {NodeId(1): "a:1", NodeId(2): "b:1", NodeId(3): "c:1", NodeId(4): "c:1"}
    # The two that are well are a majority of the old voters and of the new ones: the change needs no one else.
    assert has_quorum(made, ids(1, 2))
    after = left(made)
    assert dict(after.addresses) == {NodeId(1): "a:1", NodeId(2): "b:1", NodeId(4): "c:1"}
    assert (after.voters, after.learners) == ((ids(1, 2, 4), ids()) if witness else (ids(1, 2), ids(4)))
    assert after.removed == ids(3)
    # The address is free for one, not for two.
    refused = plan(before, MembershipChange(learners=joining), {})
    assert refused == "c:1 is the peer address of node 3 already"
