"""Compaction, and followers that need what is compacted (paper 7)."""

from __future__ import annotations

import itertools
import random

import pytest

from raftkv.raft import Configuration, Entry, HardState, Index, NodeId, Raft, RaftConfig, Ready, Role, Snapshot, Term
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatRequest, HeartbeatResponse, InstallSnapshot
from tests.raft.group import ELECTION_TICKS, HEARTBEAT_TICKS, Group, change, ids
from tests.raft.single import ME, append, boot, candidate, drain, leader, pre_candidate, vote_request

THREE = Configuration(ids(1, 2, 3))


def snapshot(index: int, term: int, configuration: Configuration = THREE) -> Snapshot:
    return Snapshot(Index(index), Term(term), configuration)


def install(index: int, snapshot_term: int, *, term: int = 5, sender: int = 2) -> InstallSnapshot:
    return InstallSnapshot(sender=NodeId(sender), receiver=ME, term=Term(term), snapshot=snapshot(index, snapshot_term))


def take(raft: Raft) -> Ready:
    ready = raft.ready()
    assert ready is not None
    return ready


def lagging_follower(*, checkpoints: int = 1) -> Group:
    """Node 3 was away while the others compacted everything."""
    group = Group(3)
    group.elect(1)
    group.crash(3)
    for _ in range(checkpoints):
        for _ in range(4):
            group.propose(1, b"x")
        group.checkpoint(1)
    group.tick(HEARTBEAT_TICKS)
    return group


# --- the log ----------------------------------------------------------------------------------------------------------


def test_what_is_compacted_is_gone_and_the_rest_is_as_before() -> None:
    group = lagging_follower()
    log = group[1].log
    assert log.first_index == log.last_index + 1
    assert log.term(log.last_index) == 1, "the term of the last compacted entry is still known"
    assert log.term(Index(log.last_index - 1)) is None
    assert group.propose(1, b"y") == log.last_index


def test_compaction_keeps_what_it_is_told_to_keep() -> None:
    group = Group(3)
    group.elect(1)
    for _ in range(6):
        group.propose(1, b"x")
    taken = group.checkpoint(1, keep=3)
    assert group[1].log.first_index == taken.index - 2
    assert group[1].snapshot == taken


def test_a_snapshot_names_the_configuration_at_its_index_not_the_one_in_force() -> None:
    group = Group(3)
    group.elect(1)
    before = group.propose(1, b"x")
    group.start_empty(4)
    group.change(1, change(learners=[4]))
    assert group[1].snapshot_at(before).configuration.learners == ids()
    assert group[1].snapshot_at(group[1].log.applied).configuration.learners == ids(4)


def test_bad_compactions_are_refused_and_change_nothing() -> None:
    group = Group(3)
    group.elect(1)
    group.propose(1, b"x")
    raft = group[1]
    taken = raft.snapshot_at(raft.log.applied)
    for bad, first_kept, reason in [
        (taken, taken.index + 2, "lies behind the snapshot"),
        (Snapshot(Index(taken.index + 5), Term(1), THREE), 1, "only 2 are applied"),
        (Snapshot(taken.index, Term(9), THREE), 1, "term"),
    ]:
        with pytest.raises(ValueError, match=reason):
            raft.compact(bad, Index(first_kept))
    assert raft.snapshot is None
    assert raft.log.first_index == 1
    with pytest.raises(ValueError, match="not among the applied"):
        raft.snapshot_at(Index(taken.index + 1))


def test_an_older_checkpoint_that_comes_late_changes_nothing() -> None:
    """One was being taken while a newer one was installed."""
    group = Group(3)
    group.elect(1)
    for _ in range(4):
        group.propose(1, b"x")
    raft = group[1]
    old = raft.snapshot_at(Index(2))
    new = group.checkpoint(1)
    raft.compact(old, Index(1))
    assert raft.snapshot == new
    assert raft.log.first_index == new.index + 1


def test_a_node_starts_from_a_snapshot_and_the_entries_behind_it() -> None:
    raft = Raft(
        RaftConfig(node_id=ME, configuration=Configuration(ids(1))),
        hard_state=HardState(Term(3), None, Index(6)),
        entries=[Entry(Term(2), Index(6)), Entry(Term(3), Index(7))],
        applied=Index(5),
        rng=random.Random(1),
        snapshot=snapshot(5, 2),
    )
    assert raft.configuration == THREE, "not what the cluster was founded with"
    assert (raft.log.first_index, raft.log.last_index, raft.log.commit) == (6, 7, 6)
    assert [entry.index for entry in take(raft).committed] == [6]


