"""The leader's half of replication. The commit rule is `advance_commit`."""

from __future__ import annotations

from dataclasses import replace

from raftkv.invariant import invariant
from raftkv.raft import heartbeat, read_index, snapshots
from raftkv.raft.log import entry_bytes
from raftkv.raft.membership import encode_configuration, left
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatResponse, TimeoutNow
from raftkv.raft.progress import Progress, ProgressState
from raftkv.raft.quorum import Configuration, committed_index, has_quorum
from raftkv.raft.roles import become_follower
from raftkv.raft.state import RaftState
from raftkv.raft.types import Entry, EntryKind, Index, NodeId, Role

HINDERED_PATIENCE = 4
"""Election timeouts between two attempts to send entries to a follower that takes none in."""


def advance_commit(state: RaftState) -> None:
    """The commit rule (paper 5.3, 5.4.2).

    An entry is committed when a quorum holds it durably *and* it is of the current term; entries of earlier terms are
    committed only through one of the current term (raft-bugs 6). The leader's own disk counts like any other and only
    when it has confirmed (thesis 10.2.1). Called whenever what somebody holds durably has changed.
    """
    log, configuration = state.log, state.configuration
    index = committed_index(configuration, state.durable_match(), excused(state) if configuration.witnesses else ())
    before = log.commit
    if index > before and log.matches(index, state.term):
        first_of_term = not state.term_is_committed
        log.commit = index
        if first_of_term:
            read_index.start_round(state)
        if configuration.joint or state.configurations.index > before:
            _finish_change(state)
    if configuration.witnesses:
        for peer, progress in state.progress.items():
            if progress.witness:
                send_appends(state, peer)  # `send_limit` may have risen


def excused(state: RaftState) -> set[NodeId]:
    """Return which data nodes need not hold an entry before a witness may stand in (`quorum.committed_index`)."""
    return {peer for peer, progress in state.progress.items() if progress.excused}


def excuse(state: RaftState) -> None:
    """Every tick, where there are witnesses: excuse the data nodes that are silent or take nothing in.

    A node that comes back stays excused until it lacks little, or the commits would wait until it has caught up.
    """
    if not state.configuration.witnesses:
        return
    patience = state.config.election_ticks
    for progress in state.progress.values():
        unwell = progress.silent_ticks >= patience or progress.stalled_ticks >= patience
        behind = state.log.last_index - progress.match > state.config.promotion_lag
        progress.excused = unwell or (progress.excused and behind)
    advance_commit(state)


def spared(state: RaftState, peer: NodeId) -> bool:
    """Return whether `peer` is sent no entries for now: its disk is full, and others can commit without it.

    What room it has left is for the time when they cannot, for votes, and for what is committed already.
    """
    return state.progress[peer].full and peer != state.transfer_target and not short_of_room(state)


def short_of_room(state: RaftState) -> bool:
    """Return, on the leader, whether those with room on their disks, itself included, and of those that answer, are no
    quorum, though one answers.
    """
    answering = active(state)
    roomy = {node for node in answering if node == state.id or not state.progress[node].full}
    return len(roomy) < len(answering) and (
        has_quorum(state.configuration, answering) and not has_quorum(state.configuration, roomy)
    )


def send_limit(state: RaftState, peer: NodeId) -> Index:
    """Return the highest index that `peer` may be sent: all there is, unless it is `spared` or a witness.

    A witness gets what is committed, and what every data node that is not excused holds durably. It cannot lead, so
    with a log longer than that of the one data node that is left it would keep that node from ever being elected,
    although nothing that was acknowledged is missing there.
    """
    if state.progress[peer].full and spared(state, peer):
        return state.progress[peer].match
    if not state.progress[peer].witness:
        return state.log.last_index
    configuration = state.configuration
    keepers = configuration.deciders - configuration.witnesses - {state.id}
    held = [p.match for keeper in keepers if not (p := state.progress[keeper]).excused]
    return max(state.log.commit, min([state.log.durable, *held]))


def active(state: RaftState) -> set[NodeId]:
    """Return whom this leader has heard within an election timeout, itself included."""
    patience = state.config.election_ticks
    nodes = {peer for peer, progress in state.progress.items() if progress.silent_ticks < patience}
    nodes.add(state.id)
    return nodes


def change_is_open(state: RaftState) -> bool:
    """Return whether a change of the members is under way: joint, or not committed yet."""
    return state.configuration.joint or state.configurations.index > state.log.commit


def change_problem(state: RaftState) -> str | None:
    """Return why no change of the members can begin now, or None."""
    if state.role is not Role.LEADER:
        return f"node {state.id} is not the leader"
    if state.transfer_target is not None:
        return f"leadership is being transferred to node {state.transfer_target}"
    if not state.term_is_committed:
        return "the leader has committed nothing in its term yet: try again"  # raft-bugs 18
    if change_is_open(state):
        return f"another change of the members is under way (entry {state.configurations.index}): try again"
    return None


def quorum_problem(state: RaftState, planned: Configuration) -> str | None:
    """Return why `planned` must not be put into force: it would stop the cluster, now and without a way back."""
    answering = active(state)
    if has_quorum(planned, answering):
        return None
    silent = ", ".join(str(node) for node in sorted(planned.voters - answering))
    return (
        f"of the new voters too few would answer the leader now (not: {silent}): the cluster would stop. "
        "Replace the nodes that do not answer first, or wait until they do"
    )


def lagging_learners(state: RaftState) -> dict[NodeId, str]:
    """Return which learners must not be promoted yet, and why: as voters they would hold up commits (thesis 4.2.1)."""
    reasons: dict[NodeId, str] = {}
    for peer in state.configuration.learners:
        progress = state.progress[peer]
        lag = state.log.last_index - progress.match
        if progress.silent_ticks >= state.config.election_ticks or progress.match == 0:
            reasons[peer] = "it has not answered the leader yet, or not for an election timeout"
        elif lag > state.config.promotion_lag:
            reasons[peer] = f"it lacks {lag} entries, and may lack {state.config.promotion_lag}"
    return reasons


