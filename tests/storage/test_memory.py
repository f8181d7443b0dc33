"""The in-memory log under the faults that the simulator injects."""

from __future__ import annotations

import asyncio
import errno
from random import Random

import pytest

from raftkv.errors import StorageError
from raftkv.raft.types import Index, Term
from raftkv.storage.memory import MemoryDisk, MemoryLogStore
from raftkv.storage.protocols import RecoveredLog
from tests.storage.support import hard, run


async def test_a_failed_flush_kills_the_store() -> None:
    disk = MemoryDisk()
    store, _ = MemoryLogStore.open(disk)
    await store.append(hard(1), run(1, 1, 1))
    disk.fail_next = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageError, match="Input/output error"):
        await store.append(hard(1), run(1, 2, 2))
    with pytest.raises(StorageError, match=r"dead: .*Input/output error"):
        await store.append(hard(1), run(1, 3, 3))
    _, recovered = MemoryLogStore.open(disk)
    assert recovered.entries == run(1, 1, 1)


async def test_nothing_is_durable_before_the_flush_is_over() -> None:
    disk = MemoryDisk(flush_seconds=lambda: 3600)
    store, _ = MemoryLogStore.open(disk)
    append = asyncio.ensure_future(store.append(hard(1), run(1, 1, 2)))
    await asyncio.sleep(0)
    assert disk.entries == []
    assert not append.done()
    # Closing finishes the flush, whatever it was to take.
    await store.close()
    assert disk.entries == list(run(1, 1, 2))
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append


async def test_a_crash_leaves_nothing_all_or_a_prefix_of_the_write_in_flight() -> None:
    outcomes = set()
    for seed in range(60):
        disk = MemoryDisk(flush_seconds=lambda: 3600)
        disk.hard_state, disk.entries = hard(1, 1, 1), list(run(1, 1, 4))
        store, _ = MemoryLogStore.open(disk)
        append = asyncio.ensure_future(store.append(hard(2, 2, 4), run(2, 3, 5)))
        await asyncio.sleep(0)
        disk.crash(Random(seed))
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        _, recovered = MemoryLogStore.open(disk)
        if recovered.hard_state == hard(1, 1, 1):
            assert recovered.entries == run(1, 1, 4)
            outcomes.add(0)
        else:
            count = recovered.last_index - 2
            assert recovered.entries == (*run(1, 1, 2), *run(2, 3, 2 + count))
            assert recovered.hard_state == hard(2, 2, min(4, 2 + count))
            outcomes.add(count)
    assert outcomes == {0, 1, 2, 3}


async def test_a_crash_without_a_write_in_flight_loses_nothing() -> None:
    disk = MemoryDisk()
    store, _ = MemoryLogStore.open(disk)
    await store.append(hard(2, 2, 2), run(2, 1, 3))
    for seed in range(20):
        disk.crash(Random(seed))
        _, recovered = MemoryLogStore.open(disk)
        assert recovered.hard_state == hard(2, 2, 2)
        assert recovered.entries == run(2, 1, 3)


async def test_a_store_of_before_the_crash_reaches_the_disk_no_more() -> None:
    disk = MemoryDisk()
    store, _ = MemoryLogStore.open(disk)
    disk.crash(Random(0))
    with pytest.raises(StorageError, match="crashed"):
        await store.append(hard(1), run(1, 1, 1))
    await store.close()
    successor, _ = MemoryLogStore.open(disk)
    await successor.append(hard(2), ())
    assert disk.entries == []
    assert disk.hard_state == hard(2)


async def test_a_write_that_a_crash_overtakes_is_not_confirmed() -> None:
    disk = MemoryDisk()
    store, _ = MemoryLogStore.open(disk)
    append = asyncio.ensure_future(store.append(hard(1), run(1, 1, 1)))
    await asyncio.sleep(0)
    disk.crash(Random(1))
    with pytest.raises(StorageError, match="crashed"):
        await append


async def test_a_crash_leaves_the_old_log_or_the_restarted_one() -> None:
    outcomes = set()
    for seed in range(40):
        disk = MemoryDisk(flush_seconds=lambda: 3600)
        disk.hard_state, disk.entries = hard(1, 1, 1), list(run(1, 1, 4))
        store, _ = MemoryLogStore.open(disk)
        restart = asyncio.ensure_future(store.restart(hard(3, 2), Index(9), Term(2)))
        await asyncio.sleep(0)
        disk.crash(Random(seed))
        restart.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restart
        _, recovered = MemoryLogStore.open(disk)
        if recovered.first_index == 1:
            assert (recovered.hard_state, recovered.entries) == (hard(1, 1, 1), run(1, 1, 4))
        else:
            assert recovered == RecoveredLog(
                hard_state=hard(3, 2, 9), entries=(), first_index=Index(10), base_term=Term(2)
            )
        outcomes.add(recovered.first_index)
    assert outcomes == {1, 10}


async def test_a_crash_during_compaction_loses_no_entry_that_counts() -> None:
    disk = MemoryDisk(flush_seconds=lambda: 3600)
    disk.hard_state, disk.entries = hard(1, 1, 4), list(run(1, 1, 4))
    store, _ = MemoryLogStore.open(disk)
    compaction = asyncio.ensure_future(store.compact(Index(3)))
    await asyncio.sleep(0)
    disk.crash(Random(0))
    compaction.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compaction
    assert MemoryLogStore.open(disk)[1].entries == run(1, 1, 4)


async def test_compaction_drops_whole_segments_only() -> None:
    disk = MemoryDisk(segment_entries=10)
    store, _ = MemoryLogStore.open(disk)
    await store.append(hard(2, 1, 35), (*run(1, 1, 20), *run(2, 21, 40)))
    for first_kept, base in ((10, (0, 0)), (11, (10, 1)), (36, (30, 2)), (25, (30, 2))):
        await store.compact(Index(first_kept))
        assert disk.base == base
        assert disk.entries[0].index == base[0] + 1


async def test_a_failed_restart_kills_the_store() -> None:
    disk = MemoryDisk()
    store, _ = MemoryLogStore.open(disk)
    await store.append(hard(1), run(1, 1, 1))
    disk.fail_next = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageError, match="Input/output error"):
        await store.restart(hard(1), Index(5), Term(1))
    with pytest.raises(StorageError, match="dead"):
        await store.compact(Index(1))
    assert MemoryLogStore.open(disk)[1].entries == run(1, 1, 1)
