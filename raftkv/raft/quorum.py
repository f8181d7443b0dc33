"""Majorities. Knows only sets and numbers, so that every rule here can be checked by enumeration.

Whatever a membership is (one set of voters today, two during a joint change), the rest of the core asks these three
questions and never counts by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum

from raftkv.invariant import invariant
from raftkv.raft.types import Index, NodeId


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who decides."""

    voters: frozenset[NodeId]

    def __post_init__(self) -> None:
        invariant(len(self.voters) > 0, "a configuration needs at least one voter")

    @property
    def members(self) -> frozenset[NodeId]:
        """Everybody who is sent the log."""
        return self.voters


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """Return the smallest number of `voters` such that any two sets of that size intersect."""
    return voters // 2 + 1


def has_quorum(configuration: Configuration, nodes: Set[NodeId]) -> bool:
    """Return whether `nodes` hold a quorum of `configuration`."""
    return len(configuration.voters & nodes) >= majority(len(configuration.voters))


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Return how an election stands, given each answer that came so far."""
    voters = configuration.voters
    needed = majority(len(voters))
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= needed:
        return VoteResult.WON
    if len(voters) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def durable_on(configuration: Configuration, match: Mapping[NodeId, Index]) -> tuple[Index, ...]:
    """Return, for k = 1..N, the highest index that is durable on at least k voters (element k - 1)."""
    return tuple(sorted([match.get(voter, Index(0)) for voter in configuration.voters], reverse=True))


def committed_index(configuration: Configuration, match: Mapping[NodeId, Index]) -> Index:
    """Return the highest index that a quorum holds durably.

    Whether it is *committed* also depends on the entry's term: see `replication.advance_commit`.
    """
    return durable_on(configuration, match)[majority(len(configuration.voters)) - 1]
