"""Quorum reads without a leader (Paxos Quorum Reads, Charapko et al., HotStorage 2019, carried over to Raft).

    1. ask R voters what their durable logs end with;
    2. the target is the greatest (term, index) of them, terms first;
    3. *rinse*: any replica answers as soon as what it has applied last is not before the target, in the same order.

Step 3 is what makes it a read of committed state: a log's end may never be committed, and if it is not, an entry of a
later term will be. Step 1 counts voters of one configuration: an answer that knows a newer one begins the read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from raftkv.errors import InvalidArgument
from raftkv.quorum.concern import majority


class LogEnd(NamedTuple):
    """The last entry of a durable log. Compares as votes do: terms first."""

    last_term: int
    last_index: int


class Membership(NamedTuple):
    """Whom a quorum read counts."""

    configuration_index: int
    """Where the configuration stands in the log: the greater one is newer. Where a node has compacted that part of its
    log, the index that this reaches up to: so nodes may give different ones for the same configuration."""
    voters: frozenset[int]
    witnesses: frozenset[int]
    """Voters without data: they know where the log ends and answer no reads."""
    joint: bool
    """A change of the voters is under way."""


class Answer(NamedTuple):
    """What a voter says in step 1."""

    end: LogEnd
    membership: Membership


class Wait(NamedTuple):
    """More voters have to answer."""

    missing: int


class Begin(NamedTuple):
    """Begin anew, with the voters of this newer configuration."""

    membership: Membership


class Target(NamedTuple):
    """Step 2 is done: the state that answers has this, or more."""

    end: LogEnd
    replicas: int
    """How many voters it was made of."""


def required_replicas(replicas: int, voters: int) -> int:
    """Return how many voters to ask for R = `replicas`, 0 meaning a majority. Raises InvalidArgument."""
    if replicas == 0:
        return majority(voters)
    if not 1 <= replicas <= voters:
        raise InvalidArgument(
            f"QUORUM({replicas}) is not possible: 1 to {voters} voters, or none named, for a majority"
        )
    return replicas


def decide(membership: Membership, answers: Mapping[int, Answer], replicas: int) -> Wait | Begin | Target:
    """Return what a coordinator that counts the voters of `membership` does with what it has heard so far.

    Call it for a configuration that is not joint: a read cannot begin in a joint one (neither half alone decides).
    """
    newest = max((answer.membership for answer in answers.values()), key=_place, default=membership)
    if newest.configuration_index > membership.configuration_index and not _same_voters(newest, membership):
        return Begin(newest)
    ends = [
        answer.end for voter, answer in answers.items() if voter in membership.voters and counts(membership, answer)
    ]
    if len(ends) < replicas:
        return Wait(replicas - len(ends))
    if max(end.last_index for end in ends) < membership.configuration_index:
        return Wait(1)  # none of them has everything from before the configuration that the answer names
    return Target(target_of(ends), len(ends))


def counts(membership: Membership, answer: Answer) -> bool:
    """Return whether a voter's answer counts for `membership`.

    Its log must reach its configuration: only then it has everything from before that. And that must have the very
    voters of `membership`: of two that stand at the same place in different logs one is not committed and never will
    be, and their majorities need not intersect.
    """
    reaches = answer.end.last_index >= answer.membership.configuration_index
    return reaches and _same_voters(answer.membership, membership)


def target_of(ends: Iterable[LogEnd]) -> LogEnd:
    """Return what the state that answers must have: the greatest end of a log, terms first."""
    return max(ends)


def is_rinsed(target: LogEnd, applied_term: int, applied_index: int) -> bool:
    """Return whether a state may answer: the entry that it has applied last is not before the target, terms first.

    The committed log rises in this order, so the state has every committed entry that is not above the target in it.
    The index alone is not enough: entries of a term before the target's can be committed at the target's index and
    above by a leader of a later term, and a state that has come to the index has not come to what is above. With it,
    reads of fewer than a majority could miss what they claim to see (tests/quorum/test_scenarios.py).
    """
    return (applied_term, applied_index) >= target


def _place(membership: Membership) -> int:
    return membership.configuration_index


def _same_voters(one: Membership, other: Membership) -> bool:
    """Whether they are the same configuration, wherever they are said to stand."""
    return (one.voters, one.witnesses, one.joint) == (other.voters, other.witnesses, other.joint)
