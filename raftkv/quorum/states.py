"""Which of several states is right: what the members' state hashes at one entry come to.

Right is what more than half of the voters that hold data have, the silent ones counted in: no other state can have as
many. While the voters are being changed, each of the two sets must say the same. Learners are compared, and do not
count; witnesses hold no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from raftkv.quorum.concern import majority


class StatesVerdict(NamedTuple):
    """What a comparison came to. Nodes are in order."""

    hash: bytes
    """That of the right state; empty: no majority has the same."""
    agreed: tuple[int, ...]
    """With a right state: who has it. Without: who answered, if all did so with one hash."""
    differ: tuple[int, ...]
    """With a right state: who has another one. Without: who answered, if these differ among each other."""
    silent: tuple[int, ...]


def judge_states(
    majorities: Iterable[Set[int]], members: Set[int], witnesses: Set[int], hashes: Mapping[int, bytes]
) -> StatesVerdict:
    """Judge the `hashes` of those who answered.

    `majorities`: the sets of voters of which each must give a majority, witnesses among them; `members`: everybody.
    """
    asked = members - witnesses
    silent = tuple(sorted(asked - hashes.keys()))
    found = {node: hashes[node] for node in sorted(asked & hashes.keys())}
    keepers = [voters - witnesses for voters in majorities]
    for right in sorted(set(found.values())):
        having = {node for node, one in found.items() if one == right}
        if all(len(having & voters) >= majority(len(voters)) for voters in keepers):
            differ = tuple(node for node, one in found.items() if one != right)
            return StatesVerdict(right, tuple(sorted(having)), differ, silent)
    if len(set(found.values())) > 1:
        return StatesVerdict(b"", (), tuple(found), silent)
    return StatesVerdict(b"", tuple(found), (), silent)
