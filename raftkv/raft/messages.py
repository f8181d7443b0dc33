"""What nodes say to each other. Every message names its sender, receiver and term.

`term` is the sender's current term, except in a PreVoteRequest and in a granted PreVoteResponse, where it is the term
that the candidate *would* campaign in (thesis 9.6): those two never change anybody's term.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft.snapshot import Snapshot
from raftkv.raft.types import Entry, Index, NodeId, Term

_NOWHERE = Index(0)
_NO_TERM = Term(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The part that every message has."""

    sender: NodeId
    receiver: NodeId
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVoteRequest(Envelope):
    """Would you vote for me in `term`? (thesis 9.6)."""

    last_index: Index
    last_term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class PreVoteResponse(Envelope):
    """Binds nobody to anything."""

    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest(Envelope):
    """RequestVote (paper figure 2)."""

    last_index: Index
    last_term: Term
    leadership_transfer: bool = False
    """The leader asked for this election, so followers need not protect it (thesis 4.2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResponse(Envelope):
    """A granted one is a promise: it leaves only when the vote is durable."""

    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendRequest(Envelope):
    """AppendEntries (paper figure 2). Without entries it only probes whether the logs match at `previous_index`."""

    previous_index: Index
    previous_term: Term
    commit: Index
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResponse(Envelope):
    """An accepting one is a promise: it leaves only when everything up to `index` is durable."""

    rejected: bool = False
    index: Index
    """Accepted: the log matches the leader's up to here. Rejected: the `previous_index` that did not match."""
    hint_index: Index = _NOWHERE
    """Rejected: the highest index at which the logs may still match ..."""
    hint_term: Term = _NO_TERM
    """... and the follower's term there (paper 5.3, "optimized to reduce the number of rejected AppendEntries")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRequest(Envelope):
    """I still lead. Carries no log position, so it can be answered without the disk."""

    commit: Index
    """Never above what the receiver is known to hold."""
    read_sequence: int
    """The newest ReadIndex round of this leader in this term; 0: none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatResponse(Envelope):
    """When I answered, I knew of no higher term than yours."""

    read_sequence: int
    priority: int = 0
    """How much the sender is preferred as a leader."""
    lease_ms: int = 0
    """For so many milliseconds after it got the request, the sender votes for nobody (`lease`); 0: no promise."""
    hindered: bool = False
    """The sender should not lead (`Fitness`)."""
    full: bool = False
    """The sender has too little room to take entries that others can commit without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSnapshot(Envelope):
    """InstallSnapshot (paper figure 13), without the bytes: the receiver's driver holds them already.

    Answered by an AppendResponse, once the snapshot is in force and durable.
    """

    snapshot: Snapshot
    bare: bool = False
    """There are no bytes: the receiver is a witness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNow(Envelope):
    """Campaign at once: leadership is handed to you (thesis 3.10)."""


Message = (
    PreVoteRequest
    | PreVoteResponse
    | VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | HeartbeatRequest
    | HeartbeatResponse
    | InstallSnapshot
    | TimeoutNow
)
