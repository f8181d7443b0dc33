"""Bugs that real Raft systems shipped in membership changes and snapshots; the numbers are those of docs/invariants.md.

28 and 29 are in test_snapshots.py, 40 to 43 with leases in test_lease.py.
"""

from __future__ import annotations

import random

from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, NodeId, Raft, RaftConfig, Role, Term
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import AppendRequest, AppendResponse, InstallSnapshot
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, Group, change, ids
from tests.raft.single import ME, append, boot, drain, tick, vote_request
from tests.raft.test_snapshots import install, lagging_follower, take

JOINT = Configuration(ids(1, 2, 4), outgoing=ids(1, 2, 3))


def configuration_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(Term(term), Index(index), EntryKind.CONFIGURATION, encode_configuration(configuration))


def send_configuration(
    raft: Raft, configuration: Configuration, *, term: int, index: int = 1, previous: int = 0
) -> None:
    """Node 2, the leader of `term`, replicates a configuration."""
    raft.step(
        AppendRequest(
            sender=NodeId(2),
            receiver=ME,
            term=Term(term),
            previous_index=Index(index - 1),
            previous_term=Term(previous),
            commit=Index(0),
            entries=(configuration_entry(index, term, configuration),),
        )
    )


def boot_from(entries: list[Entry], *, term: int = 1, commit: int = 0) -> Raft:
    return Raft(
        RaftConfig(
            node_id=ME,
            configuration=Configuration(ids(1, 2, 3)),
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
        ),
        hard_state=HardState(Term(term), None, Index(commit)),
        entries=entries,
        applied=Index(0),
        rng=random.Random(1),
    )


def test_bug_10_a_removed_node_does_not_disrupt() -> None:
    """It was cut off when it was removed, so it does not know (thesis 4.2.3)."""
    group = Group(4)
    group.elect(1)
    group.isolate(4)
    group.change(1, change(remove=[4]))
    group.heal()
    group.tick(10 * ELECTION_TICKS)
    assert group[4].voters == ids(1, 2, 3, 4)
    assert group.role(1) is Role.LEADER
    assert {group[node].term for node in (1, 2, 3)} == {1}


def test_bug_13_a_compacted_predecessor_is_answered_with_a_snapshot() -> None:
    group = lagging_follower()
    before = len(group.delivered)
    group.restart(3)
    group.tick(3 * HEARTBEAT_TICKS)
    requests = [m for m in group.delivered[before:] if isinstance(m, AppendRequest) and m.receiver == 3]
    assert requests
    assert all(m.previous_term == group[1].log.term(m.previous_index) for m in requests)
    assert group.sent(InstallSnapshot, receiver=3)


