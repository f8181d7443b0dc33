"""Elections: who may be voted for, and when one has won.

The vote rule is `may_vote`. PreVote (thesis 9.6) asks first whether an election could be won, so that a node that was
cut off does not raise the term when it comes back; stickiness (thesis 4.2.3) refuses while a leader is being heard, so
that such a node cannot depose a working one. CheckQuorum (thesis 6.2) is the other half: a leader that hears no quorum
steps down by itself.
"""

from __future__ import annotations

from raftkv.raft import replication
from raftkv.raft.messages import PreVoteRequest, PreVoteResponse, VoteRequest, VoteResponse
from raftkv.raft.quorum import VoteResult, has_quorum, vote_result
from raftkv.raft.roles import become_candidate, become_follower, become_leader, become_pre_candidate
from raftkv.raft.state import RaftState
from raftkv.raft.types import NodeId, Role, Term

SUSPICION_GAP_TICKS = 2
"""Between the campaigns of two followers that were told in the same moment that their leader may be dead."""


def may_vote(state: RaftState, request: VoteRequest) -> bool:
    """The vote rule (paper 5.2, 5.4.1): one vote a term, and only for a log that is at least as up-to-date.

    The caller has brought `state.term` up to the request's.
    """
    free = state.vote is None or state.vote == request.sender
    return free and state.log.is_up_to_date(request.last_index, request.last_term)


def may_pre_vote(state: RaftState, request: PreVoteRequest) -> bool:
    """Whether this node could vote for the sender in the term it would campaign in (thesis 9.6; raft-bugs 8)."""
    if hears_leader(state):
        return False
    free = request.term > state.term or (
        request.term == state.term and (state.vote is None or state.vote == request.sender)
    )
    return free and state.log.is_up_to_date(request.last_index, request.last_term)


def hears_leader(state: RaftState) -> bool:
    """Whether a leader is alive, as far as this node can tell: it has heard it within an election timeout.

    A leader hears itself: CheckQuorum makes it step down once it no longer hears a quorum. With leases (`lease`), what
    counts is only when a leader was heard, of whatever term: a node that learns of a new term, or has just started,
    has forgotten whom.
    """
    if state.quarantine > 0:
        return True
    return state.leader is not None and state.election_elapsed < state.config.election_ticks


def campaign(state: RaftState) -> None:
    """The election timer ran out: ask for pre-votes. Not while this node has promised to vote for nobody: its own vote
    would break the promise as well as another one's.
    """
    if state.quarantine > 0:
        return
    if not state.may_lead:
        # The leader is gone for it too: with the timer restarted it would seem to hear it, and refuse its vote.
        become_follower(state, state.term, None)
        return
    become_pre_candidate(state)
    state.votes[state.id] = True
    for peer in state.rivals:
        state.send(_pre_vote_request(state, peer))
    _count_pre_votes(state)


def ask_again(state: RaftState) -> None:
    """Repeat the requests that nobody has answered, every heartbeat interval (paper 5.1).

    One lost message must not cost a whole election timeout. A candidate's own vote must be durable first, as ever.
    """
    if state.election_elapsed % state.config.heartbeat_ticks or state.id not in state.votes:
        return
    for peer in state.rivals:
        if peer in state.votes:
            continue
        if state.role is Role.PRE_CANDIDATE:
            state.send(_pre_vote_request(state, peer))
        else:
            state.send(_vote_request(state, peer))


def _pre_vote_request(state: RaftState, peer: NodeId) -> PreVoteRequest:
    return PreVoteRequest(
        sender=state.id,
        receiver=peer,
        term=Term(state.term + 1),
        last_index=state.log.last_index,
        last_term=state.log.last_term,
    )


def _vote_request(state: RaftState, peer: NodeId) -> VoteRequest:
    return VoteRequest(
        sender=state.id,
        receiver=peer,
        term=state.term,
        last_index=state.log.last_index,
        last_term=state.log.last_term,
        leadership_transfer=state.asked_to_stand,
    )


