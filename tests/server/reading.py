"""What the tests of reads have in common: asking at a level, and standing in the way of the calls that nodes make."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from raftkv.kv.commands import Group, Put
from raftkv.quorum import Guarantee
from raftkv.raft import NodeId
from raftkv.server.clock import MonotonicClock
from raftkv.server.proposals import Outcome
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import CLUSTER_ID, MemoryCluster, MemoryNode, until


class Answer(NamedTuple):
    value: bytes | None
    receipt: common_pb2.ReadReceipt
    error: common_pb2.Error

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee(self.receipt.guarantee)


async def read(member: MemoryNode, level: kv_pb2.ReadLevel.ValueType, timeout_ms: int = 0, **fields: Any) -> Answer:
    """Read the key `k` at a level."""
    request = kv_pb2.RangeRequest(key=b"k", level=level, **fields)
    batch = kv_pb2.BatchRequest(timeout_ms=timeout_ms, operations=[kv_pb2.Operation(id=1, range=request)])
    response = await member.requests.run(batch, forwarded=False)
    (result,) = response.results
    assert result.HasField("error") != response.HasField("read"), "an answer has a receipt, and an error has none"
    value = result.range.kvs[0].value if result.range.kvs else None
    return Answer(value, response.read, result.error)


def token(term: int, index: int, *, committed: bool = True, cluster_id: int = CLUSTER_ID) -> common_pb2.ReadToken:
    return common_pb2.ReadToken(cluster_id=cluster_id, term=term, index=index, committed=committed)


class Held:
    """Stands in the way of calls from one node, or of their answers, until a test lets them go."""

    def __init__(self, asking: int) -> None:
        self._asking = asking
        self._gone = asyncio.Event()
        self.held = asyncio.Event()
        """Something stands here."""

    async def __call__(self, sender: int, receiver: int) -> None:
        if sender == self._asking:
            self.held.set()
            await self._gone.wait()

    def let_go(self) -> None:
        self._gone.set()


class OwnClock(MonotonicClock):
    """A clock that jumps when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_ms = 0.0

    def now_ms(self) -> float:
        return super().now_ms() + self.ahead_ms


async def settled(cluster: MemoryCluster) -> MemoryNode:
    """Return the leader once everybody has applied all of its log."""
    leader = await cluster.leader()
    log = leader.node.raft.log

    def applied() -> bool:
        return all(member.node.machine.applied_index == log.last_index for member in cluster.nodes.values())

    await until(applied)
    return leader


def others(cluster: MemoryCluster, *members: MemoryNode) -> list[MemoryNode]:
    return [member for member in cluster.nodes.values() if member not in members]


async def written_behind(cluster: MemoryCluster, leader: MemoryNode, behind: MemoryNode, value: bytes) -> None:
    """Commit a write at `leader` and apply it everywhere but on one, which does not hear of it; calls still pass."""
    cluster.hub.cut(leader.id, behind.id)
    written = await leader.put(b"k", value)
    assert written.put.revision
    revision = leader.node.machine.revision
    await until(lambda: all(other.node.machine.revision == revision for other in others(cluster, behind)))
    assert behind.node.machine.revision < revision


async def appended(leader: MemoryNode, value: bytes) -> Outcome:
    """Have `leader` append a write, and wait until it is on its disk; return what comes of it."""
    log = leader.node.raft.log
    before = log.last_index
    outcome = leader.node.propose(Group(0, 0, (Put(1, b"k", value),)), 100, asyncio.get_running_loop().time() + 10)
    await until(lambda: log.durable == log.last_index > before)
    return outcome


def own_clocks(size: int = 3) -> dict[NodeId, OwnClock]:
    return {NodeId(number): OwnClock() for number in range(1, size + 1)}
