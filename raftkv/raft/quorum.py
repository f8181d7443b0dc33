"""Majorities. Knows only sets and numbers, so that every rule here can be checked by enumeration.

While a change of several members is under way two sets of voters decide together, each by a majority of its own (joint
consensus, paper 6). The rest of the core asks these questions and never counts by itself.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar, cast

from raftkv.invariant import invariant
from raftkv.raft.types import Index, NodeId

N = TypeVar("N", bound=int)

_NOBODY: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who decides, and who is sent the log.

    A node that is to join starts with an empty one: it decides nothing and learns the real one from the log.
    """

    voters: frozenset[NodeId]
    """C_new, while a change is under way; else simply the voters. Witnesses are among them."""
    outgoing: frozenset[NodeId] = _NOBODY
    """C_old: whose majority is needed as well, while a change is under way."""
    learners: frozenset[NodeId] = _NOBODY
    """They are sent the log and decide nothing (thesis 4.2.1)."""
    witnesses: frozenset[NodeId] = _NOBODY
    """Those among voters and outgoing that hold term and index of every entry, but no payload. They never lead."""
    addresses: tuple[tuple[NodeId, str], ...] = ()
    """Where the members are, by id; nothing to the core."""
    removed: frozenset[NodeId] = _NOBODY
    """Who has been a member, or is about to be none. An id is spent then: its disk may come back, and a witness's looks
    like one that is up to date (equal terms and indexes), or be a new one, which has forgotten its votes."""

    def __post_init__(self) -> None:
        invariant(not self.learners & (self.voters | self.outgoing), "a learner does not vote")
        invariant(not self.removed & (self.voters | self.learners), "who was removed never comes back")
        invariant(self.witnesses <= self.voters | self.outgoing, "a witness votes")
        invariant(bool(self.voters) or not self.members, "a configuration needs at least one voter")
        invariant(
            not self.members or bool(self.voters - self.witnesses), "a configuration needs a voter that holds data"
        )

    @property
    def joint(self) -> bool:
        """Whether a change of voters is under way."""
        return bool(self.outgoing)

    @property
    def members(self) -> frozenset[NodeId]:
        """Everybody who is sent the log."""
        return self.voters | self.outgoing | self.learners

    @property
    def deciders(self) -> frozenset[NodeId]:
        """Everybody who has a vote, in either set."""
        return self.voters | self.outgoing

    @property
    def majorities(self) -> tuple[frozenset[NodeId], ...]:
        """The sets of voters of which each must give a majority."""
        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)

    def may_lead(self, node: NodeId) -> bool:
        """Return whether `node` may stand for election."""
        return node in self.deciders and node not in self.witnesses


NO_MEMBERS = Configuration(_NOBODY)
"""What a node that is to join starts with."""


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """Return the smallest number of `voters` such that any two sets of that size intersect."""
    return voters // 2 + 1


def has_quorum(configuration: Configuration, nodes: Set[NodeId]) -> bool:
    """Return whether `nodes` hold a quorum of `configuration`: a majority of each of its sets of voters."""
    return all(len(voters & nodes) >= majority(len(voters)) for voters in configuration.majorities)


def reached_by_quorum(configuration: Configuration, values: Mapping[NodeId, int]) -> int:
    """Return the highest value that every node of some quorum has reached, or 0; who has none counts as 0."""
    if not configuration.voters:
        return 0
    return min(_descending(voters, values)[majority(len(voters)) - 1] for voters in configuration.majorities)


def vote_result(configuration: Configuration, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Return how an election stands, given each answer that came so far."""
    granted = {node for node, vote in votes.items() if vote}
    if has_quorum(configuration, granted):
        return VoteResult.WON
    refused = {node for node, vote in votes.items() if not vote}
    # What has not refused may yet grant: the election is lost when even all of that would not do.
    if not has_quorum(configuration, configuration.deciders - refused):
        return VoteResult.LOST
    return VoteResult.PENDING


def durable_on(configuration: Configuration, match: Mapping[NodeId, Index]) -> tuple[Index, ...]:
    """Return, for k = 1..N, the highest index that is durable on at least k voters (element k - 1).

    While a change is under way both sets of voters count, and k voters means k of each, or all of the one that has
    fewer: what is claimed holds whichever set stays. N is the size of the larger one then. Witnesses do not count,
    because they hold no payload; learners are no voters.
    """
    witnesses = configuration.witnesses
    if not configuration.outgoing:
        return tuple(_descending(configuration.voters - witnesses if witnesses else configuration.voters, match))
    sets = [_descending(voters - witnesses, match) for voters in configuration.majorities]
    most = max(len(values) for values in sets)
    return tuple([min(_reached_by(values, count) for values in sets) for count in range(1, most + 1)])


def _reached_by(descending: list[Index], count: int) -> Index:
    """Return what `count` of these have reached, or all of them if there are fewer; nothing where there is none."""
    return descending[min(count, len(descending)) - 1] if descending else Index(0)


def committed_index(
    configuration: Configuration, match: Mapping[NodeId, Index], excused: Container[NodeId] = ()
) -> Index:
    """Return the highest index that a quorum holds durably.

    Whether it is *committed* also depends on the entry's term: see `replication.advance_commit`.

    Where there are witnesses, a majority is not enough: an entry on one data node and a witness would be lost with that
    one data node. So either a majority holds its data, or every voter that keeps data does, except for the `excused`
    ones: those that have fallen silent or behind (`replication.excuse`). With two data nodes and a witness, both hold
    what is acknowledged for as long as both are well, and the loss of either loses nothing (docs/adr/0005).
    """
    if not configuration.voters:
        return Index(0)
    witnesses = configuration.witnesses
    index = _held(configuration.voters, witnesses, match, excused)
    if configuration.outgoing:
        index = min(index, _held(configuration.outgoing, witnesses, match, excused))
    return index


def _held(
    voters: Set[NodeId], witnesses: Set[NodeId], match: Mapping[NodeId, Index], excused: Container[NodeId]
) -> Index:
    """Return the highest index that a quorum of one set of voters holds, and where there are witnesses, enough data."""
    needed = majority(len(voters))
    by_majority = _descending(voters, match)[needed - 1]
    if not witnesses & voters:
        return by_majority
    keepers = voters - witnesses
    by_data = _descending(keepers, match)[needed - 1] if needed <= len(keepers) else Index(0)
    unexcused = [match.get(keeper, Index(0)) for keeper in keepers if keeper not in excused]
    return max(by_data, min(by_majority, min(unexcused, default=Index(0))))


def _descending(voters: Set[NodeId], values: Mapping[NodeId, N]) -> list[N]:
    nothing = cast(N, 0)
    return sorted([values.get(voter, nothing) for voter in voters], reverse=True)
