"""One suite for every LogStore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from raftkv.errors import StorageError
from raftkv.invariant import InvariantViolation
from raftkv.raft.types import Entry, EntryKind, HardState, Index, Term
from raftkv.storage.memory import MemoryDisk, MemoryLogStore
from raftkv.storage.protocols import LogStore, RecoveredLog
from raftkv.storage.wal import WriteAheadLog
from tests.storage.support import entry, hard, run

Reopen = Callable[[], Awaitable[tuple[LogStore, RecoveredLog]]]


@pytest.fixture(params=["wal", "memory"])
async def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Reopen]:
    """Close the store and open it again, as a restarted node does."""
    disk = MemoryDisk()
    opened: list[LogStore] = []

    async def reopen() -> tuple[LogStore, RecoveredLog]:
        for store in opened:
            await store.close()
        store, recovered = (
            WriteAheadLog.open(tmp_path / "wal", segment_bytes=8192)
            if request.param == "wal"
            else MemoryLogStore.open(disk)
        )
        opened.append(store)
        return store, recovered

    yield reopen
    for store in opened:
        await store.close()


async def test_a_new_log_is_empty(reopen: Reopen) -> None:
    _, recovered = await reopen()
    assert recovered == RecoveredLog(hard_state=HardState(), entries=())
    assert recovered.last_index == 0


async def test_what_was_appended_is_recovered(reopen: Reopen) -> None:
    store, _ = await reopen()
    entries = (
        Entry(term=Term(1), index=Index(1), kind=EntryKind.NOOP),
        Entry(term=Term(1), index=Index(2), kind=EntryKind.COMMANDS, data=b"\x00\xffdata"),
        Entry(term=Term(1), index=Index(3), kind=EntryKind.CONFIGURATION, data=b"c" * 5000),
    )
    await store.append(hard(1, 2**64 - 1, 2), entries)
    _, recovered = await reopen()
    assert recovered == RecoveredLog(hard_state=hard(1, 2**64 - 1, 2), entries=entries)


async def test_a_hard_state_alone_is_recovered(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.append(hard(3, 1), ())
    await store.append(hard(4), ())
    await store.append(hard(4, 2), [])
    _, recovered = await reopen()
    assert recovered.hard_state == hard(4, 2)
    assert recovered.entries == ()


async def test_appending_goes_on_after_each_restart(reopen: Reopen) -> None:
    for index in range(1, 30):
        store, recovered = await reopen()
        assert recovered.last_index == index - 1
        await store.append(hard(1, None, index - 1), run(1, index, index, b"x" * 700))
    _, recovered = await reopen()
    assert recovered.entries == run(1, 1, 29, b"x" * 700)
    assert recovered.torn_bytes == 0


@pytest.mark.parametrize("first", [1, 2, 5, 6])
async def test_an_append_replaces_the_suffix(reopen: Reopen, first: int) -> None:
    store, _ = await reopen()
    await store.append(hard(1), run(1, 1, 5))
    await store.append(hard(2), run(2, first, first + 1, b"new"))
    expected = (*run(1, 1, first - 1), *run(2, first, first + 1, b"new"))
    store, recovered = await reopen()
    assert recovered.entries == expected
    await store.append(hard(2), run(2, first + 2, first + 2, b"more"))
    _, recovered = await reopen()
    assert recovered.entries == (*expected, *run(2, first + 2, first + 2, b"more"))


async def test_the_caller_may_change_its_list_at_once(reopen: Reopen) -> None:
    store, _ = await reopen()
    entries = list(run(1, 1, 3))
    append = asyncio.ensure_future(store.append(hard(1), entries))
    await asyncio.sleep(0)
    entries.clear()
    await append
    _, recovered = await reopen()
    assert recovered.entries == run(1, 1, 3)


async def test_cancelling_does_not_undo_the_write(reopen: Reopen) -> None:
    store, _ = await reopen()
    append = asyncio.ensure_future(store.append(hard(1), run(1, 1, 1)))
    await asyncio.sleep(0)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    await store.append(hard(1), run(1, 2, 2))
    _, recovered = await reopen()
    assert recovered.entries == run(1, 1, 2)


async def test_close_finishes_the_write_under_way(reopen: Reopen) -> None:
    store, _ = await reopen()
    append = asyncio.ensure_future(store.append(hard(1), run(1, 1, 1)))
    await asyncio.sleep(0)
    await store.close()
    await append
    _, recovered = await reopen()
    assert recovered.entries == run(1, 1, 1)


async def test_a_closed_store_refuses_appends_and_closes_again(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.close()
    await store.close()
    with pytest.raises(StorageError, match="closed"):
        await store.append(hard(1), ())


async def test_the_size_grows_with_the_log(reopen: Reopen) -> None:
    store, _ = await reopen()
    before = store.size_bytes()
    for index in range(1, 4):
        await store.append(hard(1), run(1, index, index, b"x" * 10_000))
    assert store.size_bytes() >= before + 20_000
    size = store.size_bytes()
    store, _ = await reopen()
    assert store.size_bytes() >= 30_000
    assert store.size_bytes() <= size + 8192


@pytest.mark.parametrize(
    ("hard_state", "entries", "message"),
    [
        (hard(1, 3, 2), (), "term goes back"),
        (hard(2, 4, 2), (), "vote in term 2 changes from 3 to 4"),
        (hard(2, None, 2), (), "vote in term 2 changes from 3 to None"),
        (hard(2, 3, 1), (), "commit index goes back"),
        (hard(2, 3, 4), (), "commit index 4 lies beyond the last entry 3"),
        (hard(2, 3, 2), run(2, 2, 2), "replaces a committed one"),
        (hard(2, 3, 2), run(2, 5, 5), "leaves a gap"),
        (hard(2, 3, 2), (entry(1, 4),), "below its predecessor's"),
        (hard(2, 3, 2), (entry(3, 4),), "entry of term 3"),
        (hard(2, 3, 2), (entry(2, 4), entry(2, 6)), "entry 6 where entry 5"),
        (hard(2, 3, 2), (entry(2, 0),), "before the first entry"),
    ],
)
async def test_an_illegal_append_is_refused_and_nothing_is_written(
    reopen: Reopen, hard_state: HardState, entries: tuple[Entry, ...], message: str
) -> None:
    store, _ = await reopen()
    await store.append(hard(2, 3, 2), (*run(1, 1, 1), *run(2, 2, 3)))
    with pytest.raises(InvariantViolation, match=message):
        await store.append(hard_state, entries)
    # It is the caller that is broken, not the store.
    await store.append(hard(2, 3, 2), ())
    store, recovered = await reopen()
    assert recovered.entries == (*run(1, 1, 1), *run(2, 2, 3))
    assert recovered.hard_state == hard(2, 3, 2)
    with pytest.raises(InvariantViolation, match=message):
        await store.append(hard_state, entries)


async def test_a_store_that_applied_more_than_the_log_holds_is_refused(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.append(hard(1), run(1, 1, 3))
    _, recovered = await reopen()
    recovered.require_covers(Index(0))
    recovered.require_covers(Index(3))
    with pytest.raises(StorageError, match="has applied entry 4, but the write-ahead log ends at entry 3"):
        recovered.require_covers(Index(4))
