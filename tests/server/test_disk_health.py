"""Whole nodes whose disks are full, hang or fail."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import NoRoom, StorageError
from raftkv.invariant import InvariantViolation
from raftkv.raft import Fitness, NodeId, Raft
from raftkv.server.disk_health import DiskHealth
from raftkv.server.disk_pace import DiskPace
from raftkv.server.disk_room import DiskRoom
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.worker import Inline
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1 import common_pb2 as common
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.storage.simdisk import SimDisk

RESERVE = 1000
PLENTY = 10_000
LOW = 900
EXHAUSTED = 100


class Disks:
    """What the file system of each node says is free, and how long a write may take."""

    def __init__(self, cluster: MemoryCluster, slow_s: float = 0.0) -> None:
        self.free = dict.fromkeys(cluster.ids, PLENTY)
        self._slow_s = slow_s
        for member in cluster.nodes.values():
            member.disk_health = partial(self._health, member.id)

    def _health(self, node: NodeId) -> DiskHealth:
        return DiskHealth(
            DiskRoom(lambda: self.free[node], RESERVE, f"/node-{node}", look_s=0.02),
            DiskPace(asyncio.get_running_loop().time, self._slow_s, self._slow_s),
        )


def alarm(member: MemoryNode, which: pb.Alarm.ValueType) -> bool:
    return which in member.node.alarms


def fitness(member: MemoryNode) -> Fitness:
    return member.node.raft.fitness


async def puts(member: MemoryNode, key: bytes) -> kv.OperationResult:
    return await member.put(key, b"value")


async def test_a_full_leader_hands_over_and_takes_entries_as_a_follower() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        old = await cluster.leader()
        disks.free[old.id] = LOW
        new = await cluster.leader(other_than=old.id)
        assert alarm(old, pb.DISK_FULL)
        assert fitness(old) is Fitness.HINDERED
        assert (await puts(old, b"k")).HasField("put"), "it is forwarded"
        await until(lambda: old.node.machine.applied_index == new.node.machine.applied_index)
        assert new.node.transfer_leader(None) is None, "to the third one"
        await until(lambda: not new.node.is_leader)
        assert not old.node.is_leader
        disks.free[old.id] = PLENTY
        await until(lambda: not alarm(old, pb.DISK_FULL))
        assert fitness(old) is Fitness.FIT


async def test_where_all_are_full_writes_are_refused_and_all_else_goes_on() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        granted = await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=3_600_000)))
        assert (await puts(leader, b"before")).HasField("put")
        for node in cluster.ids:
            disks.free[node] = LOW
        await until(lambda: all(member.node.disk_health.room.refuses_writes for member in cluster.nodes.values()))
        leader = await cluster.leader()
        refused = await puts(leader, b"refused")
        assert refused.error.code == common.SPACE_EXCEEDED
        assert not refused.error.ambiguous
        assert f"{LOW} bytes are free on the file system of /node-{leader.id}" in refused.error.message
        assert "--disk-reserve-bytes" in refused.error.message
        assert (await puts(cluster.follower(leader), b"refused")).error.code == common.SPACE_EXCEEDED
        assert (await leader.get(b"before")).range.kvs[0].value == b"value"
        kept = await leader.run(
            kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[granted.lease_grant.id]))
        )
        assert kept.HasField("lease_keep_alive"), kept
        # Votes go on, and a new leader gets its first entry committed: reads need it.
        target = cluster.follower(leader)
        assert leader.node.transfer_leader(target.id) is None
        leader = await cluster.leader(other_than=leader.id)
        assert (await leader.get(b"before")).range.kvs[0].value == b"value"
        assert (await puts(leader, b"refused")).error.code == common.SPACE_EXCEEDED
        for node in cluster.ids:
            disks.free[node] = PLENTY
        await until(lambda: not leader.node.disk_health.room.low)
        assert (await puts(await cluster.leader(), b"after")).HasField("put")


async def test_a_full_follower_takes_no_commands_stops_nobody_and_catches_up_by_itself() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        full = cluster.follower(leader)
        disks.free[full.id] = EXHAUSTED
        await until(lambda: leader.node.raft.followers()[full.id].full)
        held = full.node.raft.log.last_index
        for number in range(20):
            assert (await puts(leader, b"key-%d" % number)).HasField("put")
        assert full.node.raft.log.last_index == held
        assert leader.node.is_leader, "nobody has stood against it"
        assert full.node.raft.leader == leader.id
        disks.free[full.id] = PLENTY
        await until(lambda: full.node.machine.applied_index == leader.node.machine.applied_index)


async def test_a_full_majority_elects_a_leader_that_reads_go_on_with() -> None:
    """Its first entry is none of those that are dropped."""
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        assert (await puts(leader, b"before")).HasField("put")
        last = leader.node.raft.log.last_index
        await until(lambda: all(member.node.machine.applied_index == last for member in cluster.nodes.values()))
        for node in cluster.ids:
            disks.free[node] = EXHAUSTED
        await until(lambda: all(member.node.disk_health.room.full for member in cluster.nodes.values()))
        cluster.isolate(leader.id)
        other = await cluster.leader(other_than=leader.id)
        assert (await other.get(b"before")).range.kvs[0].value == b"value"


async def test_a_full_follower_catches_up_where_nobody_else_is_left_and_reads_and_renewals_go_on() -> None:
    """The new leader's first entry travels behind the commands that the full one was spared."""
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        granted = await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=3_600_000)))
        full, third = (member for member in cluster.nodes.values() if member is not leader)
        disks.free[full.id] = EXHAUSTED
        await until(lambda: leader.node.raft.followers()[full.id].full)
        for number in range(5):
            assert (await puts(leader, b"key-%d" % number)).HasField("put")
        cluster.isolate(leader.id)
        assert await cluster.leader(other_than=leader.id) is third
        assert (await third.get(b"key-4")).range.kvs[0].value == b"value"
        assert full.node.raft.log.last_index == third.node.raft.log.last_index
        await until(lambda: third.node.raft.full_voters == (full.id,))
        refused = await puts(third, b"k")
        assert refused.error.code == common.SPACE_EXCEEDED
        assert f"nodes {full.id})" in refused.error.message
        kept = await third.run(
            kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[granted.lease_grant.id]))
        )
        assert kept.HasField("lease_keep_alive"), kept


