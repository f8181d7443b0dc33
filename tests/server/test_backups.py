"""Which state a node backs up, and when it refuses to."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import cast

import pytest

from raftkv.errors import (
    Compacted,
    CorruptState,
    FailedPrecondition,
    FutureRevision,
    NoLeader,
    Overloaded,
    StorageError,
)
from raftkv.kv.hashing import StateHasher
from raftkv.server.backups import MAX_BACKUPS, Backups
from raftkv.server.reads import Reads
from raftkv.storage.backup_format import BackupDecoder, BackupSummary
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.checkpoint_directory import OpenCopy
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.v1 import common_pb2, kv_pb2
from raftkv.v1 import maintenance_pb2 as pb
from tests.server.follower import Follower, append, entries
from tests.server.memory_cluster import CLUSTER_ID, MemoryCluster, MemoryNode


class Aside:
    """Copies of an in-memory store are its snapshots."""

    def __init__(self, node: MemoryNode) -> None:
        self.node = node
        self.open = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def copy_aside(self) -> tuple[OpenCopy, int]:
        await self.may_go_on.wait()
        snapshot = self.node.store.read()
        self.open += 1
        copy = OpenCopy(snapshot, snapshot.__enter__(), 1000)
        close = copy.close

        def closed() -> None:
            self.open -= 1
            close()

        copy.close = closed  # type: ignore[method-assign]
        return copy, 100


def backups_of(node: MemoryNode) -> tuple[Backups, Aside]:
    aside = Aside(node)
    return Backups(node.node, node.requests.reads, aside, node.requests.header, CLUSTER_ID, beat_s=0.01), aside


async def backup(node: MemoryNode, **fields: int | bool) -> tuple[pb.SnapshotPart, BackupSummary]:
    backups, aside = backups_of(node)
    decoder = BackupDecoder()
    parts = [part async for part in backups.parts(pb.SnapshotRequest(**fields))]  # type: ignore[arg-type]
    for part in parts:
        decoder.feed(part.data)
    parts = [part for part in parts if part.data]
    assert aside.open == 0
    assert not any(part.HasField("header") for part in parts[1:])
    assert parts[-1].remaining_bytes < 10_000
    return parts[0], decoder.finish()


async def test_a_follower_has_all_that_was_acknowledged_and_the_hash_that_nodes_compare() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        for number in range(20):
            assert not (await leader.put(b"k", b"%d" % number)).HasField("error")
            follower = cluster.follower(leader)
            first, summary = await backup(follower)
            assert first.header.member_id == follower.id
            assert first.revision == summary.header.revision == 2 + number
            assert (summary.header.cluster_id, summary.header.node_id) == (CLUSTER_ID, follower.id)
        with follower.store.read() as reader:
            hasher = StateHasher(reader)
            while not hasher.step(1000):
                pass
        assert summary.state_hash == hasher.digest()
        _, past = await backup(leader, revision=5)
        assert (past.header.revision, past.header.as_of) == (5, 5)
        with pytest.raises(FutureRevision):
            await backup(leader, revision=22)


async def test_a_compacted_revision_is_refused() -> None:
    async with MemoryCluster(1) as cluster:
        leader = await cluster.leader()
        for number in range(5):
            await leader.put(b"k", b"%d" % number)
        result = await leader.run(kv_pb2.Operation(id=9, compact=kv_pb2.CompactRequest(revision=4)))
        assert not result.HasField("error")
        with pytest.raises(Compacted, match="begins at 4"):
            await backup(leader, revision=3)
        assert (await backup(leader, revision=4))[1].header.as_of == 4


async def test_without_a_leader_only_a_stale_one_is_made() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        follower = cluster.follower(leader)
        await backup(follower)
        cluster.silence()
        cluster.cut_off.update(cluster.ids)
        with pytest.raises(NoLeader):
            await backup(follower)
        _, summary = await backup(follower, stale=True)
        assert summary.header.revision == 2


@pytest.mark.parametrize("stale", [False, True])
async def test_a_witness_has_none(stale: bool) -> None:
    async with MemoryCluster(witnesses=[3]) as cluster:
        await cluster.leader()
        with pytest.raises(FailedPrecondition, match="node 3 is a witness"):
            await backup(cluster[3], stale=stale)


async def test_so_many_at_a_time_and_one_that_is_given_up_makes_room() -> None:
    async with MemoryCluster(1) as cluster:
        leader = await cluster.leader()
        backups, aside = backups_of(leader)
        request = pb.SnapshotRequest()
        running = [backups.parts(request) for _ in range(MAX_BACKUPS)]
        for one in running:
            await anext(one)
        with pytest.raises(Overloaded):
            await anext(backups.parts(request))
        assert aside.open == MAX_BACKUPS
        await running[0].aclose()  # type: ignore[attr-defined]
        assert aside.open == MAX_BACKUPS - 1
        assert [part async for part in backups.parts(request)]
        for one in running[1:]:
            await one.aclose()  # type: ignore[attr-defined]
        assert aside.open == 0


@pytest.mark.parametrize(
    ("number", "raised", "stops"), [(errno.EIO, StorageError, True), (errno.ENOSPC, CheckpointRefused, False)]
)
async def test_bug_39_a_disk_that_fails_under_a_copy_stops_the_node_and_a_full_one_does_not(
    number: int, raised: type[Exception], stops: bool
) -> None:
    async with Follower() as follower:
        follower.hear(append(0, entries(1, 3), 3))
        await follower.applied(3)
        backups = Backups(
            follower.node, cast(Reads, NoReads()), OnDisk(follower), common_pb2.ResponseHeader, CLUSTER_ID
        )
        follower.disk.fail_next("pwrite", number)
        with pytest.raises(raised):
            await anext(backups.parts(pb.SnapshotRequest(stale=True)))
        assert follower.node.failure.done() is stops
        if stops:
            with pytest.raises(StorageError, match="EIO"):
                follower.node.failure.result()


class OnDisk:
    """Copies of an in-memory store to a simulated disk."""

    def __init__(self, follower: Follower) -> None:
        self.keeper = follower.keeper

    async def copy_aside(self) -> tuple[OpenCopy, int]:
        return await self.keeper.checkpoints.copy_aside(self.keeper.store), 3


class NoReads:
    """Stands for the reads of a node that has a state."""

    def require_state(self) -> None: ...


async def test_while_it_prepares_a_node_does_not_fall_silent() -> None:
    async with MemoryCluster(1) as cluster:
        leader = await cluster.leader()
        backups, aside = backups_of(leader)
        for given_up in (True, False):
            aside.may_go_on.clear()
            parts = backups.parts(pb.SnapshotRequest())
            for _ in range(3):
                part = await anext(parts)
                assert (part.data, part.HasField("header")) == (b"", False)
            if given_up:
                await parts.aclose()  # type: ignore[attr-defined]
                aside.may_go_on.set()
        aside.may_go_on.set()
        decoder = BackupDecoder()
        async for part in parts:
            decoder.feed(part.data)
        assert decoder.finish().header.revision == 1
        assert aside.open == 0


async def test_a_state_to_which_nothing_was_applied_is_not_backed_up() -> None:
    async with MemoryCluster(3) as cluster:
        await cluster.leader()
        backups, _ = backups_of(cluster[1])
        backups._copier = Aside(MemoryNode(cluster, cluster.ids[0]))
        with pytest.raises(CheckpointRefused, match="nothing has been applied"):
            await anext(backups.parts(pb.SnapshotRequest(stale=True)))


@pytest.mark.parametrize("when", ["before a part", "at the end"])
async def test_a_backup_of_a_node_that_is_condemned_meanwhile_ends_with_an_error(when: str) -> None:
    async with MemoryCluster(1) as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"v")
        backups, aside = backups_of(leader)
        whole = [part async for part in backups.parts(pb.SnapshotRequest()) if part.data]
        parts = backups.parts(pb.SnapshotRequest())
        for _ in whole[: -1 if when == "before a part" else None]:
            await next_of(parts)
        await leader.node.condemn(CorruptMark(1, b"a", b"b", (2, 3), 0.0))
        with pytest.raises(CorruptState):
            await next_of(parts)
        assert aside.open == 0


async def next_of(parts: AsyncIterator[pb.SnapshotPart]) -> pb.SnapshotPart:
    """Return the next part that is none of the beats in between: how many there are depends on the machine."""
    while not (part := await anext(parts)).data:
        pass
    return part