@pytest.mark.parametrize(("first", "applied"), [(7, 5), (5, 5), (6, 4)])
def test_bug_29_a_gap_between_snapshot_log_and_state_is_noticed_at_the_start(first: int, applied: int) -> None:
    with pytest.raises(AssertionError, match=r"L1|entries are missing"):
        Raft(
            RaftConfig(node_id=ME, configuration=THREE),
            hard_state=HardState(Term(3), None, Index(0)),
            entries=[Entry(Term(3), Index(first))],
            applied=Index(applied),
            rng=random.Random(1),
            snapshot=snapshot(5, 2),
        )


# --- the leader's half ------------------------------------------------------------------------------------------------


def test_a_follower_behind_the_log_gets_a_snapshot_and_goes_on() -> None:
    group = lagging_follower()
    group.restart(3)
    group.tick(3 * HEARTBEAT_TICKS)
    assert group.data(3) == group.data(1)
    group.propose(1, b"after")
    group.tick(HEARTBEAT_TICKS)
    assert group.data(3)[-1] == b"after"
    assert len(group.sent(InstallSnapshot)) == 1


def test_a_follower_that_installed_a_snapshot_can_be_restarted() -> None:
    group = lagging_follower()
    group.restart(3)
    group.tick(3 * HEARTBEAT_TICKS)
    group.propose(1, b"after")
    group.crash(3)
    group.restart(3)
    group.tick(HEARTBEAT_TICKS)
    assert group.data(3) == group.data(1)


def test_a_snapshot_that_cannot_be_streamed_is_asked_for_again_but_not_in_a_busy_loop() -> None:
    group = lagging_follower()
    group.streams_fail = True
    group.restart(3)
    group.tick(5 * HEARTBEAT_TICKS)
    assert not group.sent(InstallSnapshot)
    group.streams_fail = False
    group.tick(2 * HEARTBEAT_TICKS)
    assert group.data(3) == group.data(1)


def test_a_lost_install_message_is_sent_again() -> None:
    """Heartbeats go on being answered meanwhile: they must not put the retry off for ever."""
    group = lagging_follower()
    group.restart(3)
    lost: list[object] = []

    def once(message: object) -> bool:
        if isinstance(message, InstallSnapshot) and not lost:
            lost.append(message)
            return True
        return False

    group.drop = once
    group.tick(3 * ELECTION_TICKS)
    assert lost
    assert group.data(3) == group.data(1)


def test_a_follower_is_named_once_until_the_driver_has_an_answer() -> None:
    raft = leader(boot([1] * 5, commit=5))
    raft.step(AppendResponse(sender=NodeId(2), receiver=ME, term=raft.term, index=raft.log.last_index))
    drain(raft)
    raft.compact(raft.snapshot_at(Index(5)), Index(6))
    raft.step(
        AppendResponse(
            sender=NodeId(3), receiver=ME, term=raft.term, rejected=True, index=Index(5), hint_index=Index(0)
        )
    )
    assert take(raft).snapshots_needed == (3,)
    for _ in range(4 * ELECTION_TICKS):
        for peer in (2, 3):
            raft.step(HeartbeatResponse(sender=NodeId(peer), receiver=ME, term=raft.term, read_sequence=0))
        raft.tick()
        while (ready := raft.ready()) is not None:
            assert not ready.snapshots_needed
            assert not [m for m in ready.messages if m.receiver == 3 and isinstance(m, AppendRequest)]
    raft.snapshot_failed(NodeId(3))
    assert raft.ready() is None
    raft.step(HeartbeatResponse(sender=NodeId(3), receiver=ME, term=raft.term, read_sequence=0))
    assert take(raft).snapshots_needed == (3,)


def test_answers_of_the_driver_that_come_too_late_are_harmless() -> None:
    raft = leader(boot([1, 1]))
    for peer in (2, 9):
        raft.snapshot_delivered(NodeId(peer), snapshot(1, 1))
        raft.snapshot_failed(NodeId(peer))
    assert raft.ready() is None
    follower = boot([1])
    follower.snapshot_delivered(NodeId(2), snapshot(1, 1))
    follower.snapshot_failed(NodeId(2))
    assert follower.ready() is None


