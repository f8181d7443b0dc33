"""Safeguards that only a whole run can miss, switched off one at a time; the others are in tests/raft/sabotage.py."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    NodeId,
    RaftConfig,
    Role,
    Snapshot,
    checks,
    core,
    election,
    heartbeat,
    lease,
    replication,
    roles,
    snapshots,
    transfer,
)
from raftkv.raft.configurations import Configurations
from raftkv.raft.membership import encode_configuration, left
from raftkv.raft.messages import AppendRequest, HeartbeatRequest, HeartbeatResponse, Message
from raftkv.raft.progress import Progress
from raftkv.raft.quorum import committed_index, reached_by_quorum
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index
from raftkv.server.lease import Lease

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


# --- leases -----------------------------------------------------------------------------------------------------------


def a_lease_begins_when_it_is_confirmed(patch: Patch) -> None:
    """It begins when the heartbeats left: a follower's promise may be that old."""

    def note(kept: Lease, now_ms: float, rounds: tuple[int, int] | None) -> None:
        if rounds is not None and rounds[1] and (not kept._begun or kept._begun[-1][0] < rounds[1]):
            kept._begun.append((rounds[1], now_ms))

    patch.setattr(Lease, "note", note)


def a_lease_is_longer_than_the_promise(patch: Patch) -> None:
    """It lasts for two election timeouts; those who promised wait for one."""
    patch.setattr("tests.sim.l0.plan.lease_ms", lambda election_ticks, tick_ms, drift_ppm: 2 * election_ticks * tick_ms)


def a_restart_forgets_the_promise(patch: Patch) -> None:
    """A voter that was killed votes for another leader within the lease of the one it had heard."""
    original = RaftState.__init__

    def forgetful(state: RaftState, config: RaftConfig, **rest: Any) -> None:
        original(state, config, **rest)
        state.quarantine = 0

    patch.setattr(RaftState, "__init__", forgetful)


def hints_are_heeded_in_spite_of_leases(patch: Patch) -> None:
    """A broken connection lets a voter forget its leader, and its promise."""
    original = election.suspect

    def impatient(state: RaftState, peer: NodeId) -> None:
        if state.leader == peer:
            state.quarantine = 0
        config, state.config = state.config, replace(state.config, lease_ms=0)
        original(state, peer)
        state.config = config

    patch.setattr(election, "suspect", impatient)


def a_transfer_leaves_the_lease(patch: Patch) -> None:
    """The target is elected although everybody has promised to vote for nobody (raft-bugs 43)."""
    original = lease.rounds

    def careless(state: RaftState) -> tuple[int, int] | None:
        void, target = state.lease_void, state.transfer_target
        state.lease_void, state.transfer_target = False, None
        try:
            return original(state)
        finally:
            state.lease_void, state.transfer_target = void, target

    patch.setattr(lease, "rounds", careless)


def a_lease_needs_no_commit_in_its_term(patch: Patch) -> None:
    """A new leader does not know yet what its predecessor acknowledged (raft-bugs 40)."""
    original = lease.rounds

    def careless(state: RaftState) -> tuple[int, int] | None:
        if not state.config.lease_ms or state.role is not Role.LEADER or state.lease_void or state.transfer_target:
            return original(state)
        promised = {peer: progress.lease_sequence for peer, progress in state.progress.items()}
        promised[state.id] = state.reads.sequence
        return state.reads.sequence, reached_by_quorum(state.configuration, promised)

    patch.setattr(lease, "rounds", careless)


# --- fitness ----------------------------------------------------------------------------------------------------------


def a_hindered_leader_stays(patch: Patch) -> None:
    """Its disk is slow or full, others could lead, and it leads on."""
    patch.setattr(transfer, "relieve", lambda state: None)


def a_barred_leader_stays(patch: Patch) -> None:
    """Its state is not to be trusted, and it leads on."""
    patch.setattr(transfer, "retire", lambda state: None)


def a_barred_node_stands_for_election(patch: Patch) -> None:
    """It may be voted for like any other."""

    def may_lead(state: RaftState) -> bool:
        return state.configuration.may_lead(state.id)

    patch.setattr(RaftState, "may_lead", property(may_lead))


def nobody_says_that_it_should_not_lead(patch: Patch) -> None:
    """A leader hands over to nodes that are no better than itself, or worse."""
    answered = replication.on_heartbeat_response

    def deaf(state: RaftState, response: HeartbeatResponse) -> None:
        answered(state, replace(response, hindered=False))

    patch.setattr(replication, "on_heartbeat_response", deaf)
