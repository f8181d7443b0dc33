"""A small cluster whose members come and go: cores with instant disks, checkpoints in memory, a network made by hand.

For tests of configurations and snapshots. It watches two things at every step: one leader a term, and one entry an
index, whoever applies it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raftkv.raft import (
    NO_MEMBERS,
    Configuration,
    Entry,
    HardState,
    Index,
    LogWrite,
    MembershipChange,
    Message,
    NodeId,
    Position,
    Raft,
    RaftConfig,
    Role,
    Snapshot,
    Term,
)
from raftkv.raft.messages import InstallSnapshot, PreVoteRequest, VoteRequest

ELECTION_TICKS = 10
HEARTBEAT_TICKS = 2
LEASE_MS = 90


def ids(*nodes: int) -> frozenset[NodeId]:
    return frozenset(NodeId(node) for node in nodes)


def addressed(*nodes: int) -> tuple[tuple[NodeId, str], ...]:
    return tuple((NodeId(node), f"host{node}:1") for node in nodes)


def change(
    *,
    learners: Iterable[int] = (),
    witnesses: Iterable[int] = (),
    promote: Iterable[int] = (),
    remove: Iterable[int] = (),
) -> MembershipChange:
    return MembershipChange(
        learners=addressed(*learners), witnesses=addressed(*witnesses), promote=ids(*promote), remove=ids(*remove)
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    snapshot: Snapshot
    state: dict[Index, Entry]


class Member:
    """One node. The first block of attributes survives a crash."""

    def __init__(self, config: RaftConfig) -> None:
        self.config = config
        self.hard_state = HardState()
        self.log: list[Entry] = []
        self.base: Snapshot | None = None
        self.checkpoints: dict[Snapshot, Checkpoint] = {}
        self.state: dict[Index, Entry] = {}
        self.applied = Index(0)

        self.up = True
        self.disk_is_slow = False
        self.writes: deque[LogWrite] = deque()
        self.reads: dict[int, Index] = {}
        self.reads_dropped: list[int] = []
        self.raft = self.boot(1)

    def boot(self, seed: int) -> Raft:
        self.writes.clear()
        return Raft(
            self.config,
            hard_state=self.hard_state,
            entries=tuple(self.log),
            applied=self.applied,
            rng=random.Random(100 * seed + self.config.node_id),
            snapshot=self.base,
        )

    def store(self, write: LogWrite) -> None:
        if not write.needs_disk:
            return
        self.hard_state = write.hard_state
        if write.restore is not None:
            self.log.clear()
            self.base, self.applied = write.restore, write.restore.index
            restored = self.checkpoints.get(write.restore)  # a witness has none
            self.state = dict(restored.state) if restored else {}
        if write.entries:
            first = self.base.index + 1 if self.base else 1
            del self.log[write.entries[0].index - first :]
            self.log.extend(write.entries)


class Group:
    """Delivers in order, unless a test cuts links, drops messages, stops nodes or slows their disks."""

    def __init__(
        self,
        voters: int = 3,
        *,
        witnesses: Iterable[int] = (),
        leases: bool = False,
        priorities: dict[int, int] | None = None,
    ) -> None:
        members = range(1, voters + 1)
        self.witnesses = set(witnesses)
        """Every node that is or was one."""
        self.founded = Configuration(ids(*members), witnesses=ids(*self.witnesses), addresses=addressed(*members))
        self.leases = leases
        self.priorities = priorities or {}
        self.members: dict[int, Member] = {}
        self.queue: deque[Message] = deque()
        self.cut: set[tuple[int, int]] = set()
        self.drop: Callable[[Message], bool] = lambda message: False
        self.delivered: list[Message] = []
        self.streams_fail = False
        self.leaders: dict[Term, NodeId] = {}
        self.history: dict[Index, Entry] = {}
        """Every entry that a data node has applied: what must never be lost."""
        self._restarts = 1
        for node in members:
            self._add(node, self.founded)

    def _add(self, node: int, configuration: Configuration) -> None:
        config = RaftConfig(
            node_id=NodeId(node),
            configuration=configuration,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=HEARTBEAT_TICKS,
            promotion_lag=3,
            lease_ms=LEASE_MS if self.leases else 0,
            quarantine_ticks=ELECTION_TICKS if self.leases else 0,
            priority=self.priorities.get(node, 0),
        )
        self.members[node] = Member(config)

    def __getitem__(self, node: int) -> Raft:
        return self.members[node].raft

    # --- faults and joins ---

    def start_empty(self, node: int) -> None:
        """Start a node that belongs to no cluster yet."""
        self._add(node, NO_MEMBERS)

    def crash(self, node: int) -> None:
        self.members[node].up = False
        self.members[node].reads.clear()

    def restart(self, node: int) -> None:
        member = self.members[node]
        self._restarts += 1
        member.up = True
        member.raft = member.boot(self._restarts)
        self.collect(node)

    def isolate(self, *nodes: int) -> None:
        self.cut |= {pair for n in nodes for other in self.members if other != n for pair in ((n, other), (other, n))}

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda message: False

    # --- steps ---

    def collect(self, node: int) -> None:
        """Do what the core of `node` asks for."""
        member = self.members[node]
        while member.up and (ready := member.raft.ready()) is not None:
            self.queue.extend(ready.messages)
            if ready.write is not None:
                member.writes.append(ready.write)
                if ready.write.restore is not None and member.disk_is_slow:
                    continue  # what is handed out to apply is dropped (ready.LogWrite)
                if not member.disk_is_slow:
                    self._flush(member)
            for entry in ready.committed:
                self._apply(member, entry)
            if ready.committed:
                member.raft.applied(ready.committed[-1].index)
            member.reads.update({read.request: read.index for read in ready.reads})
            member.reads_dropped.extend(ready.reads_dropped)
            for peer in ready.snapshots_needed:
                self._stream(member, peer)
            if ready.role is Role.LEADER:
                assert self.leaders.setdefault(ready.term, NodeId(node)) == node, f"two leaders in term {ready.term}"

    def flush(self, node: int, writes: int | None = None) -> None:
        """The slow disk of `node` finishes its oldest writes."""
        self._flush(self.members[node], writes)
        self.collect(node)

    def _flush(self, member: Member, writes: int | None = None) -> None:
        for _ in range(len(member.writes) if writes is None else writes):
            write = member.writes.popleft()
            member.store(write)
            self.queue.extend(write.messages)
            member.raft.persisted(write.number)

    def _apply(self, member: Member, entry: Entry) -> None:
        assert entry.index == member.applied + 1
        is_witness = member.config.node_id in self.witnesses
        known = entry if is_witness else self.history.setdefault(entry.index, entry)
        assert known.term == entry.term, f"node {member.config.node_id} applied another entry {entry.index}"
        assert is_witness or known == entry, f"entry {entry.index} has lost its payload"
        member.state[entry.index] = entry
        member.applied = entry.index

    def _stream(self, member: Member, peer: int) -> None:
        target, snapshot = self.members[peer], member.raft.snapshot
        assert snapshot is not None
        assert not {member.config.node_id, peer} & self.witnesses, "a witness has no state to give, and takes none"
        lost = (member.config.node_id, peer) in self.cut or not target.up or self.streams_fail
        if lost:
            member.raft.snapshot_failed(NodeId(peer))
            return
        target.checkpoints[snapshot] = member.checkpoints[snapshot]
        member.raft.snapshot_delivered(NodeId(peer), snapshot)

    def checkpoint(self, node: int, *, keep: int = 0) -> Snapshot:
        """Take a checkpoint of what `node` has applied; compact its log but for `keep` entries before it."""
        member = self.members[node]
        snapshot = member.raft.snapshot_at(member.applied)
        member.checkpoints[snapshot] = Checkpoint(snapshot, dict(member.state))
        first_kept = Index(max(1, snapshot.index + 1 - keep))
        member.raft.compact(snapshot, first_kept)
        # What a restart finds is the checkpoint and the entries behind it.
        first = member.base.index + 1 if member.base else 1
        del member.log[: max(0, snapshot.index + 1 - first)]
        member.base = snapshot
        return snapshot

    def deliver(self, message: Message) -> bool:
        target = self.members[message.receiver]
        lost = (message.sender, message.receiver) in self.cut or self.drop(message) or not target.up
        if isinstance(message, InstallSnapshot) and message.receiver not in self.witnesses:
            lost = lost or message.snapshot not in target.checkpoints
        if lost:
            return False
        self.delivered.append(message)
        target.raft.step(message)
        self.collect(message.receiver)
        return True

    def settle(self, limit: int = 5000) -> None:
        for node in self.members:
            self.collect(node)
        while self.queue and limit > 0:
            limit -= 1
            self.deliver(self.queue.popleft())
        assert limit > 0, "the nodes do not stop talking"

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            for node, member in self.members.items():
                if member.up:
                    member.raft.tick()
                    self.collect(node)
            self.settle()

    def elect(self, node: int) -> None:
        """Let time pass until `node` leads; the campaigns of others are lost."""
        keep = self.drop
        self.drop = lambda m: keep(m) or (isinstance(m, PreVoteRequest | VoteRequest) and m.sender != node)
        for _ in range(10 * ELECTION_TICKS):
            if self[node].role is Role.LEADER:
                break
            self.tick()
        self.drop = keep
        assert self[node].role is Role.LEADER, f"node {node} was not elected"
        self.tick(HEARTBEAT_TICKS)

    def wait_for_leader(self, ticks: int = 20 * ELECTION_TICKS) -> int:
        for _ in range(ticks):
            self.tick()
            leaders = [n for n, m in self.members.items() if m.up and m.raft.role is Role.LEADER]
            for node in leaders:
                if self[node].log.matches(self[node].log.commit, self[node].term):
                    return node
        raise AssertionError("no leader was elected")

    # --- requests ---

    def propose(self, node: int, data: bytes = b"x") -> Index:
        position = self[node].propose(data)
        assert isinstance(position, Position), position
        self.collect(node)
        self.settle()
        return position.index

    def change(self, node: int, request: MembershipChange) -> None:
        """Carry out a change of the members to its end."""
        self.begin(node, request)
        self.tick(2 * HEARTBEAT_TICKS)
        assert all(not m.raft.changing for m in self.members.values() if m.up and m.raft.role is Role.LEADER)

    def begin(self, node: int, request: MembershipChange) -> Position:
        position = self[node].change_membership(request)
        self.witnesses |= {joining for joining, _ in request.witnesses}
        assert isinstance(position, Position), position
        self.collect(node)
        self.settle()
        return position

    def refuses(self, node: int, request: MembershipChange) -> str:
        """Return why `node` refuses; nothing may have changed."""
        raft = self[node]
        before = raft.configuration, raft.log.last_index, raft.changing
        reason = raft.change_membership(request)
        assert isinstance(reason, str), reason
        assert (raft.configuration, raft.log.last_index, raft.changing) == before
        assert raft.ready() is None
        return reason

    def read(self, node: int, request: int) -> None:
        self[node].read_index(request)
        self.collect(node)
        self.settle()

    def sent(self, kind: type[Message], *, sender: int | None = None, receiver: int | None = None) -> list[Message]:
        """Messages of one kind that arrived."""
        return [
            message
            for message in self.delivered
            if isinstance(message, kind) and sender in (None, message.sender) and receiver in (None, message.receiver)
        ]

    def role(self, node: int) -> Role:
        return self[node].role

    def changing(self, node: int) -> bool:
        return self[node].changing

    def transferring(self, node: int) -> bool:
        return self[node].transferring

    def data(self, node: int) -> list[bytes]:
        """What the state machine of `node` holds."""
        return [entry.data for _, entry in sorted(self.members[node].state.items()) if entry.data and entry.kind == 1]