async def test_below_the_second_floor_everywhere_leases_are_kept_alive() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        granted = await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=3_600_000)))
        for node in cluster.ids:
            disks.free[node] = EXHAUSTED
        await until(lambda: all(member.node.disk_health.room.full for member in cluster.nodes.values()))
        kept = await leader.run(
            kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[granted.lease_grant.id]))
        )
        assert kept.HasField("lease_keep_alive"), kept


async def test_a_leader_with_room_over_a_full_majority_refuses_writes() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    async with cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.ids if node != leader.id]
        for node in others:
            disks.free[node] = EXHAUSTED
        await until(lambda: leader.node.raft.full_voters == tuple(others))
        refused = await puts(leader, b"k")
        assert refused.error.code == common.SPACE_EXCEEDED
        assert not refused.error.ambiguous
        assert f"nodes {others[0]}, {others[1]})" in refused.error.message
        disks.free[others[0]] = PLENTY
        await until(lambda: not leader.node.raft.full_voters)
        assert (await puts(leader, b"k")).HasField("put")


async def test_a_leader_whose_disk_hangs_hands_over_and_comes_back() -> None:
    cluster = MemoryCluster()
    Disks(cluster, slow_s=0.02)
    async with cluster:
        old = await cluster.leader()
        old.gate.open = False
        putting = asyncio.create_task(puts(old, b"k"))
        new = await cluster.leader(other_than=old.id)
        assert alarm(old, pb.SLOW_DISK)
        assert fitness(old) is Fitness.HINDERED
        answer = await putting  # the old leader, which was asked, applies nothing that it has not on disk
        assert answer.HasField("put") or answer.error.code == common.LEADER_CHANGED
        assert (await new.get(b"k")).range.kvs, "by the disks of the others"
        assert (await puts(new, b"later")).HasField("put")
        assert not old.node.failure.done()


async def test_control_without_the_safeguard_a_hanging_disk_keeps_leadership(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskPace, "look", lambda pace: None)
    cluster = MemoryCluster()
    Disks(cluster, slow_s=0.02)
    async with cluster:
        old = await cluster.leader()
        old.gate.open = False
        await puts(old, b"k")
        with pytest.raises(TimeoutError):
            await until(lambda: not old.node.is_leader, timeout_s=0.5)


# --- no room all the same ---------------------------------------------------------------------------------------------


