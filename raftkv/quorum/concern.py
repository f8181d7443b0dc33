"""Write concerns: how many voters must have a write on disk before it is acknowledged.

On the wire a concern is a signed number: 0 for the cluster's default, n for n voters, and two names.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from raftkv.errors import InvalidArgument

DEFAULT: Final = 0
LEADER: Final = 1
MAJORITY: Final = -1
ALL: Final = -2

_NAMES: Final = {"leader": LEADER, "majority": MAJORITY, "all": ALL}
_NAME_OF: Final = {LEADER: "leader", MAJORITY: "majority", ALL: "all", DEFAULT: "default"}
MAX_VOTERS: Final = 2**31 - 1
"""What fits the wire; no cluster comes near."""


class Needed(NamedTuple):
    """What a concern comes to in a given configuration."""

    voters: int
    """So many must have it on disk, the leader among them."""
    early: bool
    """Fewer than a majority: acknowledged before it is committed, and before its result is known."""
    waits: bool
    """Committed and applied is not enough: so many voters must be known to have it as well."""


def majority(voters: int) -> int:
    """Return the smallest number of `voters` such that any two sets of that size intersect."""
    return voters // 2 + 1


def parse_concern(text: str | int) -> int:
    """Return the wire's number of a concern: "leader", "majority", "all", or a number of voters from 1 on.

    Raises InvalidArgument.
    """
    if isinstance(text, str):
        if text in _NAMES:
            return _NAMES[text]
        if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VOTERS)):
            text = int(text)
    if isinstance(text, int) and not isinstance(text, bool) and 1 <= text <= MAX_VOTERS:
        return text
    raise InvalidArgument(f"write concern {text!r} is none of leader, majority, all, or a number of voters from 1 on")


def concern_name(concern: int) -> str:
    """Return how a concern is written."""
    return _NAME_OF.get(concern) or str(concern)


def concern_words(concern: int) -> str:
    """Return how a refusal names a concern: 1 may have been asked for by number or by name."""
    return "1 (leader)" if concern == LEADER else concern_name(concern)


def needed(concern: int, *, voters: int, keepers: int) -> Needed:
    """Return what `concern` comes to among `voters`, of which `keepers` hold data (the others are witnesses).

    `concern` is not DEFAULT: whoever asks has put the cluster's default in its place.
    Raises InvalidArgument for more voters than there are, and for what is no concern.
    """
    if concern == MAJORITY:
        # Witnesses may be part of the majority, and hold no data: so many others are at least.
        return Needed(max(1, majority(voters) - (voters - keepers)), early=False, waits=False)
    if concern == ALL:
        return Needed(keepers, early=False, waits=True)
    if not 1 <= concern <= keepers:
        what = "" if keepers == voters else f" (of {voters} voters {voters - keepers} hold no data)"
        raise InvalidArgument(
            f"write concern {concern} is not possible: 1 to {keepers} voters{what}, or leader, majority, all"
        )
    return Needed(concern, early=concern < majority(voters), waits=concern >= majority(voters))
