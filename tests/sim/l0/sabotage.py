"""Safeguards that only a whole run can miss, switched off one at a time; the others are in tests/raft/sabotage.py."""

from __future__ import annotations

import pytest

from raftkv.raft import core, election, heartbeat, replication, roles, transfer
from raftkv.raft.messages import AppendRequest, HeartbeatRequest, HeartbeatResponse, Message
from raftkv.raft.progress import Progress
from raftkv.raft.state import RaftState
from raftkv.raft.types import Index

Patch = pytest.MonkeyPatch


def nobody_is_sticky(patch: Patch) -> None:
    """Thesis 4.2.3, raft-bugs 10: whoever asks may get a vote, although a leader is being heard."""
    patch.setattr(election, "hears_leader", lambda state: False)


def there_is_no_pre_vote(patch: Patch) -> None:
    """Thesis 9.6, raft-bugs 10: whoever hears nothing campaigns, and again, in ever higher terms."""

    def campaign(state: RaftState) -> None:
        election.stand(state, leadership_transfer=False)

    patch.setattr(election, "campaign", campaign)


def leaders_need_no_quorum(patch: Patch) -> None:
    """Thesis 6.2 (CheckQuorum): a leader that hears nobody leads on."""
    patch.setattr(election, "check_quorum", lambda state: None)


def nobody_learns_of_a_new_term(patch: Patch) -> None:
    """Raft-bugs 7, 9: requests of an earlier term are ignored, so a node in a later one stays there alone."""
    enter = core.Raft._enter_term_of
    questions = (AppendRequest, HeartbeatRequest)

    def silent(raft: core.Raft, message: Message) -> bool:
        if isinstance(message, questions) and message.term < raft.term:
            return False
        return enter(raft, message)

    patch.setattr(core.Raft, "_enter_term_of", silent)


def a_term_begins_without_an_entry(patch: Patch) -> None:
    """Paper 8: a new leader appends nothing of its own, and so cannot say what is committed."""

    def start_term(state: RaftState) -> None:
        heartbeat.broadcast(state)

    patch.setattr(replication, "start_term", start_term)


def lost_appends_are_not_repeated(patch: Patch) -> None:
    """Paper 5.3: the leader does not retry."""

    def careless(state: RaftState, response: HeartbeatResponse) -> None:
        progress = state.progress.get(response.sender)
        if progress is not None:
            progress.retry_ticks = 0
        answered(state, response)

    answered = replication.on_heartbeat_response
    patch.setattr(replication, "on_heartbeat_response", careless)


def a_transfer_never_ends(patch: Patch) -> None:
    """Thesis 3.10: a leader whose transfer came to nothing refuses proposals for ever."""
    patch.setattr(transfer, "tick", lambda state: None)


def what_a_candidate_hears_stays(patch: Patch) -> None:
    """Raft-bugs 4: votes of an earlier campaign count in the next one."""
    leave = roles._leave_role

    def keep(state: RaftState) -> None:
        votes = state.votes
        leave(state)
        state.votes = votes

    patch.setattr(roles, "_leave_role", keep)


def a_broken_connection_means_nothing_is_known(patch: Patch) -> None:
    """Raft-bugs 12: the leader goes back below what a follower has acknowledged."""

    def probe(progress: Progress, next_index: Index) -> None:
        progress._enter(type(progress.state).PROBE)
        progress.next = Index(1)

    patch.setattr(Progress, "probe", probe)
