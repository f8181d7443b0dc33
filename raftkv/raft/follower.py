"""The follower's half: what a leader's requests do to a log. The dispatcher has dealt with terms already."""

from __future__ import annotations

from raftkv.invariant import invariant
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatRequest, HeartbeatResponse
from raftkv.raft.state import RaftState
from raftkv.raft.types import Fitness, Index


def on_append_request(state: RaftState, request: AppendRequest) -> None:
    """AppendEntries, receiver (paper figure 2, steps 2 to 5)."""
    log = state.log
    if not log.matches(request.previous_index, request.previous_term):
        if request.previous_index < log.commit:
            # An old request: what is committed here matches any leader's log (paper 5.4.3), so say that instead.
            _accept(state, request, log.commit)
            return
        hint_index, hint_term = log.hint(request.previous_index, request.previous_term)
        state.send(
            AppendResponse(
                sender=state.id,
                receiver=request.sender,
                term=state.term,
                rejected=True,
                index=request.previous_index,
                hint_index=hint_index,
                hint_term=hint_term,
            )
        )
        return
    state.append(log.new_entries(request.previous_index, request.entries))
    last_new = Index(request.previous_index + len(request.entries))
    log.commit = Index(max(log.commit, min(request.commit, last_new)))
    _accept(state, request, last_new)


def on_heartbeat_request(state: RaftState, request: HeartbeatRequest) -> None:
    """The leader names no commit index above what this node has acknowledged, so it needs no log check."""
    log = state.log
    invariant(
        request.commit <= log.last_index,
        "node {} knows entry {} to be durable here, but this log ends at {}: acknowledged data is gone",
        request.sender,
        request.commit,
        log.last_index,
    )
    log.commit = Index(max(log.commit, request.commit))
    state.send(
        HeartbeatResponse(
            sender=state.id,
            receiver=request.sender,
            term=state.term,
            read_sequence=request.read_sequence,
            priority=state.config.priority,
            lease_ms=state.config.lease_ms,
            hindered=state.fitness is not Fitness.FIT,
            full=state.full,
        )
    )


def _accept(state: RaftState, request: AppendRequest, index: Index) -> None:
    state.promise(AppendResponse(sender=state.id, receiver=request.sender, term=state.term, index=index))
