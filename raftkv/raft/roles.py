"""Entering a role: what is kept, what is forgotten (paper figure 4)."""

from __future__ import annotations

from raftkv.invariant import invariant
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId, Role, Term


def become_follower(state: RaftState, term: Term, leader: NodeId | None) -> None:
    """Follow in `term`. The vote is forgotten only when the term is new (raft-bugs 3)."""
    invariant(term >= state.term, "the term may not go back from {} to {}", state.term, term)
    if term > state.term:
        state.term = term
        state.vote = None
    _leave_role(state)
    state.role = Role.FOLLOWER
    state.leader = leader
    state.restart_election_timer()


def become_pre_candidate(state: RaftState) -> None:
    """Ask whether an election could be won. Neither term nor vote change (thesis 9.6)."""
    invariant(state.role is not Role.LEADER, "a leader does not campaign")
    _leave_role(state)
    state.role = Role.PRE_CANDIDATE
    state.leader = None
    state.restart_election_timer()


def become_candidate(state: RaftState) -> None:
    """Start a new term and vote for oneself in it (paper 5.2)."""
    invariant(state.role is not Role.LEADER, "a leader does not campaign")
    _leave_role(state)
    state.role = Role.CANDIDATE
    state.leader = None
    state.term = Term(state.term + 1)
    state.vote = state.id
    state.restart_election_timer()


def become_leader(state: RaftState) -> None:
    """Lead the current term. What followers hold is learned anew in every term."""
    invariant(state.role is Role.CANDIDATE, "only a candidate can become leader, not a {}", state.role.value)
    _leave_role(state)
    state.role = Role.LEADER
    state.leader = state.id
    state.follow_configuration(Index(state.log.last_index + 1))
    state.restart_election_timer()


def _leave_role(state: RaftState) -> None:
    state.votes = {}
    state.vote_write = 0
    state.progress = {}
    state.transfer_target = None
    state.transfer_elapsed = 0
    state.preference_elapsed = 0
    state.preference_wait = 0
    state.lease_void = False
    state.heartbeat_elapsed = 0
    state.snapshots_needed.clear()
    state.reads.drop_all()