def test_bug_17_an_entry_that_is_compacted_keeps_nobody_waiting() -> None:
    """A proposal of a deposed leader is overtaken by a snapshot: it is never handed out to apply, but it is over."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    position = group[1].propose(b"waits")
    group.collect(1)
    leader = 2
    group.elect(leader)
    for _ in range(5):
        group.propose(leader, b"x")
    group.checkpoint(leader)
    group.heal()
    group.tick(3 * ELECTION_TICKS)
    assert not isinstance(position, str)
    assert group.sent(InstallSnapshot, receiver=1)
    assert group[1].log.applied >= 6
    assert group[1].log.term(Index(2)) is None, "its fate is not in the log: whoever waits has to say `unknown`"
    assert group.role(1) is Role.FOLLOWER, "and learned of it at the latest when leadership went"


def test_bug_18_no_change_before_a_commit_in_the_own_term() -> None:
    group = Group(3)
    group.start_empty(4)
    group.drop = lambda message: isinstance(message, AppendResponse)
    for _ in range(5 * ELECTION_TICKS):
        group.tick()
        if leaders := [node for node in group.members if group.role(node) is Role.LEADER]:
            break
    assert "has committed nothing in its term yet" in group.refuses(leaders[0], change(learners=[4]))
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    group.begin(leaders[0], change(learners=[4]))


def test_bug_19_a_recovered_joint_configuration_is_left_only_when_it_is_committed() -> None:
    group = Group(3)
    group.elect(1)
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    group.drop = lambda message: isinstance(message, AppendResponse)
    group.begin(1, change(promote=[4], remove=[3]))
    group.crash(1)
    group.crash(4)
    group.restart(2)
    assert group[2].configuration.joint
    group.heal()
    group.tick(5 * ELECTION_TICKS)
    assert group[2].configuration.joint
    assert Role.LEADER not in {group.role(2), group.role(3)}, "of {1, 2, 4} only node 2 is up"
    group.restart(4)
    leader = group.wait_for_leader()
    group.tick(3 * HEARTBEAT_TICKS)
    assert group[leader].voters == ids(1, 2, 4)
    assert not group.changing(leader)


def test_bug_19_nor_does_a_new_leader_leave_it_before() -> None:
    group = Group(3)
    group.elect(1)
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    group.drop = lambda message: isinstance(message, AppendResponse)
    group.begin(1, change(promote=[4], remove=[3]))
    assert group[1].transfer(NodeId(2)) is None
    group.crash(1)
    for _ in range(6 * ELECTION_TICKS):
        group.tick()
        if leaders := [node for node in (2, 3, 4) if group.role(node) is Role.LEADER]:
            break
    (leader,) = leaders
    group.tick(2)
    assert group[leader].configuration.joint, "its no-op is not committed, nor is what is before it"
    group.heal()
    group.tick(2 * HEARTBEAT_TICKS)
    assert not group[leader].configuration.joint


def test_bug_20_a_node_starts_with_the_newest_configuration_that_its_log_holds() -> None:
    entries = [configuration_entry(1, 1, Configuration(ids(1, 2))), configuration_entry(2, 1, JOINT)]
    raft = boot_from(entries)
    assert raft.log.commit == 0
    assert raft.configuration == JOINT
    assert raft.changing


def test_bug_21_a_configuration_that_is_truncated_is_no_longer_in_force() -> None:
    raft = boot(size=3)
    send_configuration(raft, JOINT, term=1)
    assert raft.configuration == JOINT
    raft.step(append(3, 2, (0, 0), 2))
    assert raft.configuration == Configuration(ids(1, 2, 3))
    drain(raft)
    raft.step(append(3, 2, (2, 1), 2))
    assert raft.configuration == Configuration(ids(1, 2, 3))


def test_bug_21_the_one_before_it_is() -> None:
    raft = boot(size=3)
    send_configuration(raft, Configuration(ids(1, 2)), term=1)
    send_configuration(raft, JOINT, term=1, index=2, previous=1)
    raft.step(append(3, 2, (1, 1), 2))
    assert raft.configuration == Configuration(ids(1, 2))


def test_bug_22_a_configuration_is_in_force_when_it_is_appended() -> None:
    """On a follower too, before it is committed: a candidate needs both majorities at once."""
    raft = boot(size=3)
    send_configuration(raft, JOINT, term=1)
    assert raft.log.commit == 0
    drain(raft)
    requests: list[NodeId] = []
    while not requests:
        requests = [m.receiver for m in tick(raft)]
    assert requests == [2, 3, 4]


def test_bug_22_and_on_the_leader() -> None:
    group = Group(3)
    group.elect(1)
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    group.isolate(4)
    group.begin(1, change(promote=[4], remove=[2, 3]))
    index = group.propose(1, b"x")
    assert group[2].log.last_index == index
    assert group[1].log.commit < index, "two of C_old are not enough any more"


def test_bug_23_a_promoted_but_unaware_voter_votes() -> None:
    """It holds the log only up to where it was a learner, or nothing at all."""
    learner = boot_from([configuration_entry(1, 1, Configuration(ids(2, 3), learners=ids(1)))])
    assert not learner.configuration.may_lead(ME)
    learner.step(vote_request(2, 2, (1, 5)))
    assert [m.granted for m in drain(learner) if hasattr(m, "granted")] == [True]


def test_bug_24_a_removed_leader_ignores_late_answers_and_does_not_campaign() -> None:
    group = Group(3)
    group.elect(1)
    group.change(1, change(remove=[1]))
    assert group.role(1) is not Role.LEADER
    raft = group[1]
    before = raft.log.commit, raft.term
    group.isolate(1)
    raft.step(AppendResponse(sender=NodeId(2), receiver=ME, term=raft.term, index=raft.log.last_index))
    assert (raft.log.commit, raft.term) == before
    assert tick(raft, 5 * ELECTION_TICKS) == []
    assert raft.role is Role.FOLLOWER


def test_bug_25_a_change_together_with_a_partition_loses_nothing() -> None:
    """The leader is cut off with C_old,new in its log; the others go on without it, and it is overruled.

    Random mixtures of changes, partitions, crashes and snapshots:
    test_membership.test_random_changes_crashes_partitions_and_snapshots.
    """
    group = Group(5)
    group.elect(1)
    group.propose(1, b"first")
    group.isolate(1, 2)
    group.cut -= {(1, 2), (2, 1)}
    group.begin(1, change(remove=[3, 4, 5]))
    assert group[2].configuration.joint
    group.propose(1, b"never committed")
    leader = 3
    group.elect(leader)
    group.propose(leader, b"second")
    group.heal()
    group.tick(2 * ELECTION_TICKS)
    assert {group[node].configuration.voters for node in group.members} == {ids(1, 2, 3, 4, 5)}
    assert all(group.data(node) == [b"first", b"second"] for node in group.members)


def test_bug_26_a_snapshot_leaves_no_stale_tail_and_no_stale_configuration() -> None:
    """The tail behind the snapshot's index is of another history."""
    raft = boot_from([Entry(Term(1), Index(i)) for i in range(1, 12)] + [configuration_entry(12, 1, JOINT)])
    assert raft.configuration == JOINT
    raft.step(install(9, 4))
    assert raft.log.last_index == 9
    assert raft.configuration == Configuration(ids(1, 2, 3)), "that of the snapshot"
    drain(raft)
    assert raft.configuration == Configuration(ids(1, 2, 3))


