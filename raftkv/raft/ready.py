"""The core's one output: what the driver must do now, and in which order.

A Ready is a value. Field by field:

`messages`
    Send them at once. They promise nothing that is not durable already.
`write`
    Append to the log store. Writes are made durable strictly in the order of their numbers, and `write.messages` may
    leave only after that: a vote, a vote request or an append acknowledgement that left earlier would be a lie after a
    crash (raft-bugs 1, 32). When it is durable, call `Raft.persisted(write.number)`. A write with nothing to store
    only waits for those before it. Several writes may be stored in one go; confirming the newest confirms all.
`committed`
    Apply them, in order, then call `Raft.applied`. They are on this node's own disk already.
`reads`, `reads_dropped`
    Reads that may be served once the state has applied `index`; reads whose confirmation was lost with leadership.
`snapshots_needed`
    Followers that need a snapshot, because their next entry is compacted. Stream the newest checkpoint to each, then
    call `Raft.snapshot_delivered`, or `Raft.snapshot_failed`. A follower is named once until one of the two is called.
`role`, `term`, `leader`
    As they are now.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.raft.messages import Message
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.types import Entry, HardState, Index, NodeId, Role, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """One step of the log store."""

    number: int
    """Counts the writes of this core, from 1 on."""
    hard_state: HardState
    entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    needs_disk: bool
    """False: nothing new to store, the messages only wait for earlier writes."""
    restore: Snapshot | None = None
    """First of all, replace the state by the checkpoint of this snapshot, and the log by one that is empty and goes on
    behind it. Drop what earlier Readys handed out to apply. The step must be atomic and durable (raft-bugs 28)."""


@dataclass(frozen=True, slots=True)
class ReadState:
    """A confirmed ReadIndex request."""

    request: int
    index: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """See the module's docstring."""

    messages: tuple[Message, ...]
    write: LogWrite | None
    committed: tuple[Entry, ...]
    reads: tuple[ReadState, ...]
    reads_dropped: tuple[int, ...]
    snapshots_needed: tuple[NodeId, ...]
    role: Role
    term: Term
    leader: NodeId | None
