"""Heartbeats: I still lead, this much is committed, this read round wants an answer (paper 5.2; thesis 6.4)."""

from __future__ import annotations

from raftkv.raft import lease
from raftkv.raft.messages import HeartbeatRequest
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId


def tick(state: RaftState) -> None:
    """Send heartbeats when they are due; between them, only news of the commit index."""
    for progress in state.progress.values():
        progress.retry_ticks += 1
    state.heartbeat_elapsed += 1
    if state.heartbeat_elapsed >= state.config.heartbeat_ticks:
        lease.open_round(state)
        broadcast(state)
    else:
        announce_commit(state)


def broadcast(state: RaftState) -> None:
    """Send a heartbeat to every follower."""
    state.heartbeat_elapsed = 0
    for peer in state.progress:
        send_heartbeat(state, peer)


def send_heartbeat(state: RaftState, peer: NodeId) -> None:
    progress = state.progress[peer]
    # A follower must not take more for committed than is known to match: what it holds beyond may be of another term.
    commit = Index(min(state.log.commit, progress.match))
    progress.commit_sent = commit
    state.send(
        HeartbeatRequest(
            sender=state.id, receiver=peer, term=state.term, commit=commit, read_sequence=state.reads.sequence
        )
    )


def announce_commit(state: RaftState) -> None:
    """Tell followers that have nothing else to be sent how far the commit index has come. Once a tick at most."""
    for peer, progress in state.progress.items():
        if progress.commit_sent < min(state.log.commit, progress.match):
            send_heartbeat(state, peer)
