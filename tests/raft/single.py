"""One core on a bench: booted from any disk, fed by hand, its disk instant unless the test says otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterable

from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, Raft, RaftConfig, Role, Term
from raftkv.raft.messages import (
    AppendRequest,
    HeartbeatRequest,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
)
from tests.raft.network import entries_of

ME = NodeId(1)
ELECTION_TICKS = 10
HEARTBEAT_TICKS = 2


def boot(
    log_terms: Iterable[int] = (),
    *,
    size: int = 3,
    term: int = 0,
    vote: int | None = None,
    commit: int = 0,
    seed: int = 1,
) -> Raft:
    """Start node 1 of a cluster of `size` with a log whose entries have these terms."""
    entries = entries_of(log_terms)
    return Raft(
        RaftConfig(
            node_id=ME,
            configuration=Configuration(frozenset(NodeId(i) for i in range(1, size + 1))),
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
        ),
        hard_state=HardState(
            Term(max([term, *(entry.term for entry in entries)])), None if vote is None else NodeId(vote), Index(commit)
        ),
        entries=entries,
        applied=Index(0),
        rng=random.Random(seed),
    )


def drain(raft: Raft, *, disk: bool = True) -> list[Message]:
    """Do what the core asks for; return every message that may leave. Without a disk, promises stay behind."""
    sent: list[Message] = []
    while (ready := raft.ready()) is not None:
        sent += ready.messages
        if ready.write is not None and disk:
            sent += ready.write.messages
            raft.persisted(ready.write.number)
        if ready.committed:
            raft.applied(ready.committed[-1].index)
    return sent


def tick(raft: Raft, count: int = 1) -> list[Message]:
    sent: list[Message] = []
    for _ in range(count):
        raft.tick()
        sent += drain(raft)
    return sent


def hear(raft: Raft, *messages: Message) -> list[Message]:
    """Deliver messages; return the answers."""
    for message in messages:
        raft.step(message)
    return drain(raft)


def pre_candidate(raft: Raft) -> Raft:
    """Let the election timer run out."""
    while raft.role is not Role.PRE_CANDIDATE:
        raft.tick()
    drain(raft)
    return raft


def candidate(raft: Raft) -> Raft:
    """Let it win the pre-vote too."""
    pre_candidate(raft)
    for voter in sorted(raft.voters - {ME}):
        if raft.role is Role.PRE_CANDIDATE:
            raft.step(PreVoteResponse(sender=voter, receiver=ME, term=Term(raft.term + 1), granted=True))
    drain(raft)
    assert raft.role is Role.CANDIDATE
    return raft


def leader(raft: Raft) -> Raft:
    """Let it win the election. Its no-op is on its own disk and nowhere else."""
    candidate(raft)
    for voter in sorted(raft.voters - {ME}):
        if raft.role is Role.CANDIDATE:
            raft.step(granted(voter, raft.term))
    drain(raft)
    assert raft.role is Role.LEADER
    return raft


# --- messages to node 1 -----------------------------------------------------------------------------------------------


def vote_request(sender: int, term: int, last: tuple[int, int] = (0, 0), *, transfer: bool = False) -> VoteRequest:
    """`last` is (term, index) of the candidate's last entry."""
    return VoteRequest(
        sender=NodeId(sender),
        receiver=ME,
        term=Term(term),
        last_term=Term(last[0]),
        last_index=Index(last[1]),
        leadership_transfer=transfer,
    )


def pre_vote_request(sender: int, term: int, last: tuple[int, int] = (0, 0)) -> PreVoteRequest:
    return PreVoteRequest(
        sender=NodeId(sender), receiver=ME, term=Term(term), last_term=Term(last[0]), last_index=Index(last[1])
    )


def granted(sender: int, term: int) -> VoteResponse:
    return VoteResponse(sender=NodeId(sender), receiver=ME, term=Term(term), granted=True)


def refused(sender: int, term: int) -> VoteResponse:
    return VoteResponse(sender=NodeId(sender), receiver=ME, term=Term(term), granted=False)


def heartbeat(sender: int, term: int, *, commit: int = 0, read_sequence: int = 0) -> HeartbeatRequest:
    return HeartbeatRequest(
        sender=NodeId(sender), receiver=ME, term=Term(term), commit=Index(commit), read_sequence=read_sequence
    )


def append(sender: int, term: int, previous: tuple[int, int], *terms: int, commit: int = 0) -> AppendRequest:
    """A request behind `previous` (term, index) with entries of these terms."""
    previous_term, previous_index = previous
    return AppendRequest(
        sender=NodeId(sender),
        receiver=ME,
        term=Term(term),
        previous_index=Index(previous_index),
        previous_term=Term(previous_term),
        commit=Index(commit),
        entries=tuple(
            Entry(Term(t), Index(i), EntryKind.COMMANDS, b"%d@%d" % (i, t))
            for i, t in enumerate(terms, start=previous_index + 1)
        ),
    )
