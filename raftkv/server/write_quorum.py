"""Whether a leader could commit a write now, as far as it has heard."""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft import Raft, Role
from raftkv.raft.quorum import has_quorum, majority


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteQuorum:
    """How a leader stands with its voters. While a change of the members is under way, two sets of voters decide: the
    numbers are those of the one that has fewer to spare.
    """

    reached: bool
    """It has heard from a quorum within an election timeout: of both sets."""
    active: int
    """Voters that it has heard within one, itself included."""
    size: int
    """Voters that make a majority."""


def write_quorum(raft: Raft) -> WriteQuorum | None:
    """Return how a leader stands; None where this node does not lead."""
    if raft.role is not Role.LEADER:
        return None
    heard = {peer for peer, status in raft.followers().items() if status.silent_ticks < raft.election_ticks}
    heard.add(raft.node_id)
    counts = [(len(voters & heard), majority(len(voters))) for voters in raft.configuration.majorities]
    active, size = min(counts, key=lambda count: count[0] - count[1])
    return WriteQuorum(reached=has_quorum(raft.configuration, heard), active=active, size=size)
