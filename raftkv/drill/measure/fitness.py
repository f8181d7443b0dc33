"""Why a cluster is not to be drilled now: a drill must find it able to lose a node, and not be what breaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LAG_MAX: Final = 100
"""Entries that a follower may be behind and still count as caught up: writes are under way while it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A follower as its leader sees it."""

    match: int
    active: bool
    """It answered within the last election timeout."""
    in_step: bool
    """It is sent entries as they come, not a checkpoint, and the leader knows where its log ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """A member that votes."""

    id: int
    witness: bool = False
    """It never leads."""
    unreachable: str = ""
    """Why its status is not known; empty: it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A cluster before a round."""

    leader: int
    """0: nobody leads."""
    last_index: int
    """Of the leader's log."""
    voters: Sequence[Voter]
    followers: Mapping[int, Follower]
    alarms: Sequence[str]
    """Each with the node that raises it."""
    changing: bool
    """A change of members is under way."""
    strangers: Sequence[str] = ()
    """Why an endpoint that was named counts for nothing."""


def absences(picture: Picture) -> list[str]:
    """Return what cannot be reached, or is not there."""
    found = [f"voter {one.id} does not answer: {one.unreachable}" for one in picture.voters if one.unreachable]
    found += picture.strangers
    if not picture.leader:
        found.insert(0, "there is no leader")
    return found


def objections(picture: Picture) -> list[str]:
    """Return every reason not to take this cluster's leader away; none: go ahead. `absences` come on top."""
    found: list[str] = []
    present = [one for one in picture.voters if not one.unreachable]
    majority = len(picture.voters) // 2 + 1
    if len(present) - 1 < majority:
        found.append(
            f"of {_voters(len(picture.voters))}, {len(present)} answer, and a majority is {majority}: "
            "without one more there is none"
        )
    if picture.changing:
        found.append("a change of members is under way: wait for its end")
    found += [f"{one}: clear it first (raftkv endpoint status)" for one in picture.alarms]
    heirs = [one.id for one in picture.voters if one.id != picture.leader and not one.witness]
    if picture.leader and not any(_caught_up(picture, heir) for heir in heirs):
        lags = ", ".join(f"node {one} {_lag(picture, one)}" for one in heirs) or "there is no other voter with data"
        found.append(f"no follower has caught up, so none could lead at once: {lags}")
    return found


def _caught_up(picture: Picture, node: int) -> bool:
    follower = picture.followers.get(node)
    return (
        follower is not None and follower.active and follower.in_step and picture.last_index - follower.match <= LAG_MAX
    )


def _lag(picture: Picture, node: int) -> str:
    follower = picture.followers.get(node)
    if follower is None:
        return "is not known to the leader"
    if not follower.active:
        return "does not answer the leader"
    lag = max(picture.last_index - follower.match, 0)
    return f"lacks {lag:,} entries" if follower.in_step else f"is being brought up to date, {lag:,} entries behind"


def _voters(number: int) -> str:
    return f"{number} voter" + ("" if number == 1 else "s")
