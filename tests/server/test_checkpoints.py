"""What a node does about checkpoints when something comes at a bad moment."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raftkv.errors import NoRoom, ShuttingDown, StorageError
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.transport.protocols import Incoming
from raftkv.v1 import cluster_pb2
from raftkv.v1 import cluster_pb2 as pb
from tests.server.follower import (
    ENTRY_BYTES,
    NEXT_LEADER,
    Checkpoint,
    Follower,
    append,
    checkpoint_of,
    entries,
    install,
)
from tests.server.memory_cluster import until


async def test_a_checkpoint_is_received_and_installed() -> None:
    async with Follower() as follower:
        await follower.receive(await checkpoint_of(10))
        follower.hear(install(10))
        await follower.applied(10)
        follower.hear(append(10, entries(11, 12), 12))
        await follower.applied(12)


@pytest.mark.parametrize("step", ["begin", "write", "finish"])
async def test_bug_39_a_disk_that_fails_under_a_checkpoint_from_a_peer_stops_the_node(step: str) -> None:
    """The peer's call is refused, and that is not all: the leader would send again, and be believed."""
    checkpoint = await checkpoint_of(10)
    async with Follower() as follower:
        if step == "begin":
            follower.disk.fail_next("create", errno.EIO)
        else:
            incoming = await follower.node.begin_checkpoint(checkpoint.manifest.encode())
            follower.disk.fail_next("pwrite" if step == "write" else "fdatasync", errno.EIO)
        with pytest.raises(StorageError, match=r"EIO.*The node stops"):
            await follower.receive(checkpoint) if step == "begin" else await send(incoming, checkpoint)
        assert follower.node.failure.done()
        with pytest.raises(StorageError, match="EIO"):
            follower.node.failure.result()
        assert follower.keeper.newest is None


@pytest.mark.parametrize("different", [False, True])
async def test_a_checkpoint_of_another_state_than_the_one_here_raises_an_alarm(different: bool) -> None:
    checkpoint = await checkpoint_of(10)
    async with Follower() as follower:
        await follower.receive(checkpoint)
        if different:
            checkpoint.manifest = replace(checkpoint.manifest, state_hash=bytes(16))
        incoming = await follower.node.begin_checkpoint(checkpoint.manifest.encode())
        assert (incoming.offset == 0) is different, "it replaces one that was never installed"
        assert (cluster_pb2.DIVERGED in follower.node.alarms) is different


async def send(incoming: Incoming, checkpoint: Checkpoint) -> None:
    for chunk in checkpoint.chunks:
        await incoming.write_chunk(chunk.offset, chunk.data, chunk.crc)
    await incoming.finish()


async def test_an_install_that_finds_no_room_waits_for_it_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Follower() as follower:
        await follower.receive(await checkpoint_of(10))
        engine, full = follower.keeper.checkpoints._engine, asyncio.Event()
        prepare = engine.prepare

        def no_room(blocks: Iterator[bytes]) -> None:
            if not full.is_set():
                full.set()
                raise NoRoom("no room for the copy of a checkpoint")
            prepare(blocks)

        monkeypatch.setattr(engine, "prepare", no_room)
        follower.hear(install(10))
        await full.wait()
        await until(lambda: pb.DISK_FULL in follower.node.alarms)
        assert follower.node.machine.applied_index == 0
        await follower.applied(10)
        await until(lambda: pb.DISK_FULL not in follower.node.alarms)
        follower.hear(append(10, entries(11, 12), 12))
        await follower.applied(12)


async def test_what_is_refused_does_not_stop_the_node() -> None:
    checkpoint = await checkpoint_of(10)
    async with Follower() as follower:
        with pytest.raises(CheckpointRefused, match="no manifest"):
            await follower.node.begin_checkpoint(b"junk")
        incoming = await follower.node.begin_checkpoint(checkpoint.manifest.encode())
        with pytest.raises(CheckpointRefused, match="damaged on the way"):
            await incoming.write_chunk(0, b"junk", 0)
        with pytest.raises(CheckpointRefused, match="of which 0 are here"):
            await incoming.finish()
        follower.disk.fail_next("fallocate", errno.ENOSPC)
        with pytest.raises(CheckpointRefused, match="no room"):
            await follower.receive(await checkpoint_of(11))
        await follower.receive(checkpoint)
        assert not follower.node.failure.done()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_newer_checkpoint_that_is_not_installed_yet_holds_up_those_made_here_and_no_more(begun: bool) -> None:
    """`begun`: it comes while one is being made."""
    checkpoint = await checkpoint_of(10)
    async with Follower(due_bytes=3 * ENTRY_BYTES) as follower:
        if begun:
            follower.copying.clear()
        else:
            await follower.receive(checkpoint)
        follower.hear(append(0, entries(1, 5), 5))
        await follower.applied(5)
        if begun:
            await turns()
            await follower.receive(checkpoint)
            follower.copying.set()
        await turns()
        assert follower.newest == 10
        # The leader that sent it is gone; the next one sends the log.
        follower.hear(append(5, entries(6, 9), 9, term=2, sender=NEXT_LEADER))
        await follower.applied(9)
        await turns()
        assert follower.newest == 10
        # Two files: the one that came, and the one that was begun before. No state was copied in vain.
        assert follower.disk.trace.count("create .data") == 1 + begun
        follower.hear(append(9, entries(10, 14), 14, term=2, sender=NEXT_LEADER))
        await until(lambda: follower.newest > 10)
        follower.hear(append(14, entries(15, 19), 19, term=2, sender=NEXT_LEADER))
        await until(lambda: follower.log_disk.base[0] > 10)
        assert not follower.node.failure.done()