def _finish_change(state: RaftState) -> None:
    """A commit may end a change: C_old,new is followed by C_new; after C_new a leader that is no member goes.

    Only what is *committed* counts: leaving a joint configuration that is merely in the log could leave two disjoint
    majorities (raft-bugs 19).
    """
    if state.configurations.index > state.log.commit:
        return
    if state.configuration.joint:
        append(state, EntryKind.CONFIGURATION, encode_configuration(left(state.configuration)))
        return
    # Those that left were sent the entry that says so; tell them that it is committed, as far as they answered.
    for peer in sorted(state.progress.keys() - state.configuration.members):
        heartbeat.send_heartbeat(state, peer)
    state.follow_configuration(Index(state.log.last_index + 1))
    if state.id not in state.configuration.deciders:
        # Not to wait for their election timers, whoever is furthest may campaign at once. Its lease ends here.
        successor = best_successor(state, leaving=True)
        if successor is not None:
            state.send(TimeoutNow(sender=state.id, receiver=successor, term=state.term))
        become_follower(state, state.term, None)


def best_successor(state: RaftState, *, leaving: bool) -> NodeId | None:
    """Return the voter that would take over soonest: the most caught-up one that answers. None if none does.

    Not one that says it should not lead, unless this leader is `leaving` anyway and there is no other that has all
    that is committed: one that has not would lose the election, or keep everybody waiting until it has caught up.
    """
    patience = 2 * state.config.heartbeat_ticks + 1
    candidates = [
        (progress.match >= state.log.commit, not progress.hindered, progress.match, peer)
        for peer, progress in state.progress.items()
        if peer in state.configuration.voters - state.configuration.witnesses
        and progress.match > 0
        and progress.silent_ticks <= patience
        and (leaving or not progress.hindered)
    ]
    return max(candidates)[-1] if candidates else None


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
    progress = state.progress.get(peer)
    if progress is None:
        return
    if progress.next > state.log.last_index:
        return
    limit = send_limit(state, peer)
    while progress.next <= limit and not progress.paused(state.config.max_inflight_bytes):
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
    if state.role is Role.LEADER:  # the commit may have been that of its own removal
        send_appends(state, response.sender)
        finish_transfer(state)


def on_heartbeat_response(state: RaftState, response: HeartbeatResponse) -> None:
    if state.role is not Role.LEADER or response.sender not in state.progress:
        return
    progress = state.progress[response.sender]
    progress.silent_ticks = 0
    progress.priority = response.priority
    progress.hindered = response.hindered
    progress.full = response.full
    snapshots.retry(state, response.sender)
    if (
        progress.state is not ProgressState.SNAPSHOT
        and progress.retry_ticks >= _patience(state, progress)
        and progress.match < send_limit(state, response.sender)
    ):
        # Requests or answers may have been lost. Probing: ask again. Replicating: a request without entries behind all
        # that is in flight is refused exactly when something before it is missing. Once a heartbeat interval, not once
        # a heartbeat: every ReadIndex round sends some, and a probe may carry max_append_bytes.
        progress.retry_ticks = 0
        progress.probe_sent = False
        _send_append(state, response.sender, with_entries=progress.state is ProgressState.PROBE)
    if response.lease_ms >= state.config.lease_ms:
        progress.lease_sequence = max(progress.lease_sequence, response.read_sequence)
    if response.read_sequence > progress.read_sequence:
        progress.read_sequence = response.read_sequence
        read_index.advance(state)


def _patience(state: RaftState, progress: Progress) -> int:
    """Return how many ticks to wait before what may have been lost is sent again.

    One that says it is hindered, and has long taken nothing in, has no room as a rule: a megabyte a heartbeat, for as
    long as that lasts, would be a lot for nothing.
    """
    if progress.hindered and progress.stalled_ticks > state.config.election_ticks:
        return HINDERED_PATIENCE * state.config.election_ticks
    return state.config.heartbeat_ticks


def on_unreachable(state: RaftState, peer: NodeId) -> None:
    """The connection to `peer` broke: what was in flight may be lost."""
    progress = state.progress.get(peer)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.probe(Index(progress.match + 1))


def finish_transfer(state: RaftState) -> None:
    """Leadership transfer, second step: the target has the whole log durably, so let it campaign (thesis 3.10)."""
    target = state.transfer_target
    if target is not None and state.progress[target].match == state.log.last_index:
        state.lease_void = True
        state.send(TimeoutNow(sender=state.id, receiver=target, term=state.term))


def without_payload(entry: Entry) -> Entry:
    """Return what a witness is sent of `entry`: configurations whole, of commands only where they stand."""
    return replace(entry, data=b"") if entry.kind is EntryKind.COMMANDS else entry


def _send_append(state: RaftState, peer: NodeId, *, with_entries: bool) -> None:
    progress = state.progress[peer]
    previous_index = Index(progress.next - 1)
    previous_term = state.log.term(previous_index)
    if previous_term is None:
        # The entry before the next one is compacted. Sending without it would corrupt the follower (raft-bugs 13).
        snapshots.need(state, peer)
        return
    entries: tuple[Entry, ...] = ()
    if with_entries:
        stop = max(Index(send_limit(state, peer) + 1), progress.next)
        entries = state.log.slice(progress.next, stop, state.config.max_append_bytes)
        if progress.witness:
            entries = tuple([without_payload(entry) for entry in entries])
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
        progress.sent(Index(previous_index + len(entries)), sum([entry_bytes(entry) for entry in entries]))
