"""What a checkpoint of the state machine stands for."""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft.quorum import Configuration
from raftkv.raft.types import Index, Term


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the entry at `index`, and with it everything that the log said up to there (paper 7).

    A value: the bytes are elsewhere. Two snapshots of one index are equal, whichever node took them.
    """

    index: Index
    term: Term
    configuration: Configuration
    """In force at `index`, which need not be in the log any more (raft-bugs 20, 26)."""