def on_simulated_disk(member: MemoryNode) -> SimDisk:
    disk = SimDisk()
    member.open_log = lambda: WriteAheadLog.open(
        Path("/log"), files=disk, segment_bytes=64 << 10, runner=Inline(lambda: 0.0)
    )
    return disk


class Full:
    """Makes every new segment find no room, for as long as it is `full`."""

    def __init__(self, disk: SimDisk) -> None:
        self.full = True
        disk.fault = self.fault  # type: ignore[method-assign]

    def fault(self, operation: str) -> None:
        if self.full and operation in ("create", "fallocate"):
            raise OSError(errno.ENOSPC, "no space")


async def test_a_log_that_finds_no_room_waits_and_goes_on_and_nothing_is_lost() -> None:
    cluster = MemoryCluster()
    disks = Disks(cluster)
    leader_disk = on_simulated_disk(cluster[1])
    async with cluster:
        await until(lambda: cluster[1].node.leader is not None)
        if not cluster[1].node.is_leader:
            (await cluster.leader()).node.transfer_leader(NodeId(1))
        leader = await until(lambda: cluster[1] if cluster[1].node.is_leader else None)
        full = Full(leader_disk)
        acknowledged = []

        async def write_until_it_starves() -> None:
            number = 0
            while not leader.node.disk_health.room.starved_count:
                if (await leader.put(b"key-%d" % number, bytes(4000))).HasField("put"):
                    acknowledged.append(b"key-%d" % number)
                number += 1

        await asyncio.wait_for(write_until_it_starves(), 60)
        new = await cluster.leader(other_than=leader.id)
        assert alarm(leader, pb.DISK_FULL)
        assert (await puts(new, b"by the others")).HasField("put")
        assert not leader.node.failure.done()
        full.full = False
        disks.free[leader.id] += 1
        await until(lambda: not alarm(leader, pb.DISK_FULL))
        await until(lambda: leader.node.machine.applied_index == new.node.machine.applied_index)
        for key in acknowledged:
            assert (await new.get(key)).range.kvs, key
        assert new.node.machine.revision == leader.node.machine.revision


