"""Everything that a core remembers, and the two ways out for messages. No rule lives here."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raftkv.raft.config import RaftConfig
from raftkv.raft.configurations import Configurations
from raftkv.raft.log import Log
from raftkv.raft.messages import AppendResponse, Message
from raftkv.raft.persistence import PendingWrites
from raftkv.raft.progress import Progress
from raftkv.raft.quorum import Configuration
from raftkv.raft.read_queue import ReadQueue
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.types import Entry, Fitness, HardState, Index, NodeId, Role, Term


class RaftState:
    """The state of one node (paper figure 2). The rule modules change it; nobody outside this package does."""

    __slots__ = (
        "asked_to_stand",
        "config",
        "configurations",
        "election_elapsed",
        "election_timeout",
        "fitness",
        "full",
        "handed_hard_state",
        "heartbeat_elapsed",
        "id",
        "leader",
        "lease_void",
        "log",
        "outbox",
        "pending_writes",
        "preference_elapsed",
        "preference_wait",
        "progress",
        "promises",
        "quarantine",
        "random",
        "reads",
        "restore_write",
        "restoring",
        "role",
        "snapshot",
        "snapshots_needed",
        "term",
        "transfer_elapsed",
        "transfer_target",
        "vote",
        "vote_write",
        "votes",
    )

    def __init__(
        self,
        config: RaftConfig,
        *,
        hard_state: HardState,
        log: Log,
        configurations: Configurations,
        snapshot: Snapshot | None,
        rng: random.Random,
    ) -> None:
        self.config = config
        self.id = config.node_id
        self.configurations = configurations
        self.random = rng
        self.log = log
        self.snapshot = snapshot
        """The newest of this node: durable, or being restored. None: the log begins at 1."""
        self.restoring: Snapshot | None = None
        """The one that is to replace state and log; not handed to the driver yet."""
        self.restore_write = 0
        """Number of the write that does so and is not confirmed; 0: none was handed out."""
        self.term: Term = hard_state.term
        self.vote: NodeId | None = hard_state.vote
        self.handed_hard_state = hard_state
        """What the driver was last given to persist."""
        self.pending_writes = PendingWrites()

        self.fitness = Fitness.FIT
        self.full = False
        """Whether this node's disk has no room for entries that can be committed without it."""
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.election_elapsed = 0
        self.election_timeout = 0
        self.heartbeat_elapsed = 0

        self.votes: dict[NodeId, bool] = {}
        self.asked_to_stand = False
        """Candidate only: the leader itself asked for this election."""
        self.vote_write = 0
        """Number of the write that makes this candidate's own vote durable; 0: not handed out yet."""

        self.progress: dict[NodeId, Progress] = {}
        """Leader only: every other member."""
        self.transfer_target: NodeId | None = None
        self.transfer_elapsed = 0
        self.preference_elapsed = 0
        self.preference_wait = 0
        """Leader only: ticks to wait before leadership is offered again to a preferred voter (`transfer.tick`)."""
        self.reads = ReadQueue()
        self.lease_void = False
        """Leader only: a TimeoutNow has left in this term, and may arrive at any time."""
        self.quarantine = config.quarantine_ticks
        """Ticks for which this node votes for nobody, because a lease may rest on it (`lease`)."""

        self.outbox: list[Message] = []
        """Messages that may leave at once."""
        self.promises: list[Message] = []
        """Messages that leave when everything handed over so far is durable."""
        self.snapshots_needed: list[NodeId] = []

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self.configurations.current

    @property
    def term_is_committed(self) -> bool:
        """Whether an entry of the current term is committed.

        Before that a leader does not know what its predecessors have acknowledged (raft-bugs 18, 40).
        """
        return self.log.matches(self.log.commit, self.term)

    @property
    def may_lead(self) -> bool:
        """Whether this node may stand for election.

        One that is being removed may, until it knows that to be committed: it may be the only one whose log is up to
        date enough to win, and commit it (thesis 4.2.2). It does not count itself.
        """
        if self.fitness is Fitness.BARRED:
            return False
        if self.configuration.may_lead(self.id):
            return True
        return self.configurations.index > self.log.commit and self.configurations.previous.may_lead(self.id)

    @property
    def rivals(self) -> list[NodeId]:
        """Whose votes a candidate asks for, in a fixed order (the order is part of determinism)."""
        return sorted(self.configuration.deciders - {self.id})

    def send(self, message: Message) -> None:
        """Queue a message that promises nothing which is not durable."""
        self.outbox.append(message)

    def promise(self, message: Message) -> None:
        """Queue a message that leaves only when all state it speaks of is durable."""
        self.promises.append(message)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append to the log; a truncation also devalues the writes under way."""
        if not entries:
            return
        first = entries[0].index
        self.pending_writes.truncate(first)
        if first <= self.log.last_index:
            self._withdraw(first)
        self.log.append(entries)
        # In force when appended, gone when truncated (raft-bugs 21, 22).
        self.configurations.truncate(entries[0].index)
        if self.configurations.append(entries) and self.role is Role.LEADER:
            self.follow_configuration(entries[0].index)

    def _withdraw(self, first: Index) -> None:
        """Entries from `first` on are replaced: promise no more to hold them, where that has not been handed over.

        What was handed over leaves while they are on the disk. The leader of an earlier term, to whom it goes, can
        commit them no more either way (this term's was elected without them); but it tells its clients on how many
        disks they are.
        """
        self.promises = [
            message
            for message in self.promises
            if not isinstance(message, AppendResponse) or message.rejected or message.index < first
        ]

    def follow_configuration(self, next_index: Index) -> None:
        """Leader only: track the other members, and those who leave until it is committed that they have left.

        The first request to a new one starts at `next_index`.
        """
        leaving = self.configurations.previous.members if self.configurations.index > self.log.commit else frozenset()
        peers = sorted((self.configuration.members | leaving) - {self.id})
        for peer in [peer for peer in self.progress if peer not in peers]:
            del self.progress[peer]
        witnesses = self.configuration.witnesses | self.configurations.previous.witnesses
        for peer in peers:
            if peer not in self.progress:
                self.progress[peer] = Progress(next_index=next_index, witness=peer in witnesses)
        if self.transfer_target is not None and self.transfer_target not in self.configuration.voters:
            self.transfer_target = None
            self.transfer_elapsed = 0

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log, and the state behind it, by a snapshot that the driver has the bytes of."""
        self.log.restore(snapshot.index, snapshot.term)
        self.pending_writes.restore(self.log.durable)
        self.configurations = Configurations(snapshot.configuration, snapshot.index, ())
        self.snapshot = self.restoring = snapshot
        self.restore_write = 0  # the confirmation of an earlier one makes nothing of this one durable (raft-bugs 29)

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
