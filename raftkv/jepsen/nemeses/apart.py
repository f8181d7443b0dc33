"""Which faults cannot be on together, and why. Judged by names: nothing here loads a nemesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

_EVERYBODY: Final = frozenset({"power", "kill-all", "pause-all", "restart-all"})
_GONE: Final = _EVERYBODY - {"restart-all"}
_ONE: Final = frozenset({"kill", "pause", "restart", "rolling-restart"})
_AGAIN: Final = frozenset({"restart", "rolling-restart", "restart-all"})
_PARTITION: Final = frozenset(
    {"isolate-leader", "isolate-random", "majority-minority", "minority-third", "bridge", "ring", "one-way"}
    | {"flapping", "clients"}
)
_PACE: Final = frozenset({"slow-link", "jitter", "bandwidth", "slicer"})
_CLOCK: Final = frozenset({"clock-jump", "clock-strobe"})
_DISK: Final = frozenset({"disk-full", "disk-slow"})
_LEARN: Final = frozenset({"membership", "install"})


@dataclass(frozen=True, slots=True)
class Apart:
    """One of each of these groups cannot be on at once."""

    groups: tuple[frozenset[str], ...]
    why: str
    unless_first: Literal["", "begun", "proven"] = ""
    """They can where the one of the first group has begun, or has begun and is proven, before the others begin."""
    up_to: int = 0
    """Only with so many nodes, or fewer; 0: with any number."""


APART: Final = (
    Apart((frozenset({"random"}), frozenset({"*"})), "random combines nemeses itself: use it alone"),
    Apart((_EVERYBODY, _EVERYBODY), "each would find nobody left"),
    Apart(
        (_EVERYBODY, _ONE), "the first is to strike all nodes, and the other one takes some away, or finds nobody left"
    ),
    Apart(
        (_EVERYBODY, _LEARN | {"wipe"}), "no majority would be left to say who its members are, or to send a snapshot"
    ),
    Apart((_GONE, _PARTITION | _PACE), "nobody would be up to meet what is wrong with the links"),
    Apart((_GONE, _CLOCK | _DISK), "nobody would be up to meet the fault"),
    Apart((frozenset({"checkpoint"}), _GONE), "nobody would be up to make a checkpoint", "proven"),
    Apart((_AGAIN, _CLOCK), "it takes the process whose clock was struck away: name it first", "begun"),
    Apart(
        (_AGAIN, frozenset({"disk-full"})),
        "a node whose disk is full may end badly and not start: name it first",
        "begun",
    ),
    Apart((frozenset({"wipe"}), frozenset({"membership"})), "each would remove the other one's nodes"),
    Apart(
        (frozenset({"wipe"}), _ONE | _PARTITION),
        "without the vote that was lost, no majority may be left to give it back",
    ),
    Apart((_LEARN, _ONE | _PARTITION), "it takes a whole cluster to begin and to be proven: name it first", "proven"),
    Apart(
        (frozenset({"membership"}), _ONE | _PARTITION, _ONE | _PARTITION),
        "with a voter more, no majority may be left to remove it",
    ),
    Apart((_ONE, _PARTITION, _PACE), "no link between three nodes may be left to measure how slow it is", "", 3),
)


def why_apart(names: Sequence[str], nodes: int, *, proven_in_between: bool = True) -> str:
    """Say which of these cannot be on together, begun in this order, and why; empty: all can.

    `names`: without options. `proven_in_between`: each is proven before the next one begins.
    """
    for rule in APART:
        if rule.up_to and nodes > rule.up_to:
            continue
        places = [[place for place, name in enumerate(names) if {name, "*"} & group] for group in rule.groups]
        for found in product(*places):
            if len(set(found)) < len(found):
                continue
            helped = rule.unless_first == "begun" or (rule.unless_first == "proven" and proven_in_between)
            if not helped or found[0] != min(found):
                return f"{' and '.join(names[place] for place in found)} at once: {rule.why}"
    return ""