async def test_bug_29_the_snapshot_that_the_core_has_accepted_is_installed_and_not_a_newer_one() -> None:
    """It waits behind a flush that takes longer than an election timeout, so the leader sends its next checkpoint."""
    async with Follower() as follower:
        await follower.receive(await checkpoint_of(10))
        follower.flushing.clear()
        follower.hear(append(0, entries(1, 3), 0))
        await turns()
        follower.hear(install(10))
        await turns()
        await follower.receive(await checkpoint_of(20))
        follower.flushing.set()
        await follower.applied(10)
        await until(lambda: follower.node.raft.log.applied > 0)
        assert follower.node.machine.applied_index == follower.node.raft.log.applied == 10
        # The leader dies, and the next one goes on with the log.
        follower.hear(append(10, entries(11, 12), 12, term=2, sender=NEXT_LEADER))
        await follower.applied(12)
        assert follower.node.machine.applied_index == 12
        await follower.holds(20, 10)
        # Or with the checkpoint that is here.
        follower.hear(install(20, term=2, sender=NEXT_LEADER))
        await follower.applied(20)


async def test_the_next_leader_s_older_checkpoint_is_installed_where_a_newer_one_never_was() -> None:
    async with Follower(due_bytes=2 * ENTRY_BYTES) as follower:
        follower.hear(append(0, entries(1, 4), 4))
        await until(lambda: follower.newest == 4)
        await follower.receive(await checkpoint_of(20))
        await follower.receive(await checkpoint_of(15))
        follower.hear(install(15, term=2, sender=NEXT_LEADER))
        await follower.applied(15)
        assert follower.node.machine.applied_index == 15
        await follower.holds(15)
        follower.hear(append(15, entries(16, 20), 20, term=2, sender=NEXT_LEADER))
        await until(lambda: follower.newest == 20)


async def test_a_snapshot_and_committed_entries_behind_it_may_come_in_one_turn() -> None:
    async with Follower() as follower:
        await follower.receive(await checkpoint_of(10))
        follower.hear(install(10), append(10, entries(11, 12, 2), 12, term=2, sender=NEXT_LEADER))
        await follower.applied(12)
        assert follower.log_disk.base == (10, 1)
        assert follower.log_disk.hard_state.commit == 12
    async with follower:
        assert follower.node.machine.applied_index == 12


async def test_a_snapshot_that_the_core_does_not_want_is_not_kept() -> None:
    async with Follower() as follower:
        follower.hear(append(0, [], 0, term=3, sender=NEXT_LEADER))
        await follower.receive(await checkpoint_of(10))
        follower.hear(install(10, term=2))
        await follower.receive(await checkpoint_of(20))
        await follower.holds(20)


@pytest.mark.parametrize("store_lost", [False, True])
async def test_a_node_that_is_restarted_often_makes_its_checkpoints_all_the_same(store_lost: bool) -> None:
    follower = Follower(due_bytes=5 * ENTRY_BYTES)
    for last in (2, 4, 6, 8, 10, 12):
        if store_lost:
            follower.store = MemoryOrderedStore()
        async with follower:
            follower.hear(append(last - 2, entries(last - 1, last), last))
            await follower.applied(last)
            await turns()
            # An entry counts once, also when it has to be applied again.
            assert follower.newest == last // 6 * 6
    assert follower.log_disk.base[0] == 6


async def test_one_is_made_when_asked_for_and_a_second_asker_gets_what_came_after_his_question() -> None:
    async with Follower() as follower:
        follower.hear(append(0, entries(1, 3), 3))
        await follower.applied(3)
        follower.copying.clear()
        first = asyncio.create_task(follower.node.checkpoints.make_now())
        await turns()
        assert follower.node.checkpoints.status().making
        second = asyncio.create_task(follower.node.checkpoints.make_now())
        third = asyncio.create_task(follower.node.checkpoints.make_now())
        follower.hear(append(3, entries(4, 5), 5))
        await follower.applied(5)
        follower.copying.set()
        await asyncio.gather(first, second, third)
        assert follower.newest == 5
        status = follower.node.checkpoints.status()
        assert (status.index, status.making, status.made_at_ms > 0) == (5, False, True)
        await follower.node.checkpoints.make_now()  # of the same state: nothing to do
        follower.disk.fail_next("create", errno.ENOSPC)
        follower.hear(append(5, entries(6, 6), 6))
        await follower.applied(6)
        with pytest.raises(CheckpointRefused, match="no room"):
            await follower.node.checkpoints.make_now()
        await follower.node.checkpoints.make_now()
        assert follower.newest == 6


async def test_whoever_waits_for_a_checkpoint_is_told_that_the_node_stops() -> None:
    async with Follower() as follower:
        follower.hear(append(0, entries(1, 3), 3))
        await follower.applied(3)
        follower.copying.clear()
        waiting = [asyncio.create_task(follower.node.checkpoints.make_now())]
        await turns()
        waiting.append(asyncio.create_task(follower.node.checkpoints.make_now()))
        await turns()
        await follower.node.stop()
        for one in waiting:
            with pytest.raises(ShuttingDown):
                await one
        with pytest.raises(ShuttingDown):
            await follower.node.checkpoints.make_now()
        follower.copying.set()


async def turns() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(200):
        await asyncio.sleep(0)
