"""What a drill has seen. All times are seconds since it began, on one clock: that of the drill itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class How(StrEnum):
    """What is done to the leader."""

    TRANSFER = "transfer"
    """It is asked to hand over: what a rolling restart does."""
    KILL = "kill"
    """Its process ends between two instructions."""
    PAUSE = "pause"
    """Its process stands still, its connections stay open: the worst that a machine does to its peers."""


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"
    """It had no effect."""
    UNKNOWN = "unknown"
    """It may have taken effect."""


class Role(StrEnum):
    """What a node takes itself for."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    """It asks for votes, or whether it would get them."""
    LEADER = "leader"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One put of a writer, to a key of its own."""

    writer: int
    number: int
    """Counts the writer's puts."""
    began: float
    ended: float
    outcome: Outcome
    term: int = 0
    """Of the leader that acknowledged it."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One linearizable read of a key whose write had been acknowledged before."""

    began: float
    ended: float
    outcome: Outcome
    missed: bool = False
    """It did not show the acknowledged write."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one node said of itself. A node that did not answer gives none."""

    at: float
    """When the answer came."""
    node: int
    role: Role
    term: int
    leader: int
    """0: it knows of none."""
    commit: int
    applied: int


@dataclass(slots=True, kw_only=True)
class Fault:
    """What was done to a leader. The times after `at` are filled in as they come about."""

    round: int
    how: How
    node: int
    """Who led."""
    term: int
    at: float
    """When it was done."""
    undone: float | None = None
    """When putting it right began: resuming, starting again; of a transfer, when it was over."""


@dataclass(slots=True)
class Record:
    """Everything, in the order in which it was seen: requests in that of their answers."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ended: float | None = None
    """When the load ended."""
