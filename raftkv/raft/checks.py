"""Safety properties that one node can check by itself, on every state and on every step. Always on.

The numbers are those of docs/invariants.md. Properties of a whole cluster (election safety, state machine safety, ...)
are checked by the tests that see all nodes at once.
"""

from __future__ import annotations

from typing import NamedTuple

from raftkv.invariant import InvariantViolation, invariant
from raftkv.raft import replication
from raftkv.raft.quorum import Configuration, committed_index
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId, Role, Term


class Footprint(NamedTuple):
    """What must never go back, and what decided. A NamedTuple, because one is made for every input."""

    term: Term
    vote: NodeId | None
    role: Role
    commit: Index
    applied: Index
    last_index: Index
    configuration: Configuration

    @classmethod
    def of(cls, state: RaftState) -> Footprint:
        log = state.log
        return cls(
            state.term, state.vote, state.role, log.commit, log.applied, log.last_index, state.configurations.current
        )


def check_state(state: RaftState) -> None:
    """Raise InvariantViolation unless the state is a legal one."""
    state.log.validate()
    if state.role is Role.LEADER:
        if state.leader != state.id or state.vote != state.id or state.term != state.handed_hard_state.term:
            raise InvariantViolation(
                f"N4: a leader follows itself ({state.leader}), has voted for itself ({state.vote}), and its term "
                f"{state.term} was handed over to be persisted ({state.handed_hard_state.term})"
            )
        for progress in state.progress.values():
            progress.validate()
    elif state.progress or state.reads.round is not None or state.reads.waiting or state.leader == state.id:
        raise InvariantViolation("N6: only a leader tracks followers, confirms reads and follows itself")


def check_step(before: Footprint, after: Footprint, state: RaftState) -> None:
    """Raise InvariantViolation unless one step may lead from `before` to `after`, the footprint of `state`."""
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
        if after.commit > before.commit:
            # By the configuration of before: the commit may have put another one into the log.
            decided = committed_index(before.configuration, state.durable_match(), replication.excused(state))
            invariant(
                after.commit <= decided and state.log.term(after.commit) == after.term,
                "N5: a leader of term {} committed up to {}, of term {}; a quorum holds up to {}",
                after.term,
                after.commit,
                state.log.term(after.commit),
                decided,
            )
