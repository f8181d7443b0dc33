"""Linearizable reads without the log (ReadIndex, thesis 6.4).

A read that began when the commit index was c may be served from any state that has applied c, once a quorum has
confirmed, *after* the read began, that its leader still leads. Two conditions make c good enough:
  1. the leader has committed an entry of its own term, else its commit index may lag what an earlier leader
     acknowledged (raft-bugs 40);
  2. the confirmation belongs to a round opened after the read arrived (raft-bugs 41).
Reads that arrive while a round is under way share the next one.
"""

from __future__ import annotations

from raftkv.raft import heartbeat
from raftkv.raft.quorum import has_quorum
from raftkv.raft.state import RaftState
from raftkv.raft.types import Role


def request(state: RaftState, request_id: int) -> None:
    """Queue a read. Elsewhere than on the leader it is dropped at once."""
    if state.role is not Role.LEADER:
        state.reads.dropped.append(request_id)
        return
    state.reads.waiting.append(request_id)


def start_round(state: RaftState) -> None:
    """Open a round for the waiting reads, unless one is under way or the term has no committed entry yet."""
    reads = state.reads
    if state.role is not Role.LEADER or not reads.waiting or reads.round is not None or not state.term_is_committed:
        return
    reads.open_round(state.log.commit)
    heartbeat.broadcast(state)
    advance(state)


def advance(state: RaftState) -> None:
    """Close the round under way if a quorum has confirmed it; open the next one."""
    reads = state.reads
    if reads.round is None:
        return
    confirmed = {peer for peer, progress in state.progress.items() if progress.read_sequence >= reads.round.sequence}
    if has_quorum(state.configuration, confirmed | {state.id}):
        reads.close_round()
        start_round(state)