async def test_a_full_log_keeps_room_for_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that it could not write would stand in their way for as long as there is no room."""
    monkeypatch.setattr(Raft, "full_voters", ())  # else the leader would not even try
    cluster = MemoryCluster()
    disks = Disks(cluster)
    disk = on_simulated_disk(cluster[3])
    async with cluster:
        await until(lambda: cluster[3].node.leader is not None)
        if cluster[3].node.is_leader:
            cluster[3].node.transfer_leader(None)
        leader = await cluster.leader(other_than=3)
        full = cluster[3]
        (third,) = (member for member in cluster.nodes.values() if member not in (leader, full))
        disks.free[full.id] = EXHAUSTED
        await until(lambda: leader.node.raft.followers()[full.id].full)
        Full(disk)
        cluster.isolate(third.id)
        for number in range(40):
            put = kv.Operation(id=1, put=kv.PutRequest(key=b"key-%d" % number, value=bytes(8000)))
            answer = await leader.run(put, timeout_ms=500 if number > 3 else 20_000)
            if answer.HasField("error"):
                break
        assert answer.error.ambiguous
        assert number > 3, "it was taken while there was room"
        assert not full.node.disk_health.room.starved_count
        cluster.heal()
        cluster.isolate(leader.id)
        new = await cluster.leader(other_than=leader.id)
        assert (await new.get(b"key-0")).range.kvs


class FullStore(MemoryOrderedStore):
    def __init__(self) -> None:
        super().__init__()
        self.full = False

    @contextmanager
    def write(self) -> Iterator[Any]:
        with super().write() as writer:
            yield writer
            if self.full:
                raise NoRoom("the store is full")


async def test_a_state_that_finds_no_room_waits_and_goes_on_where_it_was() -> None:
    """On a follower, with leases, sessions and watches in play: nothing is applied twice, or left out."""
    cluster = MemoryCluster()
    disks = Disks(cluster)
    for member in cluster.nodes.values():
        member.store = FullStore()
    async with cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        session = await leader.register()
        store = follower.store
        assert isinstance(store, FullStore)
        await until(lambda: follower.node.machine.applied_index == leader.node.machine.applied_index)
        store.full = True
        hub_revision = follower.node.hub.revision
        granted = await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=3_600_000)), session)
        assert granted.HasField("lease_grant")
        assert (await leader.put(b"a", b"1", session=session, sequence=2)).HasField("put")
        await until(lambda: follower.node.disk_health.room.starved_count > 1)
        assert alarm(follower, pb.DISK_FULL)
        assert len(follower.node.machine.leases) == 0
        assert follower.node.hub.revision == hub_revision, "nothing is published that is not in the store"
        assert not follower.node.failure.done()
        store.full = False
        disks.free[follower.id] += 1
        await until(lambda: follower.node.machine.applied_index == leader.node.machine.applied_index)
        assert not alarm(follower, pb.DISK_FULL)
        assert len(follower.node.machine.leases) == 1
        assert follower.node.machine.revision == leader.node.machine.revision == follower.node.hub.revision
        with follower.node.machine.view() as here, leader.node.machine.view() as there:
            hashers = here.hasher(), there.hasher()
            for hasher in hashers:
                while not hasher.step(1000):
                    pass
            assert hashers[0].digest() == hashers[1].digest()


async def test_control_a_machine_that_is_not_renewed_ends_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.server.memory_cluster.NoCheckpoints.renew", lambda keeper: None)
    cluster = MemoryCluster()
    Disks(cluster)
    cluster[1].store = store = FullStore()
    async with cluster:
        leader = await cluster.leader()
        store.full = True
        await puts(leader, b"k")
        await until(cluster[1].node.failure.done)
        assert isinstance(cluster[1].node.failure.exception(), InvariantViolation)


# --- a full map of LMDB -----------------------------------------------------------------------------------------------

MAP = 2 << 20


async def fill(member: MemoryNode) -> kv.OperationResult:
    for number in range(10 * MAP // 20_000):
        answer = await member.put(b"key-%d" % number, bytes(20_000))
        if answer.HasField("error"):
            return answer
    raise AssertionError("it is never full")


@pytest.mark.parametrize("quota", [MAP // 4 * 3, 0])
async def test_a_map_that_is_nearly_full_refuses_writes_and_stops_no_node(quota: int, tmp_path: Path) -> None:
    """The quota refuses first, and nothing ever finds the map full. Without one, the node waits, and reads go on."""
    cluster = MemoryCluster(1, quota_bytes=quota)
    Disks(cluster)
    cluster[1].store = store = LmdbStore.open(tmp_path / "store", map_size=MAP)
    async with cluster:
        leader = await cluster.leader()
        answer = await fill(leader)
        starved = leader.node.disk_health.room.starved_count
        assert not leader.node.failure.done()
        assert (await leader.get(b"key-0", kv.LOCAL)).range.kvs
        if quota:
            assert answer.error.code == common.SPACE_EXCEEDED
            assert not starved
            gone = await leader.run(kv.Operation(id=1, delete=kv.DeleteRequest(key=b"key-0", range_end=b"key-2")))
            assert gone.HasField("delete"), gone
        else:
            assert starved
            assert alarm(leader, pb.DISK_FULL)
            assert (await puts(leader, b"k")).error.code == common.SPACE_EXCEEDED
            assert "--store-map-size" in leader.node.disk_health.room.problem
    store.close()


# --- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "number"),
    [("pwrite", errno.EIO), ("fdatasync", errno.EIO), ("fdatasync", errno.ENOSPC)],
)
async def test_an_error_of_the_log_stops_the_node_at_once(operation: str, number: int) -> None:
    """No retry, whatever a flush says of its reason (raft-bugs 39)."""
    cluster = MemoryCluster(1)
    disk = on_simulated_disk(cluster[1])
    async with cluster:
        leader = await cluster.leader()
        assert (await puts(leader, b"before")).HasField("put")
        disk.fail_next(operation, number)
        answer = await puts(leader, b"k")
        assert answer.error.code == common.SHUTTING_DOWN
        assert answer.error.ambiguous
        assert isinstance(leader.node.failure.exception(), StorageError)
        writes = len(disk.trace)
        await asyncio.sleep(0.05)
        assert len(disk.trace) == writes, "and touches the disk no more"


async def test_an_error_of_the_state_store_stops_the_node_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = MemoryCluster(1)
    async with cluster:
        leader = await cluster.leader()

        def failing(store: object) -> Any:
            raise StorageError("the state store failed: Input/output error")

        monkeypatch.setattr(MemoryOrderedStore, "write", failing)
        assert (await puts(leader, b"k")).error.code == common.SHUTTING_DOWN
        assert isinstance(leader.node.failure.exception(), StorageError)
