"""Several cores joined by a fake network and instant or delayed disks: no clock, no I/O, every step chosen by the test.

Every step is watched by the oracle, in every test that uses a Network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    Message,
    NodeId,
    Position,
    Raft,
    RaftConfig,
    Role,
    Term,
)
from raftkv.raft.messages import PreVoteRequest, VoteRequest
from tests.raft.node import Node
from tests.raft.oracle import Oracle


def entries_of(terms: Iterable[int]) -> list[Entry]:
    """A log whose entry i has the i-th term; the data tells them apart."""
    return [Entry(Term(t), Index(i), EntryKind.COMMANDS, b"%d@%d" % (i, t)) for i, t in enumerate(terms, start=1)]


class Network:
    """Delivers messages in order, unless a test cuts links, filters messages or reorders them."""

    def __init__(
        self,
        size: int = 3,
        *,
        seed: int = 1,
        election_ticks: int = 10,
        heartbeat_ticks: int = 2,
        max_append_bytes: int = 1 << 20,
        max_inflight_bytes: int = 8 << 20,
        watch_promises: bool = True,
    ) -> None:
        ids = [NodeId(i) for i in range(1, size + 1)]
        self.nodes = {
            node_id: Node(
                RaftConfig(
                    node_id=node_id,
                    configuration=Configuration(frozenset(ids)),
                    election_ticks=election_ticks,
                    heartbeat_ticks=heartbeat_ticks,
                    max_append_bytes=max_append_bytes,
                    max_inflight_bytes=max_inflight_bytes,
                ),
                seed * 100 + node_id,
            )
            for node_id in ids
        }
        self.oracle = Oracle(self.nodes, watch_promises=watch_promises)
        self.queue: deque[Message] = deque()
        self.cut: set[tuple[int, int]] = set()
        """Ordered pairs (sender, receiver) between which everything is lost."""
        self.drop: Callable[[Message], bool] = lambda message: False
        self.delivered: list[Message] = []
        self._next_read = 1

    def __getitem__(self, node_id: int) -> Raft:
        return self.nodes[NodeId(node_id)].raft

    def node(self, node_id: int) -> Node:
        return self.nodes[NodeId(node_id)]

    def role(self, node_id: int) -> Role:
        return self[node_id].role

    def start_with(
        self, node_id: int, terms: Iterable[int], *, term: int | None = None, vote: int | None = None
    ) -> None:
        """Boot a node from a disk that holds a log of these terms (before anything has happened)."""
        node = self.node(node_id)
        node.disk_log = entries_of(terms)
        last = node.disk_log[-1].term if node.disk_log else Term(0)
        node.disk_hard_state = HardState(
            Term(term) if term is not None else last, NodeId(vote) if vote is not None else None
        )
        node.restart()
        self.oracle.starts_with(node)

    # --- faults ---

    def isolate(self, node_id: int) -> None:
        for other in self.nodes:
            if other != node_id:
                self.cut |= {(node_id, other), (other, node_id)}

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut every link between nodes of different groups."""
        group_of = {node_id: number for number, group in enumerate(groups) for node_id in group}
        self.cut = {(a, b) for a in group_of for b in group_of if group_of[a] != group_of[b]}

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda message: False

    def crash(self, node_id: int) -> None:
        self.node(node_id).crash()

    def restart(self, node_id: int) -> None:
        node = self.node(node_id)
        node.restart()
        self.oracle.restarted(node)
        self.oracle.stepped(node)

    # --- steps ---

    def collect(self, node_id: int) -> None:
        """Do everything that one node's core asks for; its disk only if it is not slow."""
        node = self.node(node_id)
        while node.up and (ready := node.raft.ready()) is not None:
            for message in ready.messages:
                self._send(node, message)
            if ready.write is not None:
                self.oracle.handed(node, ready.write)
                node.writes.append(ready.write)
                if not node.disk_is_slow:
                    self.flush(node_id, collect=False)
            if ready.committed:
                self.oracle.applies(node, ready.committed)
                node.applied.extend(ready.committed)
                node.raft.applied(ready.committed[-1].index)
            for read in ready.reads:
                self.oracle.read_confirmed(node, read)
                node.reads.append(read)
            node.reads_dropped.extend(ready.reads_dropped)
            self.oracle.stepped(node)

    def flush(self, node_id: int, *, writes: int | None = None, collect: bool = True, together: bool = False) -> None:
        """The disk finishes its oldest `writes` (None: all); `together`: in one go, confirmed once."""
        node = self.node(node_id)
        count = len(node.writes) if writes is None else min(writes, len(node.writes))
        stored = [node.writes.popleft() for _ in range(count)]
        if together:
            before = node.disk_hard_state
            for write in stored:
                node.store(write)
            self.oracle.stored(node, before)
            for write in stored:
                for message in write.messages:
                    self._send(node, message)
            if stored:
                node.raft.persisted(stored[-1].number)
        else:
            for write in stored:
                before = node.disk_hard_state
                node.store(write)
                self.oracle.stored(node, before)
                for message in write.messages:
                    self._send(node, message)
                node.raft.persisted(write.number)
        self.oracle.stepped(node)
        if collect:
            self.collect(node_id)

    def _send(self, node: Node, message: Message) -> None:
        self.oracle.sent(node, message)
        self.queue.append(message)

    def deliver(self, message: Message) -> bool:
        """Deliver one message, unless it is lost on its way. Return whether it arrived."""
        target = self.nodes[message.receiver]
        if (message.sender, message.receiver) in self.cut or self.drop(message) or not target.up:
            return False
        self.delivered.append(message)
        target.raft.step(message)
        self.oracle.stepped(target)
        self.collect(message.receiver)
        return True

    def settle(self, limit: int = 10_000) -> None:
        """Deliver until nothing is left to say."""
        for node_id in self.nodes:
            self.collect(node_id)
        for _ in range(limit):
            if not self.queue:
                return
            self.deliver(self.queue.popleft())
        raise AssertionError(f"the nodes were still talking after {limit} messages")

    def tick_one(self, node_id: int) -> None:
        """One tick of one node. Nothing is delivered."""
        node = self.node(node_id)
        node.raft.tick()
        self.oracle.stepped(node)
        self.collect(node_id)

    def tick(self, count: int = 1, only: Iterable[int] | None = None) -> None:
        chosen = list(self.nodes if only is None else only)
        for _ in range(count):
            for node_id in chosen:
                if self.node(node_id).up:
                    self.tick_one(node_id)
            self.settle()

    def elect(self, node_id: int) -> None:
        """Let time pass until `node_id` leads: for it alone, and for the others while they still hear another leader.
        Their own campaigns are lost.
        """
        keep = self.drop
        rivals = (PreVoteRequest, VoteRequest)
        self.drop = lambda message: keep(message) or (isinstance(message, rivals) and message.sender != node_id)
        try:
            for _ in range(10 * self.node(node_id).config.election_ticks):
                if self[node_id].role is Role.LEADER:
                    return
                others_hear = any(n.up and n.raft.leader not in (None, node_id) for n in self.nodes.values())
                self.tick(only=None if others_hear else [node_id])
        finally:
            self.drop = keep
        raise AssertionError(f"node {node_id} was not elected")

    def start_campaign(self, node_id: int) -> None:
        """Tick one node, delivering nothing, until its election timer runs out."""
        for _ in range(2 * self.node(node_id).config.election_ticks):
            self.tick_one(node_id)
            if self[node_id].role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
                return
        raise AssertionError(f"node {node_id} did not campaign")

    def wait_for_leader(self, ticks: int = 200) -> int:
        """Tick everybody until a node leads the highest term and can reach a quorum. Return it."""
        for _ in range(ticks):
            self.tick()
            leaders = [node_id for node_id, node in self.nodes.items() if node.up and node.raft.role is Role.LEADER]
            newest = max((self[node_id].term for node_id in leaders), default=0)
            for node_id in leaders:
                reached = [
                    other
                    for other in self.nodes
                    if self.node(other).up and (node_id, other) not in self.cut and (other, node_id) not in self.cut
                ]
                if self[node_id].term == newest and 2 * len(reached) > len(self.nodes):
                    return node_id
        raise AssertionError("no leader was elected")

    def propose(self, node_id: int, data: bytes, *, settle: bool = True) -> Position:
        position = self[node_id].propose(data, EntryKind.COMMANDS)
        assert isinstance(position, Position), position
        self.collect(node_id)
        if settle:
            self.settle()
        return position

    def read(self, node_id: int, *, settle: bool = True) -> int:
        """Begin a linearizable read. Return its request number."""
        request = self._next_read
        self._next_read += 1
        self.oracle.read_begins(self.node(node_id), request)
        self[node_id].read_index(request)
        self.collect(node_id)
        if settle:
            self.settle()
        return request

    def transfer(self, node_id: int, target: int | None, *, settle: bool = True) -> str | None:
        refusal = self[node_id].transfer(None if target is None else NodeId(target))
        self.collect(node_id)
        if settle:
            self.settle()
        return refusal

    # --- what came of it ---

    def log_terms(self, node_id: int) -> list[int]:
        log = self[node_id].log
        return [entry.term for entry in log.slice(log.first_index, Index(log.last_index + 1), 1 << 40)]

    def applied_data(self, node_id: int) -> list[bytes]:
        return [entry.data for entry in self.node(node_id).applied if entry.kind is EntryKind.COMMANDS]

    def sent_by(self, node_id: int, kind: type[Message]) -> list[Message]:
        """Messages of one kind from one node that were delivered."""
        return [message for message in self.delivered if message.sender == node_id and isinstance(message, kind)]
