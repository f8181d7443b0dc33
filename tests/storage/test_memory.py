"""The in-memory log under the faults that the simulator injects."""

from __future__ import annotations

import asyncio
import errno
from random import Random

import pytest

from raftkv.errors import StorageError
from raftkv.storage.memory import MemoryDisk, MemoryLogStore
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
