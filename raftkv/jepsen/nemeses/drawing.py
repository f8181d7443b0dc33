"""What chance decides, as functions of it: nothing here touches a cluster."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

from raftkv.testing.link_faults import HOWS, How

T = TypeVar("T")


def option_or_any(rng: random.Random, option: str, choices: Sequence[str]) -> str:
    """Return the option that was asked for, or one of `choices`."""
    return option or rng.choice(choices)


def how(rng: random.Random, option: str) -> How:
    """Return the way in which links are broken: the one asked for, or any."""
    drawn = option_or_any(rng, option, HOWS)
    return next(one for one in HOWS if one == drawn)


def aim(rng: random.Random, option: str, nodes: Sequence[int], leader: int | None) -> int:
    """Return one of `nodes`: the leader, or one who is not, as asked for, or one or the other by the toss of a coin.

    Where nobody leads, or nobody else is left, it is any of them.
    """
    others = [node for node in nodes if node != leader]
    if leader in nodes and leader is not None and (not others or option_or_any(rng, option, _WHOM) == "leader"):
        return leader
    return rng.choice(others)


_WHOM = ("leader", "follower")


def preferring(draw: Callable[[], T], good: Callable[[T], bool], tries: int = 100) -> T:
    """Draw until it is good, or, if that takes too long, what comes."""
    drawn = draw()
    for _ in range(tries):
        if good(drawn):
            break
        drawn = draw()
    return drawn


def split(rng: random.Random, nodes: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Return `size` of the nodes, and the rest, both in order."""
    chosen = sorted(rng.sample(list(nodes), size))
    return chosen, [node for node in nodes if node not in chosen]


def bridged(rng: random.Random, nodes: Sequence[int]) -> tuple[int, list[int], list[int]]:
    """Return a node, and two halves of the others."""
    bridge = rng.choice(nodes)
    left, right = split(rng, [node for node in nodes if node != bridge], (len(nodes) - 1) // 2)
    return bridge, left, right


def ring(rng: random.Random, nodes: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the nodes in a circle, and which pairs to part so that each reaches its neighbours and no one further.

    It reaches as many neighbours as make a majority with itself, and each a different majority. In a circle of three
    everybody is everybody's neighbour: nothing is left to be parted.
    """
    circle = list(nodes)
    rng.shuffle(circle)
    reach = (len(circle) // 2 + 1) // 2  # half, rounded up, of the others that a majority takes
    places = combinations(range(len(circle)), 2)
    return circle, [(circle[a], circle[b]) for a, b in places if min(b - a, len(circle) - b + a) > reach]


def pairs(rng: random.Random, span: str, nodes: Sequence[int], leader: int | None) -> list[tuple[int, int]]:
    """Return the pairs of nodes between which something is to be wrong: `link`, `leader` or `all`."""
    everywhere = list(combinations(nodes, 2))
    with_leader = [pair for pair in everywhere if leader in pair] or everywhere
    match span:
        case "link":
            return [rng.choice(with_leader)]
        case "leader":
            return with_leader
        case _:
            return everywhere
