"""Safety properties that one node can check by itself, on every state and on every step. Always on.

The numbers are those of docs/invariants.md. Properties of a whole cluster (election safety, state machine safety, ...)
are checked by the tests that see all nodes at once.
"""

from __future__ import annotations

from typing import NamedTuple

from raftkv.invariant import invariant
from raftkv.raft.quorum import committed_index
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId, Role, Term


class Snapshot(NamedTuple):
    """What must never go back. A NamedTuple, because one is made for every input."""

    term: Term
    vote: NodeId | None
    role: Role
    commit: Index
    applied: Index
    last_index: Index

    @classmethod
    def of(cls, state: RaftState) -> Snapshot:
        log = state.log
        return cls(state.term, state.vote, state.role, log.commit, log.applied, log.last_index)


def check_state(state: RaftState) -> None:
    """Raise InvariantViolation unless the state is a legal one."""
    state.log.validate()
    if state.role is Role.LEADER:
        invariant(state.leader == state.id, "N4: a leader follows itself")
        invariant(state.vote == state.id, "N4: a leader has voted for itself in its term")
        invariant(state.term == state.handed_hard_state.term, "N4: a leader's term was handed over to be persisted")
        for progress in state.progress.values():
            progress.validate()
        if state.log.term(state.log.commit) == state.term:
            invariant(
                state.log.commit <= committed_index(state.configuration, state.durable_match()),
                "N5: what a leader commits in its term is durable on a quorum",
            )
    else:
        invariant(not state.progress, "N6: only a leader tracks followers")
        invariant(state.reads.round is None and not state.reads.waiting, "N6: only a leader confirms reads")
        invariant(state.leader != state.id, "N6: a node that does not lead must not say so")


def check_step(before: Snapshot, after: Snapshot) -> None:
    """Raise InvariantViolation unless one step may lead from `before` to `after`."""
    invariant(after.term >= before.term, "N1: the term went back from {} to {}", before.term, after.term)
    invariant(
        after.term > before.term or before.vote is None or after.vote == before.vote,
        "N2: the vote of term {} changed from {} to {}",
        before.term,
        before.vote,
        after.vote,
    )
    invariant(
        after.commit >= before.commit, "N3: the commit index went back from {} to {}", before.commit, after.commit
    )
    invariant(after.applied >= before.applied, "N3: the applied index went back")
    if before.role is Role.LEADER and after.role is Role.LEADER:
        invariant(after.term == before.term, "N7: a leader does not enter another term without stepping down")
        invariant(after.last_index >= before.last_index, "N7: a leader never truncates its log")