def test_bug_27_a_conflicting_entry_at_the_last_included_index() -> None:
    """It is replaced once, not asked for for ever."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    for _ in range(6):
        assert group[1].propose(b"lost")
    group.collect(1)
    group.elect(2)
    for _ in range(3):
        group.propose(2, b"x")
    taken = group.checkpoint(2)
    assert group[1].log.last_index > taken.index
    assert not group[1].log.matches(taken.index, taken.term)
    group.heal()
    group.tick(3 * ELECTION_TICKS)
    assert len(group.sent(InstallSnapshot, receiver=1)) == 1
    assert group.data(1) == group.data(2)


def test_bug_30_nothing_counts_as_applied_before_the_snapshot_is_in_force() -> None:
    raft = boot([1, 1, 1], commit=2)
    drain(raft)
    assert raft.log.applied == 2
    raft.step(install(9, 4))
    raft.step(append(2, 5, (4, 9), 5, commit=10))
    write = take(raft).write
    assert write is not None
    assert raft.log.commit == 10
    assert (raft.log.applied, raft.ready()) == (2, None), "a local read would wait"
    raft.persisted(write.number)
    assert raft.log.applied == 9


def test_bug_30_a_restarted_leader_reads_what_was_acknowledged() -> None:
    group = Group(3)
    group.elect(1)
    index = group.propose(1, b"x")
    group.checkpoint(1)
    for node in (1, 2, 3):
        group.crash(node)
        group.restart(node)
    leader = group.wait_for_leader()
    group.read(leader, 1)
    group.tick(HEARTBEAT_TICKS)
    assert group.members[leader].reads[1] >= index
    assert group.members[leader].applied >= group.members[leader].reads[1]