def suspect(state: RaftState, peer: NodeId) -> None:
    """The connection to `peer` was refused or reset. If it is the leader, do not wait out the election timer.

    Only this node's own patience ends: it asks for pre-votes soon, and it no longer says that it hears the leader. A
    leader that others still hear stays (thesis 4.2.3): they refuse. All followers may see their connections end in the
    same moment, and a split vote would cost what the hint has won: so each has a wait of its own, by its rank. Where
    leases are on, the hint is worth nothing: a voter that forgets its leader early would let another one be elected
    within the lease.
    """
    if state.role is not Role.FOLLOWER or state.leader != peer or state.config.lease_ms or state.quarantine > 0:
        return
    state.leader = None
    heirs = sorted(state.configuration.deciders - state.configuration.witnesses - {peer})
    ticks = 1 + SUSPICION_GAP_TICKS * (heirs.index(state.id) if state.id in heirs else 0)
    # Put the timer forward, not the time-out back: a leader that is alive after all resets the timer.
    state.election_elapsed = max(state.election_elapsed, state.election_timeout - ticks)


def stand(state: RaftState, *, leadership_transfer: bool) -> None:
    """Campaign for real. The requests wait until the new term and the own vote are durable.

    Otherwise a candidate that crashes could win the same term twice, with two different logs.
    """
    become_candidate(state)
    state.asked_to_stand = leadership_transfer
    for peer in state.rivals:
        state.promise(_vote_request(state, peer))


def own_vote_durable(state: RaftState, number: int) -> None:
    """Write `number` is durable: if it holds this candidate's own vote, count it."""
    if state.role is Role.CANDIDATE and 0 < state.vote_write <= number:
        state.votes[state.id] = True
        _count_votes(state)


def on_pre_vote_request(state: RaftState, request: PreVoteRequest) -> None:
    granted = may_pre_vote(state, request)
    # A refusal carries our own term: a sender that lags behind catches up and is not stuck for ever (raft-bugs 7).
    term = request.term if granted else state.term
    state.send(PreVoteResponse(sender=state.id, receiver=request.sender, term=term, granted=granted))


def on_pre_vote_response(state: RaftState, response: PreVoteResponse) -> None:
    if state.role is not Role.PRE_CANDIDATE:
        return
    if response.granted and response.term != state.term + 1:
        return  # an answer to an earlier campaign
    state.votes.setdefault(response.sender, response.granted)
    _count_pre_votes(state)


def on_vote_request(state: RaftState, request: VoteRequest) -> None:
    # For a request of a higher term the dispatcher has asked; here it may be of a term that is known already.
    leased = state.quarantine > 0 and not request.leadership_transfer and state.vote != request.sender
    if not leased and may_vote(state, request):
        state.vote = request.sender
        state.election_elapsed = 0
        state.promise(VoteResponse(sender=state.id, receiver=request.sender, term=state.term, granted=True))
    else:
        state.send(VoteResponse(sender=state.id, receiver=request.sender, term=state.term, granted=False))


def on_vote_response(state: RaftState, response: VoteResponse) -> None:
    """The dispatcher has made sure that the response is of the current term (raft-bugs 4)."""
    if state.role is not Role.CANDIDATE:
        return
    state.votes.setdefault(response.sender, response.granted)
    _count_votes(state)


def check_quorum(state: RaftState) -> None:
    """CheckQuorum (thesis 6.2), every tick: a leader that no quorum has answered for an election timeout steps down."""
    last_index = state.log.last_index
    for progress in state.progress.values():
        progress.silent_ticks += 1
        progress.stalled_ticks = progress.stalled_ticks + 1 if progress.match < last_index else 0
    if not has_quorum(state.configuration, replication.active(state)):
        become_follower(state, state.term, None)


def _count_pre_votes(state: RaftState) -> None:
    match vote_result(state.configuration, state.votes):
        case VoteResult.WON:
            stand(state, leadership_transfer=False)
        case VoteResult.LOST:
            become_follower(state, state.term, None)
        case VoteResult.PENDING:
            pass


def _count_votes(state: RaftState) -> None:
    match vote_result(state.configuration, state.votes):
        case VoteResult.WON:
            become_leader(state)
            replication.start_term(state)
        case VoteResult.LOST:
            become_follower(state, state.term, None)
        case VoteResult.PENDING:
            pass
