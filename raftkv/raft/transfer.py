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
    """Give up after an election timeout."""
    if state.transfer_target is None:
        return
    state.transfer_elapsed += 1
    if state.transfer_elapsed >= state.config.election_ticks:
        state.transfer_target = None
        state.transfer_elapsed = 0


def best_target(state: RaftState) -> NodeId | None:
    """Return the voter that would take over soonest: the most caught-up one that answers. None if none does."""
    patience = 2 * state.config.heartbeat_ticks + 1
    candidates = [
        (progress.match, peer)
        for peer, progress in state.progress.items()
        if peer in state.configuration.voters and progress.match > 0 and progress.silent_ticks <= patience
    ]
    return max(candidates)[1] if candidates else None
