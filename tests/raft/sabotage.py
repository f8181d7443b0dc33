"""One safety rule of the core switched off at a time, for tests that ask whether anybody would notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from raftkv.raft import Entry, HardState, Index, LogWrite, NodeId, Term, core, election, quorum, replication, roles
from raftkv.raft import heartbeat as heartbeats
from raftkv.raft import read_index as reads
from raftkv.raft.log import Log
from raftkv.raft.messages import HeartbeatRequest, VoteRequest
from raftkv.raft.persistence import PendingWrites
from raftkv.raft.quorum import committed_index
from raftkv.raft.read_queue import ReadQueue, Round
from raftkv.raft.state import RaftState
from tests.raft.node import Node

Patch = pytest.MonkeyPatch


def promises_leave_at_once(patch: Patch) -> None:
    """Thesis 3.8, raft-bugs 1: votes and acknowledgements do not wait for the disk."""
    patch.setattr(RaftState, "promise", RaftState.send)


def vote_is_not_persisted(patch: Patch) -> None:
    """Paper figure 2, raft-bugs 1: the disk keeps the term only."""
    store = Node.store

    def forgetful(node: Node, write: LogWrite) -> None:
        store(node, dataclasses.replace(write, hard_state=dataclasses.replace(write.hard_state, vote=None)))

    patch.setattr(Node, "store", forgetful)


def stepping_down_forgets_the_vote(patch: Patch) -> None:
    """Raft-bugs 3: whoever returns to follower may vote again, in the same term."""

    def forgetful(state: RaftState, term: Term, leader: NodeId | None) -> None:
        roles.become_follower(state, term, leader)
        state.vote = None

    patch.setattr(election, "become_follower", forgetful)
    patch.setattr(core, "become_follower", forgetful)


def votes_are_given_twice(patch: Patch) -> None:
    """Paper 5.2: more than one vote a term."""

    def generous(state: RaftState, request: VoteRequest) -> bool:
        return state.log.is_up_to_date(request.last_index, request.last_term)

    patch.setattr(election, "may_vote", generous)


def any_log_may_lead(patch: Patch) -> None:
    """Paper 5.4.1: the vote does not ask whether the candidate's log is up to date."""

    def always(log: Log, last_index: Index, last_term: Term) -> bool:
        return True

    patch.setattr(Log, "is_up_to_date", always)


def half_is_a_majority(patch: Patch) -> None:
    """Paper 5.2: two disjoint sets decide."""
    patch.setattr(quorum, "majority", lambda voters: voters // 2)


def earlier_terms_are_committed_by_counting(patch: Patch) -> None:
    """Paper 5.4.2, figure 8, raft-bugs 6: the commit rule does not ask for an entry of the current term."""

    def advance(state: RaftState) -> None:
        before = state.log.commit
        state.log.commit = max(before, committed_index(state.configuration, state.durable_match()))
        if state.log.commit > before and (state.configuration.joint or state.configurations.index > before):
            replication._finish_change(state)

    patch.setattr(replication, "advance_commit", advance)


def the_leader_counts_its_memory(patch: Patch) -> None:
    """Thesis 10.2.1, raft-bugs 32: the leader counts entries that its own disk has not confirmed."""
    durable_match = RaftState.durable_match

    def optimistic(state: RaftState) -> dict[NodeId, Index]:
        return {**durable_match(state), state.id: state.log.last_index}

    patch.setattr(RaftState, "durable_match", optimistic)


def late_confirmations_count(patch: Patch) -> None:
    """Raft-bugs 11: the confirmation of an overwritten write makes durable what replaced it."""

    def ignore(writes: PendingWrites, first: Index) -> None:
        pass

    patch.setattr(PendingWrites, "truncate", ignore)


def old_requests_truncate(patch: Patch) -> None:
    """Raft-bugs 15: a request replaces everything behind `previous_index`, whether it matches or not."""

    def everything(log: Log, previous_index: Index, entries: Sequence[Entry]) -> Sequence[Entry]:
        return entries

    patch.setattr(Log, "new_entries", everything)


def logs_always_match(patch: Patch) -> None:
    """Paper 5.3: the consistency check only asks whether the log is long enough."""
    matches = Log.matches

    def careless(log: Log, index: Index, term: Term) -> bool:
        return matches(log, index, term) or (log.commit < index <= log.last_index)

    patch.setattr(Log, "matches", careless)


def heartbeats_commit_what_may_not_match(patch: Patch) -> None:
    """A heartbeat names the leader's commit index, whatever the follower holds."""
    send_heartbeat = heartbeats.send_heartbeat

    def careless(state: RaftState, peer: NodeId) -> None:
        send_heartbeat(state, peer)
        sent = state.outbox[-1]
        if isinstance(sent, HeartbeatRequest):
            state.outbox[-1] = dataclasses.replace(sent, commit=state.log.commit)

    patch.setattr(heartbeats, "send_heartbeat", careless)


def reads_do_not_wait_for_the_term(patch: Patch) -> None:
    """Thesis 6.4 step 1, raft-bugs 40: ReadIndex before a commit in the own term."""
    patch.setattr(RaftState, "term_is_committed", True)


def reads_share_an_old_round(patch: Patch) -> None:
    """Thesis 6.4 step 3, raft-bugs 41: answers to an earlier round confirm a later one."""
    open_round = ReadQueue.open_round

    def reuse(queue: ReadQueue, index: Index) -> Round:
        queue.sequence = 0
        return open_round(queue, index)

    patch.setattr(ReadQueue, "open_round", reuse)


def reads_need_no_quorum(patch: Patch) -> None:
    """Thesis 6.4 step 3, raft-bugs 42: the leader confirms reads by itself."""

    def trusting(state: RaftState) -> None:
        state.reads.close_round()

    patch.setattr(reads, "advance", trusting)


def a_restart_forgets_the_term(patch: Patch) -> None:
    """Paper figure 2, raft-bugs 1: a restarted node knows only the terms of its entries."""
    restart = Node.restart

    def forgetful(node: Node) -> None:
        node.disk_hard_state = HardState(node.disk_log[-1].term if node.disk_log else Term(0))
        restart(node)

    patch.setattr(Node, "restart", forgetful)


def without_the_cores_own_checks(patch: Patch) -> None:
    """Leave the watching to the oracle."""
    patch.setattr(core.Raft, "_check", lambda raft: None)
