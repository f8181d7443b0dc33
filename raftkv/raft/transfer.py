"""Leadership transfer (thesis 3.10): bring the target up to date, then tell it to campaign at once.

Meanwhile the leader takes no proposals, so that the target can catch up. If the target has not taken over within an
election timeout, the leader goes on leading.
"""

from __future__ import annotations

from raftkv.raft import replication
from raftkv.raft.quorum import has_quorum
from raftkv.raft.roles import become_follower
from raftkv.raft.state import RaftState
from raftkv.raft.types import Fitness, Index, NodeId, Role

MOST_PATIENCE = 64
"""Election timeouts between two offers, at most: what kept a voter from taking over may be over by then."""


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
    """Give up after an election timeout. Without a transfer, look whether another node should lead."""
    if state.transfer_target is None:
        state.preference_elapsed += 1
        match state.fitness:
            case Fitness.BARRED:
                retire(state)
            case Fitness.HINDERED:
                relieve(state)
            case Fitness.FIT:
                prefer(state)
        return
    state.transfer_elapsed += 1
    if state.transfer_elapsed >= state.config.election_ticks:
        state.transfer_target = None
        state.transfer_elapsed = 0
        if state.fitness is Fitness.BARRED:
            become_follower(state, state.term, None)


def set_fitness(state: RaftState, fitness: Fitness) -> None:
    """Note whether this node should lead. What that means for a leader is seen to at its next tick."""
    if fitness is state.fitness:
        return
    state.fitness = fitness
    state.preference_elapsed = state.preference_wait = 0
    if fitness is Fitness.BARRED and state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        become_follower(state, state.term, None)


def prefer(state: RaftState) -> None:
    """Now and then, hand over to a voter that is preferred more, and that would not have to catch up first.

    One that does not take over although it could must not stop proposals for half of the time: the waits double, up to
    a bound.
    """
    if state.preference_elapsed < max(state.preference_wait, state.config.election_ticks):
        return
    state.preference_elapsed = 0
    own = state.config.priority
    _offer(state, [candidate for candidate in _ready_to_lead(state) if candidate[0] > own])


def relieve(state: RaftState) -> None:
    """A hindered leader: hand over as soon as there is a fit voter that would not have to catch up first.

    Only where the others decide without this node. Where its disk is needed for every commit, another leader would be
    no faster; and with a disk that hangs, this node's vote for it would never come: nobody would lead at all.
    """
    if state.preference_elapsed < state.preference_wait:
        return
    state.preference_elapsed = 0
    if has_quorum(state.configuration, replication.active(state) - {state.id}):
        _offer(state, _ready_to_lead(state))


def retire(state: RaftState) -> None:
    """A barred leader: hand over to whoever can catch up within an election timeout, or just leave."""
    successor = replication.best_successor(state, leaving=False)
    if successor is None or start(state, successor) is not None:
        become_follower(state, state.term, None)


def _ready_to_lead(state: RaftState) -> list[tuple[int, Index, NodeId]]:
    """Return the fit voters that answer and have all that is committed: (priority, match, voter)."""
    return [
        (progress.priority, progress.match, peer)
        for peer, progress in state.progress.items()
        if progress.hindered is False
        and progress.match >= state.log.commit
        and progress.silent_ticks <= state.config.heartbeat_ticks + 1
        and peer in state.configuration.voters - state.configuration.witnesses
    ]


def _offer(state: RaftState, candidates: list[tuple[int, Index, NodeId]]) -> None:
    if candidates and state.term_is_committed:
        patience = state.config.election_ticks
        state.preference_wait = min(2 * max(state.preference_wait, patience), MOST_PATIENCE * patience)
        start(state, max(candidates)[2])
