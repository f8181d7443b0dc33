"""Snapshots as the core sees them: where they stand in the log. The bytes are the driver's and the storage's business.

The leader's half: a follower whose next entry is compacted is in Progress' SNAPSHOT state and is named in
`Ready.snapshots_needed`. The driver streams a checkpoint to it, and says so (`delivered`); only then the core sends
InstallSnapshot, a message of a few bytes that takes part in the protocol like any other. Witnesses have no state, so
they are sent the message alone.

The follower's half, `on_install_snapshot`: what its log holds already it keeps, else the whole log goes, a stale tail
included (raft-bugs 26, 27), and the driver replaces state and log in one step of its log store (`LogWrite.restore`).
"""

from __future__ import annotations

from raftkv.raft.messages import AppendResponse, InstallSnapshot
from raftkv.raft.progress import ProgressState
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index, NodeId


def need(state: RaftState, peer: NodeId) -> None:
    """Leader: the next entry of `peer` is compacted."""
    progress = state.progress[peer]
    progress.await_snapshot(Index(state.log.first_index - 1))
    if progress.witness:
        delivered(state, peer, state.snapshot)
    else:
        state.snapshots_needed.append(peer)


def delivered(state: RaftState, peer: NodeId, snapshot: Snapshot | None) -> None:
    """Leader: `peer` holds the checkpoint of `snapshot`; have it installed."""
    progress = state.progress.get(peer)
    if snapshot is None or progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    progress.installing = True
    progress.retry_ticks = 0
    progress.snapshot_index = snapshot.index
    bare = peer in state.configuration.witnesses
    state.send(InstallSnapshot(sender=state.id, receiver=peer, term=state.term, snapshot=snapshot, bare=bare))


def failed(state: RaftState, peer: NodeId) -> None:
    """Leader: no checkpoint reached `peer`. Find out anew what it needs."""
    progress = state.progress.get(peer)
    if progress is not None and progress.state is ProgressState.SNAPSHOT:
        progress.probe(Index(progress.match + 1))
        progress.probe_sent = True  # not before the next heartbeat is answered: a failure must not make a busy loop


def retry(state: RaftState, peer: NodeId) -> None:
    """Leader, when `peer` answers a heartbeat: an installation that never ended is begun again."""
    progress = state.progress[peer]
    if progress.installing and progress.retry_ticks >= state.config.election_ticks:
        failed(state, peer)


def on_install_snapshot(state: RaftState, message: InstallSnapshot) -> None:
    """Follower: the bytes are here. Answer what the log matches the leader's up to, once that is durable."""
    log, snapshot = state.log, message.snapshot
    if snapshot.index > log.commit:
        if log.matches(snapshot.index, snapshot.term):
            log.commit = snapshot.index  # the log holds it all (paper 7, step 6)
        else:
            state.restore(snapshot)
    state.promise(AppendResponse(sender=state.id, receiver=message.sender, term=state.term, index=log.commit))


def take(state: RaftState, index: Index) -> Snapshot:
    """Return what a checkpoint at the applied `index` stands for."""
    term = state.log.term(index)
    if term is None or index > state.log.applied:
        raise ValueError(f"entry {index} is not among the applied ones that the log holds")
    return Snapshot(index, term, state.configurations.at(index))


def compact(state: RaftState, snapshot: Snapshot, first_kept: Index) -> None:
    """`snapshot` is durable: forget the entries below `first_kept`, and tell followers of it that need those."""
    if first_kept > snapshot.index + 1:
        raise ValueError(f"entry {first_kept - 1} lies behind the snapshot of {snapshot.index}")
    if snapshot.index > state.log.applied:
        raise ValueError(f"a snapshot of entry {snapshot.index}, but only {state.log.applied} are applied")
    if state.log.term(snapshot.index) not in (None, snapshot.term):
        raise ValueError(f"a snapshot of entry {snapshot.index} of term {snapshot.term}: that entry is of another term")
    if state.snapshot is None or snapshot.index > state.snapshot.index:
        # An older one may come late, after one from the leader was installed: it covers no more.
        state.snapshot = snapshot
    base = Index(first_kept - 1)
    if base >= state.log.first_index:
        state.configurations.compact(base)
        state.log.compact(base)
