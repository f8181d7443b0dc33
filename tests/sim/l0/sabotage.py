"""Safeguards that only a whole run can miss, switched off one at a time; the others are in tests/raft/sabotage.py."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import pytest

from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    NodeId,
    Role,
    Snapshot,
    checks,
    core,
    election,
    heartbeat,
    replication,
    roles,
    snapshots,
    transfer,
)
from raftkv.raft.configurations import Configurations
from raftkv.raft.membership import encode_configuration, left
from raftkv.raft.messages import AppendRequest, HeartbeatRequest, HeartbeatResponse, Message
from raftkv.raft.progress import Progress
from raftkv.raft.quorum import committed_index
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index

Patch = pytest.MonkeyPatch


def nobody_is_sticky(patch: Patch) -> None:
    """Thesis 4.2.3, raft-bugs 10: whoever asks may get a vote, although a leader is being heard."""
    patch.setattr(election, "hears_leader", lambda state: False)


def there_is_no_pre_vote(patch: Patch) -> None:
    """Thesis 9.6, raft-bugs 10: whoever hears nothing campaigns, and again, in ever higher terms."""

    def campaign(state: RaftState) -> None:
        election.stand(state, leadership_transfer=False)

    patch.setattr(election, "campaign", campaign)


def leaders_need_no_quorum(patch: Patch) -> None:
    """Thesis 6.2 (CheckQuorum): a leader that hears nobody leads on."""
    patch.setattr(election, "check_quorum", lambda state: None)


def nobody_learns_of_a_new_term(patch: Patch) -> None:
    """Raft-bugs 7, 9: requests of an earlier term are ignored, so a node in a later one stays there alone."""
    enter = core.Raft._enter_term_of
    questions = (AppendRequest, HeartbeatRequest)

    def silent(raft: core.Raft, message: Message) -> bool:
        if isinstance(message, questions) and message.term < raft.term:
            return False
        return enter(raft, message)

    patch.setattr(core.Raft, "_enter_term_of", silent)


def a_term_begins_without_an_entry(patch: Patch) -> None:
    """Paper 8: a new leader appends nothing of its own, and so cannot say what is committed."""

    def start_term(state: RaftState) -> None:
        heartbeat.broadcast(state)

    patch.setattr(replication, "start_term", start_term)


def lost_appends_are_not_repeated(patch: Patch) -> None:
    """Paper 5.3: the leader does not retry."""

    def careless(state: RaftState, response: HeartbeatResponse) -> None:
        progress = state.progress.get(response.sender)
        if progress is not None:
            progress.retry_ticks = 0
        answered(state, response)

    answered = replication.on_heartbeat_response
    patch.setattr(replication, "on_heartbeat_response", careless)


def a_transfer_never_ends(patch: Patch) -> None:
    """Thesis 3.10: a leader whose transfer came to nothing refuses proposals for ever."""
    patch.setattr(transfer, "tick", lambda state: None)


def what_a_candidate_hears_stays(patch: Patch) -> None:
    """Raft-bugs 4: votes of an earlier campaign count in the next one."""
    leave = roles._leave_role

    def keep(state: RaftState) -> None:
        votes = state.votes
        leave(state)
        state.votes = votes

    patch.setattr(roles, "_leave_role", keep)


def a_broken_connection_means_nothing_is_known(patch: Patch) -> None:
    """Raft-bugs 12: the leader goes back below what a follower has acknowledged."""

    def probe(progress: Progress, next_index: Index) -> None:
        progress._enter(type(progress.state).PROBE)
        progress.next = Index(1)

    patch.setattr(Progress, "probe", probe)


# --- membership and snapshots -----------------------------------------------------------------------------------------


def _decided_by(patch: Patch, voters: Callable[[Configuration], frozenset[NodeId]]) -> None:
    """One set of voters decides, in elections and in the commit rule."""

    def committed(
        configuration: Configuration, match: Mapping[NodeId, Index], excused: Container[NodeId] = ()
    ) -> Index:
        return committed_index(Configuration(voters(configuration)), match, excused)

    patch.setattr(Configuration, "majorities", property(lambda configuration: (voters(configuration),)))
    patch.setattr(replication, "committed_index", committed)
    patch.setattr(checks, "committed_index", committed)


def a_joint_change_needs_one_majority(patch: Patch) -> None:
    """Paper 6: the voters to come decide alone, from the moment the change is appended."""
    _decided_by(patch, lambda configuration: configuration.voters)


def learners_count(patch: Patch) -> None:
    """Thesis 4.2.1: whoever is sent the log decides, too."""
    _decided_by(patch, lambda configuration: configuration.members)


def a_joint_configuration_is_left_before_it_is_committed(patch: Patch) -> None:
    """Raft-bugs 19."""
    append = RaftState.append

    def eager(state: RaftState, entries: Sequence[Entry]) -> None:
        append(state, entries)
        if state.role is Role.LEADER and state.configuration.joint:
            data = encode_configuration(left(state.configuration))
            append(state, [Entry(state.term, Index(state.log.last_index + 1), EntryKind.CONFIGURATION, data)])

    patch.setattr(RaftState, "append", eager)


def configurations_survive_truncation(patch: Patch) -> None:
    """Raft-bugs 21: an entry is dropped, the configuration in it stays in force."""
    patch.setattr(Configurations, "truncate", lambda configurations, first: None)


def a_restart_forgets_the_configurations_of_the_log(patch: Patch) -> None:
    """Raft-bugs 20: only the snapshot's, or the founders', is recovered."""

    def forgetful(configurations: Configurations, base: Configuration, base_index: Index, entries: object) -> None:
        recover(configurations, base, base_index, ())

    recover = Configurations.__init__
    patch.setattr(Configurations, "__init__", forgetful)


def a_snapshot_brings_no_configuration(patch: Patch) -> None:
    """Raft-bugs 20, 26: the log is replaced, and the configuration is that of before."""
    restore = RaftState.restore

    def careless(state: RaftState, snapshot: Snapshot) -> None:
        before = state.configurations
        restore(state, snapshot)
        state.configurations = before

    patch.setattr(RaftState, "restore", careless)


def nobody_is_sent_a_snapshot(patch: Patch) -> None:
    """Paper 7: who needs what is compacted waits for ever."""

    def wait(state: RaftState, peer: NodeId) -> None:
        state.progress[peer].await_snapshot(Index(state.log.first_index - 1))

    patch.setattr(snapshots, "need", wait)


def a_lost_checkpoint_is_not_sent_again(patch: Patch) -> None:
    """Paper 7: the leader waits for an installation that never comes."""
    patch.setattr(snapshots, "failed", lambda state, peer: None)


def a_witness_may_lead(patch: Patch) -> None:
    """It has no payloads to give."""
    patch.setattr(Configuration, "may_lead", lambda configuration, node: node in configuration.deciders)
