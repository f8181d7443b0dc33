"""Checkpoints under power loss: the old one or the new one, whole, whatever the disk made of the writes under way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raftkv.errors import NoRoom, StorageError
from raftkv.raft.types import Index, Term
from raftkv.storage.checkpoint import CHUNK_BYTES, CheckpointManifest, CheckpointRefused
from raftkv.storage.checkpoint_room import CheckpointRoom
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.files import FileSystem
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.worker import Inline, Runner, Worker
from tests.storage.simdisk import PowerLoss, SimDisk
from tests.storage.states import SimEngine, applied_index, apply_entry, configuration_at, inspect, transfer, whole_copy

DIRECTORY = Path("/data/checkpoints")
Checkpoints = CheckpointStore[Any]


def open_checkpoints(files: FileSystem, make_runner: Callable[[str], Runner] = lambda _: Inline()) -> Checkpoints:
    return CheckpointStore.open(
        DIRECTORY, engine=MemoryEngine(files), inspect=inspect, files=files, make_runner=make_runner
    )


def state(index: int) -> MemoryOrderedStore:
    store = MemoryOrderedStore()
    # A little more than a chunk, in two writes.
    apply_entry(store, index, 1, {b"a": bytes((index,)) * 700_000, b"b": bytes((index + 100,)) * 400_000})
    return store


async def make(checkpoints: Checkpoints, index: int) -> None:
    await checkpoints.create(state(index), configuration_at)


def files_of(*indexes: int) -> list[str]:
    return [f"{index:020d}.{suffix}" for index in indexes for suffix in ("data", "manifest")]


async def leader_with(index: int) -> Checkpoints:
    leader = open_checkpoints(MemoryFileSystem())
    await make(leader, index)
    return leader


async def receive(checkpoints: Checkpoints, leader: Checkpoints) -> None:
    receiving, sending = await checkpoints.begin(leader.send().manifest), leader.send()
    await transfer(sending, receiving, pieces=400_000)
    await receiving.finish()


async def disk_with(*indexes: int) -> SimDisk:
    disk = SimDisk()
    checkpoints = open_checkpoints(disk)
    for index in indexes:
        await make(checkpoints, index)
    return disk


async def check_every_crash(kept: tuple[int, ...], step: Callable[[Checkpoints], Awaitable[None]], after: int) -> None:
    """`kept` are there before; the newest of them or `after` counts at any time, and the one before it is whole too."""
    before = kept[-1] if kept else 0
    whole = await disk_with(*kept)
    start = len(whole.trace)
    await step(open_checkpoints(whole))
    outcomes = set()
    for crash_at in range(start + 1, len(whole.trace) + 1):
        for seed in range(4):
            disk = await disk_with(*kept)
            disk.crash_at = crash_at
            with pytest.raises(PowerLoss):
                await step(open_checkpoints(disk))
            if seed:
                disk.lose_power(Random(seed))
            else:
                disk.crash_at = None  # only the process died
            checkpoints = open_checkpoints(disk)
            found = checkpoints.newest.index if checkpoints.newest else 0
            assert found in {before, after}
            assert checkpoints.damaged == ()
            valid = [manifest.index for manifest in checkpoints.valid]
            assert valid[:2] == ([*kept, after] if found == after else list(kept))[:-3:-1]
            for manifest in checkpoints.valid:
                await read_whole(checkpoints, manifest)
            outcomes.add((found, bool(seed)))
            # What is left neither stands in the way nor grows.
            await step(checkpoints)
            assert checkpoints.newest is not None
            assert checkpoints.newest.index == after
            await whole_copy(checkpoints)
            await make(checkpoints, after + 1)
            assert disk.names(DIRECTORY) == files_of(after, after + 1)
    assert {found for found, _ in outcomes} == {before, after}
    assert {power for _, power in outcomes} == {False, True}


async def read_whole(checkpoints: Checkpoints, manifest: CheckpointManifest) -> None:
    reader = checkpoints._directory.open_reader(manifest)
    assert sum(len(block) for block in reader.blocks()) == manifest.size
    reader.close()


@pytest.mark.parametrize("before", [(), (4, 5)])
async def test_a_crash_while_one_is_made(before: tuple[int, ...]) -> None:
    async def step(checkpoints: Checkpoints) -> None:
        await make(checkpoints, 7)

    await check_every_crash(before, step, 7)


@pytest.mark.parametrize("before", [(), (4, 5)])
async def test_a_crash_while_one_is_received(before: tuple[int, ...]) -> None:
    leader = await leader_with(7)

    async def step(checkpoints: Checkpoints) -> None:
        await receive(checkpoints, leader)

    await check_every_crash(before, step, 7)


async def test_a_crash_while_an_older_one_replaces_one_that_was_never_installed() -> None:
    newer, older = await leader_with(9), await leader_with(7)

    async def prepared() -> tuple[SimDisk, Checkpoints]:
        disk = await disk_with(5)
        checkpoints = open_checkpoints(disk)
        await receive(checkpoints, newer)
        return disk, checkpoints

    whole, checkpoints = await prepared()
    before = len(whole.trace)
    await receive(checkpoints, older)
    outcomes = set()
    for crash_at in range(before + 1, len(whole.trace) + 1):
        for seed in range(4):
            disk, checkpoints = await prepared()
            disk.crash_at = crash_at
            with pytest.raises(PowerLoss):
                await receive(checkpoints, older)
            disk.lose_power(Random(seed))
            checkpoints = open_checkpoints(disk)
            assert checkpoints.damaged == ()
            manifest, _ = await whole_copy(checkpoints)
            outcomes.add(manifest.index)
    # Never the one of 5, behind which the log may begin, and never none.
    assert outcomes == {9, 7}


async def test_a_crash_while_one_of_another_state_is_replaced() -> None:
    """The manifest of one state must never stand beside the data of another."""
    leader, other = await leader_with(7), open_checkpoints(MemoryFileSystem())
    store = state(7)
    apply_entry(store, 7, 1, {b"a": bytes(700_000)})
    await other.create(store, configuration_at)
    outcomes, finished = set(), False
    for crash_at in range(1, 60):
        for seed in range(2):
            disk = await disk_with(5)
            checkpoints = open_checkpoints(disk)
            await receive(checkpoints, leader)
            disk.crash_at = len(disk.trace) + crash_at
            with contextlib.suppress(PowerLoss):
                await receive(checkpoints, other)
            finished = len(disk.trace) < disk.crash_at
            disk.lose_power(Random(seed))
            checkpoints = open_checkpoints(disk)
            assert checkpoints.damaged == ()
            manifest, _ = await whole_copy(checkpoints)
            outcomes.add(manifest.state_hash)
        if finished:
            break
    assert outcomes == {(await whole_copy(one))[0].state_hash for one in (await leader_with(5), leader, other)}
    assert finished


async def test_a_crash_while_a_damaged_one_is_replaced() -> None:
    """The new data must never be vouched for by the old manifest, nor the other way round."""
    whole = await disk_with(7)
    for crash_at in range(1, 30):
        for seed in range(4):
            disk = await disk_with(7)
            disk.flip_bit(DIRECTORY / f"{7:020d}.data", CHUNK_BYTES + 9)
            checkpoints = open_checkpoints(disk)
            with contextlib.suppress(Exception):
                await whole_copy(checkpoints)
            assert checkpoints.newest is None
            disk.crash_at = len(disk.trace) + crash_at
            with contextlib.suppress(PowerLoss):
                await make(checkpoints, 7)
            finished = len(disk.trace) < disk.crash_at
            disk.lose_power(Random(seed))
            checkpoints = open_checkpoints(disk)
            try:
                _, content = await whole_copy(checkpoints)
            except (StorageError, CheckpointRefused):
                assert not finished
            else:
                assert content == (await whole_copy(open_checkpoints(whole)))[1]
    assert finished


async def test_an_interrupted_transfer_is_resumed_only_over_bytes_that_the_disk_has() -> None:
    leader = await leader_with(7)
    offsets = set()
    for seed in range(20):
        disk = SimDisk()
        receiving = await open_checkpoints(disk).begin(leader.send().manifest)
        await transfer(leader.send(), receiving, pieces=50_000, stop_at=CHUNK_BYTES + 1)
        disk.lose_power(Random(seed))
        checkpoints = open_checkpoints(disk)
        receiving = await checkpoints.begin(leader.send().manifest)
        offsets.add(receiving.offset)
        await transfer(leader.send(), receiving)
        await receiving.finish()
        assert (await whole_copy(checkpoints))[1] == (await whole_copy(leader))[1]
    assert offsets >= {0, CHUNK_BYTES}


async def test_a_disk_without_room_ends_the_checkpoint_not_the_node() -> None:
    leader = await leader_with(7)
    disk = await disk_with(5)
    checkpoints = open_checkpoints(disk)
    disk.fail_next("pwrite", errno.ENOSPC)
    with pytest.raises(CheckpointRefused, match="no room"):
        await make(checkpoints, 6)
    disk.fail_next("fallocate", errno.ENOSPC)
    with pytest.raises(CheckpointRefused, match="no room"):
        await receive(checkpoints, leader)
    assert checkpoints.newest is not None
    assert checkpoints.newest.index == 5
    await receive(checkpoints, leader)
    assert checkpoints.newest.index == 7


@pytest.mark.parametrize("operation", ["create", "pwrite"])
async def test_an_install_that_finds_no_room_leaves_nothing_and_can_be_tried_again(operation: str) -> None:
    leader, disk = await leader_with(7), SimDisk()
    engine = SimEngine(Path("/data/store"), files=disk)
    checkpoints: Checkpoints = CheckpointStore.open(
        DIRECTORY, engine=engine, inspect=inspect, files=disk, make_runner=lambda _: Inline()
    )
    await receive(checkpoints, leader)
    assert checkpoints.hold(Index(7), Term(1))
    store = engine.open()
    manifest = checkpoints.newest
    assert manifest is not None
    for attempt in (lambda: checkpoints.restore(store, Index(7)), lambda: at_start(checkpoints, manifest)):
        disk.fail_next(operation, errno.ENOSPC)
        with pytest.raises(NoRoom, match=r"no room for the copy of a checkpoint in /data/store .*free or add space"):
            await attempt()
        assert disk.names(Path("/data/store")) == []
    assert applied_index(await checkpoints.restore(store, Index(7))) == 7


async def test_a_copy_to_install_that_cannot_be_flushed_is_not_tried_again() -> None:
    """Whatever the reason (raft-bugs 39)."""
    disk = await disk_with(7)
    engine = SimEngine(Path("/data/store"), files=disk)
    disk.fail_next("fdatasync", errno.ENOSPC)
    with pytest.raises(StorageError) as failed:
        engine.prepare(iter((b"block",)))
    assert not isinstance(failed.value, NoRoom)


async def at_start(checkpoints: Checkpoints, manifest: CheckpointManifest) -> None:
    checkpoints.restore_at_start(manifest, None)


async def test_a_checkpoint_that_could_not_be_installed_for_want_of_room_is_not_taken() -> None:
    leader, disk = await leader_with(7), SimDisk()
    reserve = 1_000_000
    size = leader.send().manifest.size
    free = 2 * size + reserve - 1
    checkpoints: Checkpoints = CheckpointStore.open(
        DIRECTORY,
        engine=MemoryEngine(disk),
        inspect=inspect,
        files=disk,
        make_runner=lambda _: Inline(),
        room=CheckpointRoom(DIRECTORY, reserve, lambda _: free),
    )
    refusal = rf"takes {2 * size} bytes, and of the {free} bytes .* {reserve} are kept for the log"
    with pytest.raises(CheckpointRefused, match=refusal):
        await checkpoints.begin(leader.send().manifest)
    assert disk.names(DIRECTORY) == []
    free += 1
    receiving = await checkpoints.begin(leader.send().manifest)
    await transfer(leader.send(), receiving, stop_at=CHUNK_BYTES)
    free -= size  # it is here now
    receiving = await checkpoints.begin(leader.send().manifest)
    assert receiving.offset == CHUNK_BYTES, "it is resumed"
    free -= 1
    with pytest.raises(CheckpointRefused, match=f"takes {size} bytes"):
        await checkpoints.begin(leader.send().manifest)
    assert disk.names(DIRECTORY) == [], "it only took room away"


@pytest.mark.parametrize("kind", ["checkpoint", "backup"])
async def test_a_copy_leaves_the_reserve_to_the_log(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.storage.checkpoint_directory.COPY_SYNC_BYTES", 600_000)
    disk = await disk_with(5)
    store, reserve, asked = state(7), 1_000_000, 0
    size = store.used_bytes()
    free: Iterator[int] = iter(())

    def ask(_: Path) -> int:
        nonlocal asked
        asked += 1
        return next(free)

    checkpoints: Checkpoints = CheckpointStore.open(
        DIRECTORY,
        engine=MemoryEngine(disk),
        inspect=inspect,
        files=disk,
        make_runner=lambda _: Inline(),
        room=CheckpointRoom(DIRECTORY, reserve, ask),
    )

    async def copy() -> None:
        if kind == "backup":
            (await checkpoints.copy_aside(store)).close()
        else:
            await checkpoints.create(store, configuration_at)

    for found, needed in (((reserve + size - 1,), size), ((reserve + size, reserve - 1), 0)):
        free = iter(found)
        problem = rf"takes {needed} bytes, and of the {found[-1]} bytes .* {reserve} are kept for the log"
        with pytest.raises(CheckpointRefused, match=problem):
            await copy()
        assert disk.names(DIRECTORY) == files_of(5), "it takes no room any more"
    assert asked == 3, "beforehand, and on the way"
    free = iter((reserve + size, reserve))
    await copy()
    assert disk.names(DIRECTORY) == (files_of(5) if kind == "backup" else files_of(5, 7))


class FullDisk(SimDisk):
    """Has no room for the `full_at`th operation that needs any."""

    full_at = 0
    needs_room = frozenset(("create", "pwrite", "fallocate", "rename"))

    def fault(self, operation: str) -> None:
        if operation in self.needs_room:
            self.full_at -= 1
            if self.full_at == 0:
                raise OSError(errno.ENOSPC, "ENOSPC")
        super().fault(operation)


async def refusals(step: Callable[[Checkpoints], Awaitable[None]], needs_room: frozenset[str]) -> set[type[Exception]]:
    """Run `step`, to a checkpoint of 7, on a disk that is full at each operation in turn; return what it raised."""
    raised: set[type[Exception]] = set()
    for full_at in range(1, 50):
        disk = FullDisk()
        checkpoints = open_checkpoints(disk)
        await make(checkpoints, 5)
        disk.needs_room, disk.full_at = needs_room, full_at
        try:
            await step(checkpoints)
        except (CheckpointRefused, StorageError) as error:
            raised.add(type(error))
        else:
            assert disk.full_at > 0
            return raised
        assert disk.full_at <= 0
        if StorageError not in raised:
            # Nothing is lost, and what there is can be resumed or is gone.
            assert [manifest.index for manifest in checkpoints.valid] == [5]
            await whole_copy(checkpoints)
            assert {name.split(".")[0] for name in disk.names(DIRECTORY)} <= {f"{5:020d}", "incoming"}
            assert not [name for name in disk.names(DIRECTORY) if name.endswith(".tmp")]
            await step(checkpoints)
            await whole_copy(checkpoints)
            assert disk.names(DIRECTORY) == files_of(5, 7)
    pytest.fail("it never ended")


@pytest.mark.parametrize("kind", ["make", "receive"])
async def test_a_disk_that_fills_up_at_any_point_refuses_the_checkpoint(kind: str) -> None:
    leader = await leader_with(7)

    async def step(checkpoints: Checkpoints) -> None:
        await (make(checkpoints, 7) if kind == "make" else receive(checkpoints, leader))

    assert await refusals(step, FullDisk.needs_room) == {CheckpointRefused}
    assert await refusals(step, frozenset(("fdatasync",))) == {StorageError}
    assert await refusals(step, frozenset(("fsync_dir",))) == {StorageError}


async def test_a_transfer_that_found_no_room_at_its_end_is_resumed_there() -> None:
    leader, disk = await leader_with(7), await disk_with(5)
    checkpoints = open_checkpoints(disk)
    receiving = await checkpoints.begin(leader.send().manifest)
    await transfer(leader.send(), receiving)
    disk.fail_next("create", errno.ENOSPC)
    with pytest.raises(CheckpointRefused, match="no room"):
        await receiving.finish()
    receiving = await checkpoints.begin(leader.send().manifest)
    assert receiving.offset == receiving.manifest.size
    await receiving.finish()


@pytest.mark.parametrize("operation", ["create", "pwrite", "fdatasync", "rename", "fsync_dir"])
async def test_a_failing_disk_is_a_storage_error_and_publishes_nothing(operation: str) -> None:
    leader = await leader_with(7)
    for step in (make, receive):
        disk = await disk_with(5)
        checkpoints = open_checkpoints(disk)
        disk.fail_next(operation, errno.EIO)
        with pytest.raises(StorageError, match="EIO"):
            await (step(checkpoints, 7) if step is make else receive(checkpoints, leader))
        assert checkpoints.newest is not None
        assert checkpoints.newest.index == 5
        disk.lose_power(Random(0))
        again = open_checkpoints(disk).newest
        assert again is not None
        assert again.index == 5


@pytest.mark.parametrize("hung_up", [False, True])
async def test_bug_39_after_a_failed_flush_of_a_checkpoint_nothing_is_tried_again(hung_up: bool) -> None:
    """Also when nobody waits for the flush any more, because the peer has hung up."""
    leader = await leader_with(7)
    disk = await disk_with(5)
    # Real threads: what is cancelled there is done all the same.
    checkpoints = open_checkpoints(disk, Worker)
    receiving = await checkpoints.begin(leader.send().manifest)
    await transfer(leader.send(), receiving)
    disk.fail_next("fdatasync", errno.EIO)
    finishing = asyncio.ensure_future(receiving.finish())
    await asyncio.sleep(0)
    if hung_up:
        finishing.cancel()
    with pytest.raises(asyncio.CancelledError if hung_up else StorageError):
        await finishing
    with pytest.raises(StorageError, match="EIO"):
        await receive(checkpoints, leader)
    with pytest.raises(StorageError, match="EIO"):
        await make(checkpoints, 8)
    assert not disk.faults
    assert checkpoints.newest is not None
    assert checkpoints.newest.index == 5
    await checkpoints.close()


async def test_bug_39_what_a_failed_flush_left_in_the_page_cache_is_written_again() -> None:
    """The node was started again, the machine was not: it reads what the disk does not hold."""
    leader = await leader_with(7)
    disk = await disk_with(5)
    checkpoints = open_checkpoints(disk)
    receiving = await checkpoints.begin(leader.send().manifest)
    await transfer(leader.send(), receiving)
    disk.fail_next("fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="EIO"):
        await receiving.finish()
    checkpoints = open_checkpoints(disk)
    receiving = await checkpoints.begin(leader.send().manifest)
    assert receiving.offset == receiving.manifest.size
    await receiving.finish()
    disk.lose_power(Random(0))
    assert (await whole_copy(open_checkpoints(disk)))[1] == (await whole_copy(leader))[1]


async def test_bug_33_a_checkpoint_counts_only_when_its_bytes_and_its_name_are_durable() -> None:
    disk = await disk_with(4, 5)
    checkpoints = open_checkpoints(disk)
    before = len(disk.trace)
    await make(checkpoints, 7)
    steps = [step for step in disk.trace[before:] if step not in {"pwrite", "create .data"}]
    assert steps == [
        "fdatasync",  # the data
        "rename",
        "fsync_dir",
        "create .tmp",  # the manifest
        "fdatasync",
        "rename",
        "fsync_dir",
        "unlink",  # the manifest of the oldest one, durably, before its data
        "fsync_dir",
        "unlink",
        "fsync_dir",
    ]
    for seed in range(10):
        disk.lose_power(Random(seed))
        newest = open_checkpoints(disk).newest
        assert newest is not None
        assert newest.index == 7


async def test_a_large_copy_is_flushed_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.storage.checkpoint_directory.COPY_SYNC_BYTES", 600_000)
    disk = await disk_with()
    await make(open_checkpoints(disk), 7)
    # After 0.7 MB, after all, and for the manifest.
    assert disk.trace.count("fdatasync") == 3


async def test_what_the_simulator_runs_takes_the_time_of_the_loop() -> None:
    seconds = iter([0.01, 3600])
    files = MemoryFileSystem()
    checkpoints: Checkpoints = CheckpointStore.open(
        DIRECTORY,
        engine=MemoryEngine(files),
        inspect=inspect,
        files=files,
        make_runner=lambda _: Inline(lambda: next(seconds)),
    )
    making = asyncio.ensure_future(make(checkpoints, 7))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(making), 0.3)
    # Copied, and the publication takes an hour.
    assert files.names(DIRECTORY) == ["creating.data"]
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
