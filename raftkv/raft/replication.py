"""The leader's half of replication. The commit rule is `advance_commit`."""

from __future__ import annotations

from raftkv.invariant import invariant
from raftkv.raft import heartbeat, read_index
from raftkv.raft.log import entry_bytes
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatResponse, TimeoutNow
from raftkv.raft.progress import ProgressState
from raftkv.raft.quorum import committed_index
from raftkv.raft.state import RaftState
from raftkv.raft.types import Entry, EntryKind, Index, NodeId, Role


def advance_commit(state: RaftState) -> None:
    """The commit rule (paper 5.3, 5.4.2).

    An entry is committed when a quorum holds it durably *and* it is of the current term; entries of earlier terms are
    committed only through one of the current term (raft-bugs 6). The leader's own disk counts like any other and only
    when it has confirmed (thesis 10.2.1).
    """
    index = committed_index(state.configuration, state.durable_match())
    if index > state.log.commit and state.log.matches(index, state.term):
        first_of_term = not read_index.term_is_committed(state)
        state.log.commit = index
        if first_of_term:
            read_index.start_round(state)


def start_term(state: RaftState) -> None:
    """A new leader's first act: an empty entry, which commits what earlier terms left (paper 8)."""
    append(state, EntryKind.NOOP, b"")
    heartbeat.broadcast(state)


def append(state: RaftState, kind: EntryKind, data: bytes) -> Index:
    """Append one entry of the current term to the leader's log, and send it to every follower that can take it."""
    index = Index(state.log.last_index + 1)
    state.append([Entry(state.term, index, kind, data)])
    for peer in state.progress:
        send_appends(state, peer)
    return index


def send_appends(state: RaftState, peer: NodeId) -> None:
    """Send `peer` as much of the log as its progress allows."""
    progress = state.progress[peer]
    while progress.next <= state.log.last_index and not progress.paused(state.config.max_inflight_bytes):
        _send_append(state, peer, with_entries=True)


def on_append_response(state: RaftState, response: AppendResponse) -> None:
    if state.role is not Role.LEADER or response.sender not in state.progress:
        return
    progress = state.progress[response.sender]
    progress.silent_ticks = 0
    if response.rejected:
        next_probe, _ = state.log.hint(response.hint_index, response.hint_term)
        if progress.rejected(response.index, next_probe):
            _send_append(state, response.sender, with_entries=True)
        return
    invariant(
        response.index <= state.log.last_index,
        "node {} acknowledged entry {} of a log that ends at {}",
        response.sender,
        response.index,
        state.log.last_index,
    )
    if progress.accepted(response.index):
        advance_commit(state)
    send_appends(state, response.sender)
    finish_transfer(state)


def on_heartbeat_response(state: RaftState, response: HeartbeatResponse) -> None:
    if state.role is not Role.LEADER or response.sender not in state.progress:
        return
    progress = state.progress[response.sender]
    progress.silent_ticks = 0
    if progress.match < state.log.last_index and progress.retry_ticks >= state.config.heartbeat_ticks:
        # Requests or answers may have been lost. Probing: ask again. Replicating: a request without entries behind all
        # that is in flight is refused exactly when something before it is missing. Once a heartbeat interval, not once
        # a heartbeat: every ReadIndex round sends some, and a probe may carry max_append_bytes.
        progress.retry_ticks = 0
        progress.probe_sent = False
        if progress.state is ProgressState.PROBE:
            send_appends(state, response.sender)
        elif progress.state is ProgressState.REPLICATE:
            _send_append(state, response.sender, with_entries=False)
    if response.read_sequence > progress.read_sequence:
        progress.read_sequence = response.read_sequence
        read_index.advance(state)


def on_unreachable(state: RaftState, peer: NodeId) -> None:
    """The connection to `peer` broke: what was in flight may be lost."""
    progress = state.progress.get(peer)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.probe(Index(progress.match + 1))


def finish_transfer(state: RaftState) -> None:
    """Leadership transfer, second step: the target has the whole log durably, so let it campaign (thesis 3.10)."""
    target = state.transfer_target
    if target is not None and state.progress[target].match == state.log.last_index:
        state.send(TimeoutNow(sender=state.id, receiver=target, term=state.term))


def _send_append(state: RaftState, peer: NodeId, *, with_entries: bool) -> None:
    progress = state.progress[peer]
    previous_index = Index(progress.next - 1)
    previous_term = state.log.term(previous_index)
    if previous_term is None:
        # The entry before the next one is compacted. Sending without it would corrupt the follower (raft-bugs 13).
        progress.await_snapshot(Index(state.log.first_index - 1))
        state.snapshots_needed.append(peer)
        return
    entries: tuple[Entry, ...] = ()
    if with_entries:
        stop = Index(state.log.last_index + 1)
        entries = state.log.slice(progress.next, stop, state.config.max_append_bytes)
    state.send(
        AppendRequest(
            sender=state.id,
            receiver=peer,
            term=state.term,
            previous_index=previous_index,
            previous_term=previous_term,
            commit=state.log.commit,
            entries=entries,
        )
    )
    progress.commit_sent = Index(max(progress.commit_sent, min(state.log.commit, previous_index + len(entries))))
    if entries or progress.state is ProgressState.PROBE:
        progress.sent(Index(previous_index + len(entries)), sum(entry_bytes(entry) for entry in entries))
