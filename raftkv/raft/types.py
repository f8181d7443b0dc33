"""The values that the consensus core is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NewType

NodeId = NewType("NodeId", int)
"""A node's identity, 1..2**64-1, never used again for another disk."""

Term = NewType("Term", int)
"""A leadership period (paper 5.1); 0 before the first election."""

Index = NewType("Index", int)
"""A position in the log, from 1 on; 0 stands before the first entry."""


class EntryKind(IntEnum):
    """What an entry's data is; the numbers are part of the WAL and wire formats."""

    NOOP = 0
    """A new leader's first entry: commits what earlier terms left behind (paper 5.4.2, 8)."""
    COMMANDS = 1
    """A batch of state machine commands, opaque to the core."""
    CONFIGURATION = 2
    """A membership. In force when appended."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry. An entry is a batch: many commands, one position (DESIGN.md section 4)."""

    term: Term
    index: Index
    kind: EntryKind = EntryKind.COMMANDS
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class HardState:
    """What a node must never forget (paper figure 2, "persistent state").

    Term and vote are one value so that they are persisted together (raft-bugs 2). `commit` is a hint only: it lets
    a restarted node apply what it knew to be committed before it hears from a leader.
    """

    term: Term = Term(0)
    vote: NodeId | None = None
    commit: Index = Index(0)


class Role(Enum):
    """Paper figure 4, with the pre-vote phase of thesis 9.6."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Fitness(Enum):
    """Whether a node should lead, as its driver sees it. Votes, entries and what is committed do not depend on it."""

    FIT = "fit"
    HINDERED = "hindered"
    """Better not: its disk is slow or nearly full. It stands for election all the same, and hands over when it can."""
    BARRED = "barred"
    """Never: its state is not to be trusted. It stands for no election, and leads no longer than a transfer lasts."""
