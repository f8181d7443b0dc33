"""Leader leases (thesis 6.4.1): what a leader may answer without asking anybody.

Voters that have heard a leader refuse to vote for another one for an election timeout (stickiness, thesis 4.2.3). So a
leader whose round of heartbeats was confirmed by a quorum is the only leader until an election timeout after that round
*began*. The core has no clock: it numbers the rounds, and the driver, which has one, knows when each began and allows
for clocks that run at different speeds. (An election timeout here means election_ticks - 1 ticks: the first one may
come at once.)

Five things would break the promise, and each has its rule:
  - a transfer asks voters not to be sticky: no lease while one is under way, nor, once TimeoutNow has left, for the
    rest of the term, since that message may arrive late (raft-bugs 43);
  - a node that restarts, or that takes over a higher term from somebody's answer, forgets whom it heard: it votes for
    nobody for an election timeout after it heard any leader, or started (`quarantine`);
  - a hint that the leader is dead makes a voter impatient: hints are ignored (`election.suspect`);
  - a new leader does not know what its predecessor committed: no lease before a commit in its own term (raft-bugs 40);
  - voters may have followed another leader since: a round of an earlier term of leadership counts for nothing.
"""

from __future__ import annotations

from raftkv.raft.quorum import reached_by_quorum
from raftkv.raft.state import RaftState
from raftkv.raft.types import Role


def open_round(state: RaftState) -> None:
    """Make the heartbeats that are about to leave a round, unless one is under way."""
    if state.config.lease_ms and state.reads.round is None and state.term_is_committed:
        state.reads.open_round(state.log.commit)


def rounds(state: RaftState) -> tuple[int, int] | None:
    """Return (newest round, newest round that a lease may rest on), or None where this node does not lead.

    A quorum has answered the latter, or a later one, with the promise to vote for nobody meanwhile; 0: none, or there
    may be no lease now. The former is told all the same: the driver must know when each round began, also one that
    becomes a lease only when a transfer has been given up, or the term has its first commit.
    """
    if not state.config.lease_ms or state.role is not Role.LEADER:
        return None
    if state.lease_void or state.transfer_target is not None or not state.term_is_committed:
        return state.reads.sequence, 0
    promised = {peer: progress.lease_sequence for peer, progress in state.progress.items()}
    promised[state.id] = state.reads.sequence
    return state.reads.sequence, reached_by_quorum(state.configuration, promised)