def test_the_log_was_compacted_further_while_the_snapshot_was_on_its_way() -> None:
    group = lagging_follower()
    old = group[1].snapshot
    assert old is not None
    group.streams_fail = True
    group.restart(3)
    group.tick(HEARTBEAT_TICKS)
    group.members[3].checkpoints[old] = group.members[1].checkpoints[old]
    for _ in range(3):
        group.propose(1, b"x")
    group.tick(HEARTBEAT_TICKS)
    group.checkpoint(1)
    group.streams_fail = False
    group[1].snapshot_delivered(NodeId(3), old)
    group.collect(1)
    group.tick(3 * HEARTBEAT_TICKS)
    assert group.data(3) == group.data(1)


# --- the follower's half ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
def test_a_snapshot_arrives_in_every_role(role: Role) -> None:
    """Of a higher term: whoever it reaches follows, restores, and answers only when that is durable."""
    raft = boot([1, 1])
    if role is not Role.FOLLOWER:
        {Role.PRE_CANDIDATE: pre_candidate, Role.CANDIDATE: candidate, Role.LEADER: leader}[role](raft)
    drain(raft)
    raft.step(install(9, 4))
    ready = take(raft)
    assert (ready.role, ready.term, ready.leader) == (Role.FOLLOWER, 5, 2)
    assert ready.messages == ()
    assert ready.write is not None
    assert ready.write.restore == snapshot(9, 4)
    assert ready.write.needs_disk
    assert ready.write.entries == ()
    assert [m.index for m in ready.write.messages if isinstance(m, AppendResponse)] == [9]
    assert raft.log.durable < 9
    raft.persisted(ready.write.number)
    assert (raft.log.durable, raft.log.applied, raft.log.commit, raft.log.first_index) == (9, 9, 9, 10)


def test_the_same_from_a_candidate_of_the_same_term() -> None:
    raft = candidate(boot([1, 1]))
    raft.step(install(9, 1, term=raft.term))
    assert raft.role is Role.FOLLOWER
    assert raft.log.commit == 9


def test_a_snapshot_of_an_earlier_term_is_answered_with_the_new_term_and_ignored() -> None:
    raft = boot([1], term=6)
    raft.step(install(9, 4, term=5))
    (answer,) = drain(raft)
    assert isinstance(answer, HeartbeatResponse)
    assert answer.term == 6
    assert raft.log.last_index == 1


@pytest.mark.parametrize(
    ("terms", "commit", "kept"),
    [
        ([1, 1, 1, 1, 1], 0, [1, 1, 1, 1, 1]),
        ([1, 1, 1], 0, [1, 1, 1]),
        ([1, 1, 1], 3, [1, 1, 1]),
        ([1, 1, 1, 1], 4, [1, 1, 1, 1]),
    ],
    ids=["matching tail", "ends there", "stale", "older than the commit index"],
)
def test_what_the_log_holds_already_is_kept(terms: list[int], commit: int, kept: list[int]) -> None:
    """Paper figure 13, step 6: retain what follows an entry that matches."""
    raft = boot(terms, commit=commit)
    raft.step(install(3, 1))
    ready = take(raft)
    assert ready.write is not None
    assert ready.write.restore is None
    assert [raft.log.term(Index(i)) for i in range(1, raft.log.last_index + 1)] == kept
    assert [m.index for m in ready.write.messages if isinstance(m, AppendResponse)] == [max(3, commit)]


def test_votes_and_acknowledgements_wait_for_the_snapshot() -> None:
    """They speak of a log that is not on disk yet."""
    raft = boot([1])
    raft.step(install(9, 4))
    first = take(raft).write
    assert first is not None
    raft.step(append(2, 5, (4, 9), 5))
    raft.step(vote_request(3, 6, (5, 10), transfer=True))
    ready = take(raft)
    assert ready.write is not None
    assert ready.write.number > first.number
    assert not [m for m in ready.messages if getattr(m, "granted", False) or isinstance(m, AppendResponse)]
    assert len(ready.write.messages) == 2


def test_heartbeats_are_answered_while_a_snapshot_is_installed() -> None:
    raft = boot([1])
    raft.step(install(9, 4))
    take(raft)
    raft.step(HeartbeatRequest(sender=NodeId(2), receiver=ME, term=Term(5), commit=Index(0), read_sequence=7))
    assert [type(m) for m in take(raft).messages] == [HeartbeatResponse]


