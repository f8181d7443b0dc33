"""Everything that a core remembers, and the two ways out for messages. No rule lives here."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raftkv.raft.config import RaftConfig
from raftkv.raft.log import Log
from raftkv.raft.messages import Message
from raftkv.raft.persistence import PendingWrites
from raftkv.raft.progress import Progress
from raftkv.raft.quorum import Configuration
from raftkv.raft.read_queue import ReadQueue
from raftkv.raft.types import Entry, HardState, Index, NodeId, Role, Term


class RaftState:
    """The state of one node (paper figure 2). The rule modules change it; nobody outside this package does."""

    __slots__ = (
        "config",
        "configuration",
        "election_elapsed",
        "election_timeout",
        "handed_hard_state",
        "heartbeat_elapsed",
        "leader",
        "log",
        "outbox",
        "pending_writes",
        "progress",
        "promises",
        "random",
        "reads",
        "role",
        "snapshots_needed",
        "term",
        "transfer_elapsed",
        "transfer_target",
        "vote",
        "vote_write",
        "votes",
    )

    def __init__(self, config: RaftConfig, hard_state: HardState, log: Log, rng: random.Random) -> None:
        self.config = config
        self.configuration: Configuration = config.configuration
        self.random = rng
        self.log = log
        self.term: Term = hard_state.term
        self.vote: NodeId | None = hard_state.vote
        self.handed_hard_state = hard_state
        """What the driver was last given to persist."""
        self.pending_writes = PendingWrites()

        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.election_elapsed = 0
        self.election_timeout = 0
        self.heartbeat_elapsed = 0

        self.votes: dict[NodeId, bool] = {}
        self.vote_write = 0
        """Number of the write that makes this candidate's own vote durable; 0: not handed out yet."""

        self.progress: dict[NodeId, Progress] = {}
        """Leader only: every other member."""
        self.transfer_target: NodeId | None = None
        self.transfer_elapsed = 0
        self.reads = ReadQueue()

        self.outbox: list[Message] = []
        """Messages that may leave at once."""
        self.promises: list[Message] = []
        """Messages that leave when everything handed over so far is durable."""
        self.snapshots_needed: list[NodeId] = []

    @property
    def id(self) -> NodeId:
        return self.config.node_id

    @property
    def peers(self) -> list[NodeId]:
        """All other members, in a fixed order (the order is part of determinism)."""
        return sorted(self.configuration.members - {self.id})

    def send(self, message: Message) -> None:
        """Queue a message that promises nothing which is not durable."""
        self.outbox.append(message)

    def promise(self, message: Message) -> None:
        """Queue a message that leaves only when all state it speaks of is durable."""
        self.promises.append(message)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append to the log; a truncation also devalues the writes under way."""
        if entries:
            self.pending_writes.truncate(entries[0].index)
            self.log.append(entries)

    def durable_match(self) -> dict[NodeId, Index]:
        """Leader only: what each member holds durably."""
        match = {peer: progress.match for peer, progress in self.progress.items()}
        match[self.id] = self.log.durable
        return match

    def restart_election_timer(self) -> None:
        """Draw a new timeout, so that nodes that split a vote do not split the next one (paper 5.2)."""
        self.election_elapsed = 0
        ticks = self.config.election_ticks
        self.election_timeout = ticks + self.random.randrange(ticks)
