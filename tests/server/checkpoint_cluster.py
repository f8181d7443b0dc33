"""A `MemoryCluster` whose nodes make, send and install checkpoints, on disks in memory."""

from __future__ import annotations

import random
from typing import Any

from raftkv.raft import NO_MEMBERS, Configuration, Index, Raft, RaftConfig
from raftkv.server.clock import MonotonicClock
from raftkv.server.disk_kind import DiskKind
from raftkv.server.node import Node, NodeLimits
from raftkv.server.requests import RequestLimits, Requests
from raftkv.storage.memory import MemoryLogStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.recovery import recover_node
from tests.server.follower import CHECKPOINTS, MemoryKeeper, applied_index, open_checkpoints
from tests.server.memory_cluster import CLUSTER_ID, TICK_S, MemoryCluster, MemoryNode, until

DUE_BYTES = 2_000


class CheckpointNode(MemoryNode):
    """One node. `stop` and `start` restart it."""

    founder = True
    """Whether it knows the members when it is new; else it learns them from the log."""

    def __init__(self, cluster: MemoryCluster, node_id: Any) -> None:
        super().__init__(cluster, node_id)
        self.files = MemoryFileSystem()
        self.keeper: MemoryKeeper
        self.installs = 0

    async def start(self) -> None:
        log_store, found = MemoryLogStore.open(self.disk)
        checkpoints = open_checkpoints(self.files)
        recovered = await recover_node(
            log_store, found, checkpoints, open_store=lambda: self.store, applied_index=applied_index
        )
        kind = DiskKind.open(CHECKPOINTS.parent, self.id, self.files)
        self.keeper = MemoryKeeper.of(log_store, recovered, checkpoints, kind)
        raft = Raft(
            RaftConfig(
                node_id=self.id,
                configuration=Configuration(frozenset(self.cluster.ids)) if self.founder else NO_MEMBERS,
            ),
            hard_state=self.keeper.recovered.hard_state,
            entries=self.keeper.entries,
            snapshot=self.keeper.snapshot,
            applied=Index(self.keeper.machine.applied_index),
            rng=random.Random(self.id),
        )
        self.node = Node(
            raft=raft,
            keeper=self.keeper,
            log_store=log_store,
            transport=self.cluster.hub.transport(self.id),
            clock=self.cluster.clocks.get(self.id, MonotonicClock()),
            limits=self.cluster.limits,
        )
        self.requests = Requests(
            self.node, self.cluster.forwarder(self.id), CLUSTER_ID, RequestLimits(default_timeout_s=5.0)
        )
        self.node.recover()
        await self.node.start()

    async def stop(self) -> None:
        """End the process; its disks stay."""
        await self.node.stop()
        await self.keeper.checkpoints.close()
        store: Any = self.keeper.store
        self.store = store

    @property
    def newest(self) -> int:
        return self.keeper.newest.index if self.keeper.newest else 0


class CheckpointCluster(MemoryCluster):
    """Nodes that compact their logs after a few entries."""

    def __init__(self, size: int = 3, *, due_bytes: int = DUE_BYTES, **more: Any) -> None:
        limits = NodeLimits(tick_s=TICK_S, checkpoint_log_bytes=due_bytes)
        super().__init__(size, limits, **more)
        self.members: dict[int, CheckpointNode] = {one: CheckpointNode(self, one) for one in self.ids}
        self.nodes = {one.id: one for one in self.members.values()}

    async def write(self, count: int = 1, value: bytes = bytes(100), *, prefix: bytes = b"fill") -> None:
        leader = await self.leader()
        for number in range(count):
            await leader.put(b"%s/%d" % (prefix, number), value)

    async def outrun(self, behind: int) -> None:
        """Write until no log reaches back to what a node has that is cut off or stopped."""
        last = self.members[behind].node.raft.log.last_index
        while any(
            member.node.raft.log.first_index <= last + 1 for one, member in self.members.items() if one != behind
        ):
            await self.write(5)

    async def caught_up(self, number: int) -> None:
        """Wait until a node has applied all that the leader has."""
        target = (await self.leader()).node.machine.applied_index
        await until(lambda: self.members[number].node.machine.applied_index >= target)

    def state_hash(self, number: int) -> bytes:
        with self.members[number].node.machine.view() as view:
            hasher = view.hasher()
            while not hasher.step(1 << 20):
                pass
            return hasher.digest()