def test_entries_that_follow_the_snapshot_are_applied_after_it() -> None:
    raft = boot([1])
    raft.step(install(9, 4))
    raft.step(append(2, 5, (4, 9), 5, 5, commit=11))
    ready = take(raft)
    assert ready.write is not None
    assert ready.write.restore is not None
    assert [entry.index for entry in ready.write.entries] == [10, 11]
    assert ready.committed == ()
    raft.persisted(ready.write.number)
    assert [entry.index for entry in take(raft).committed] == [10, 11]


def test_a_write_that_was_under_way_makes_nothing_of_the_snapshot_durable() -> None:
    raft = boot([1])
    raft.step(append(2, 5, (1, 1), *[5] * 12))
    before = take(raft).write
    raft.step(install(9, 4))  # a conflict at 9
    after = take(raft).write
    assert before is not None
    assert after is not None
    raft.persisted(before.number)
    assert raft.log.durable < 9, "what that write stored is about to go"
    assert raft.log.handed_out == 0
    raft.persisted(after.number)
    assert raft.log.durable == 9


@pytest.mark.parametrize("order", list(itertools.product([False, True], repeat=2)))
def test_bug_29_two_snapshots_in_quick_succession(order: tuple[bool, bool]) -> None:
    """Whether the first is handed over, and confirmed, before the second is handed over."""
    handed_over, confirmed_early = order
    raft = boot([1])
    raft.step(install(5, 4))
    first = take(raft).write if handed_over else None
    raft.step(install(9, 4))
    if first and confirmed_early:
        raft.persisted(first.number)
        assert raft.log.durable == 0, "the first is in force; the second is not"
        assert raft.log.applied == 0
    second = take(raft).write
    assert second is not None
    assert second.restore == snapshot(9, 4)
    if first and not confirmed_early:
        raft.persisted(first.number)
        assert raft.log.durable == 0
    raft.persisted(second.number)
    assert (raft.log.durable, raft.log.applied, raft.log.handed_out) == (9, 9, 9)


def test_a_snapshot_replaces_what_was_handed_out_to_apply() -> None:
    """What is committed, handed out and not applied yet need not be: the snapshot has it."""
    raft = boot([1, 1, 1], commit=3)
    assert len(take(raft).committed) == 3
    raft.step(install(9, 4))
    ready = take(raft)
    assert ready.write is not None
    raft.persisted(ready.write.number)
    assert raft.log.applied == 9
    assert raft.ready() is None


def test_bug_28_a_crash_before_the_snapshot_is_in_force_leaves_the_old_log() -> None:
    """As far as the core goes: nothing has been promised that the old log does not keep."""
    group = lagging_follower()
    group.members[3].disk_is_slow = True
    group.restart(3)
    group.tick(2 * HEARTBEAT_TICKS)
    assert group[3].log.commit > group.members[3].applied
    assert group[1].followers()[NodeId(3)].match < group[1].log.first_index
    group.crash(3)
    group.members[3].disk_is_slow = False
    group.restart(3)
    assert group[3].log.last_index < group[1].log.first_index
    group.tick(3 * ELECTION_TICKS)
    assert group.data(3) == group.data(1)


def test_an_append_from_before_the_snapshot_is_answered_with_what_is_committed() -> None:
    raft = boot([1])
    raft.step(install(9, 4))
    drain(raft)
    raft.step(append(2, 5, (1, 1), 1, 1))
    (answer,) = drain(raft)
    assert isinstance(answer, AppendResponse)
    assert not answer.rejected
    assert answer.index == 9
    assert raft.log.last_index == 9


def test_a_new_leader_elected_behind_a_snapshot_finds_the_others() -> None:
    """The back-off of a probe ends at the leader's own snapshot, not in an error."""
    group = lagging_follower(checkpoints=2)
    group.tick(HEARTBEAT_TICKS)
    group.checkpoint(2)
    assert group[1].transfer(NodeId(2)) is None
    group.collect(1)
    group.settle()
    group.restart(3)
    group.tick(3 * HEARTBEAT_TICKS)
    assert group.role(2) is Role.LEADER
    assert group.data(3) == group.data(2)
