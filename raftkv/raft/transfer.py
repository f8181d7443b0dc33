"""Leadership transfer (thesis 3.10): bring the target up to date, then tell it to campaign at once.

Meanwhile the leader takes no proposals, so that the target can catch up. If the target has not taken over within an
election timeout, the leader goes on leading.
"""

from __future__ import annotations

from raftkv.raft import replication
from raftkv.raft.state import RaftState
from raftkv.raft.types import NodeId, Role


def start(state: RaftState, target: NodeId) -> str | None:
    """Begin to hand leadership to `target`. Return None, or why that cannot be done (then nothing has changed)."""
    if state.role is not Role.LEADER:
        return f"node {state.id} is not the leader"
    if target == state.id:
        return f"node {target} is the leader already"
    if target in state.configuration.witnesses:
        return f"node {target} is a witness: it holds no data and never leads"
    if target in state.configuration.learners:
        return f"node {target} is a learner: promote it first"
    if target not in state.configuration.voters:
        voters = ", ".join(str(voter) for voter in sorted(state.configuration.voters))
        return f"node {target} is not a voter of this cluster (voters: {voters})"
    if state.progress[target].silent_ticks >= state.config.election_ticks:
        return f"node {target} has not answered the leader for an election timeout"
    if state.transfer_target is not None and state.transfer_target != target:
        return f"leadership is being transferred to node {state.transfer_target} already"
    if state.transfer_target is None:  # asking again must not prolong the pause of proposals
        state.transfer_target = target
        state.transfer_elapsed = 0
    replication.send_appends(state, target)
    replication.finish_transfer(state)
    return None


def tick(state: RaftState) -> None:
    """Give up after an election timeout. Without a transfer, look now and then for a preferred leader."""
    if state.transfer_target is None:
        state.preference_elapsed += 1
        if state.preference_elapsed >= max(state.preference_wait, state.config.election_ticks):
            state.preference_elapsed = 0
            prefer(state)
        return
    state.transfer_elapsed += 1
    if state.transfer_elapsed >= state.config.election_ticks:
        state.transfer_target = None
        state.transfer_elapsed = 0


def prefer(state: RaftState) -> None:
    """Hand over to a voter that is preferred more, and that would not have to catch up first.

    One that does not take over although it could must not stop proposals for half of the time: the waits double.
    """
    own = state.config.priority
    candidates = [
        (progress.priority, progress.match, peer)
        for peer, progress in state.progress.items()
        if progress.priority > own
        and progress.match >= state.log.commit
        and progress.silent_ticks <= state.config.heartbeat_ticks + 1
        and peer in state.configuration.voters - state.configuration.witnesses
    ]
    if candidates and state.transfer_target is None and state.term_is_committed:
        state.preference_wait = 2 * max(state.preference_wait, state.config.election_ticks)
        start(state, max(candidates)[2])
