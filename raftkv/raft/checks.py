"""Safety properties that one node can check by itself, on every state and on every step. Always on.

The numbers are those of docs/invariants.md. Properties of a whole cluster (election safety, state machine safety, ...)
are checked by the tests that see all nodes at once.
"""

from __future__ import annotations

from raftkv.invariant import InvariantViolation
from raftkv.raft import replication
from raftkv.raft.quorum import Configuration, committed_index
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId, Role, Term

Footprint = tuple[Term, NodeId | None, Role, Index, Index, Index, Configuration]
"""What must never go back, and what decided; see `footprint`. A bare tuple, because one is made for every input."""


def footprint(state: RaftState) -> Footprint:
    """Return (term, vote, role, commit, applied, last index, configuration)."""
    log = state.log
    return (state.term, state.vote, state.role, log.commit, log.applied, log.last_index, state.configurations.current)


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
            if progress.match >= progress.next or progress.inflight_bytes:
                progress.validate()
    elif state.progress or state.reads.round is not None or state.reads.waiting or state.leader == state.id:
        raise InvariantViolation("N6: only a leader tracks followers, confirms reads and follows itself")


def check_step(before: Footprint, after: Footprint, state: RaftState) -> None:
    """Raise InvariantViolation unless one step may lead from `before` to `after`, the footprint of `state`."""
    old_term, old_vote, old_role, old_commit, old_applied, old_last, configuration = before
    term, vote, role, commit, applied, last, _ = after
    if term < old_term:
        raise InvariantViolation(f"N1: the term went back from {old_term} to {term}")
    if term == old_term and old_vote is not None and vote != old_vote:
        raise InvariantViolation(f"N2: the vote of term {term} changed from {old_vote} to {vote}")
    if commit < old_commit or applied < old_applied:
        raise InvariantViolation(
            f"N3: commit index {old_commit} and applied index {old_applied} became {commit} and {applied}"
        )
    if old_role is Role.LEADER and role is Role.LEADER:
        if term != old_term or last < old_last:
            raise InvariantViolation(
                f"N7: a leader of term {old_term} with a log up to {old_last} came to term {term} with one up to {last}"
            )
        if commit > old_commit:
            # By the configuration of before: the commit may have put another one into the log.
            decided = committed_index(configuration, state.durable_match(), replication.excused(state))
            if commit > decided or state.log.term(commit) != term:
                raise InvariantViolation(
                    f"N5: a leader of term {term} committed up to {commit}, of term {state.log.term(commit)}; "
                    f"a quorum holds up to {decided}"
                )
