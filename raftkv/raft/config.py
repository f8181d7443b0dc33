"""What the core is told at its start."""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.invariant import invariant
from raftkv.raft.quorum import Configuration
from raftkv.raft.types import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Settings of one node's core. Times are in ticks; the driver decides how long a tick is."""

    node_id: NodeId
    configuration: Configuration
    """What the cluster was founded with; `quorum.NO_MEMBERS` on a node that joins. The log has every later one."""
    election_ticks: int = 25
    """A follower that hears nothing for election_ticks..2 x election_ticks - 1 ticks (drawn anew each time) campaigns;
    one that heard its leader within election_ticks refuses to vote."""
    heartbeat_ticks: int = 5
    """Ticks between two heartbeats; well below election_ticks (paper 5.6)."""
    max_append_bytes: int = 1 << 20
    """Entries in one AppendRequest stop at this size; a single larger entry still travels, alone."""
    max_inflight_bytes: int = 8 << 20
    """A follower may have this many bytes of entries unacknowledged before the leader waits for it."""
    max_apply_bytes: int = 1 << 20
    """One Ready hands out at most this much to apply (and at least one entry)."""
    promotion_lag: int = 100
    """A learner that lacks more entries than this is not promoted."""
    priority: int = 0
    """How much this node is preferred as a leader: a leader hands over to a voter that is preferred more."""
    lease_ms: int = 0
    """Let leaders hold leases of this many milliseconds (`lease`); 0: none. The driver, which has a clock, works it out
    (`server.lease`). A follower tells it in its answers, and one that promises less than its leader relies on does not
    count: members may differ, while they are restarted one by one with another value."""
    quarantine_ticks: int = 0
    """Vote for nobody for so many ticks after the start: in an earlier life this node has promised so (`lease`)."""

    def __post_init__(self) -> None:
        invariant(self.node_id > 0, "node ids start at 1; 0 means nobody")
        invariant(self.heartbeat_ticks >= 1, "heartbeat_ticks must be at least 1")
        invariant(
            self.election_ticks > 2 * self.heartbeat_ticks,
            "election_ticks ({}) must exceed two heartbeats ({}), or one lost heartbeat starts an election",
            self.election_ticks,
            2 * self.heartbeat_ticks,
        )
