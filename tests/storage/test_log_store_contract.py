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
    disk = MemoryDisk(segment_entries=4)
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


async def filled(reopen: Reopen) -> tuple[LogStore, tuple[Entry, ...]]:
    """A log of several segments."""
    store, _ = await reopen()
    entries = (*run(1, 1, 20, b"x" * 700), *run(2, 21, 40, b"y" * 700))
    for at in range(40):
        await store.append(hard(2, 3, at), entries[at : at + 1])
    return store, entries


def assert_holds_the_end_of(recovered: RecoveredLog, entries: tuple[Entry, ...], first_kept: int) -> None:
    assert 1 <= recovered.first_index <= first_kept
    assert recovered.entries == entries[recovered.first_index - 1 :]
    assert recovered.base_term == (entries[recovered.first_index - 2].term if recovered.first_index > 1 else 0)
    assert recovered.last_index == len(entries)


async def test_compaction_drops_entries_from_the_front_and_keeps_the_rest(reopen: Reopen) -> None:
    store, entries = await filled(reopen)
    before = store.size_bytes()
    await store.compact(Index(30))
    assert store.size_bytes() <= before - 13_000
    for last in range(41, 50):
        store, recovered = await reopen()
        assert_holds_the_end_of(recovered, entries, 30)
        assert recovered.first_index > 10
        assert recovered.hard_state.term == 2
        assert recovered.hard_state.vote == 3
        entries = (*entries, entry(2, last, b"z" * 700))
        await store.append(hard(2, 3, last - 1), entries[-1:])


async def test_term_vote_and_commit_outlive_the_entries_they_were_stored_with(reopen: Reopen) -> None:
    store, _ = await filled(reopen)
    await store.append(hard(9, 4, 40), ())
    await store.compact(Index(41))
    _, recovered = await reopen()
    assert recovered.hard_state == hard(9, 4, 40)
    assert recovered.last_index == 40


async def test_what_was_dropped_counts_as_committed_whatever_the_hint_said(reopen: Reopen) -> None:
    store, _ = await reopen()
    for index in range(1, 41):
        await store.append(hard(1), run(1, index, index, b"x" * 700))
    await store.compact(Index(31))
    store, recovered = await reopen()
    assert recovered.first_index > 10
    assert recovered.hard_state.commit == recovered.first_index - 1
    with pytest.raises(InvariantViolation, match="before the first entry"):
        await store.append(hard(2, None, recovered.hard_state.commit), run(2, 5, 5))


async def test_compaction_is_repeated_and_goes_no_further_than_asked(reopen: Reopen) -> None:
    store, entries = await filled(reopen)
    for first_kept in (1, 2, 9, 9, 8, 25, 41):
        await store.compact(Index(first_kept))
    store, recovered = await reopen()
    assert_holds_the_end_of(recovered, entries, 41)
    await store.compact(Index(3))
    store, again = await reopen()
    assert again == recovered
    with pytest.raises(InvariantViolation, match="begin at entry 42, but ends at 40"):
        await store.compact(Index(42))


async def test_appends_go_on_while_the_log_is_compacted(reopen: Reopen) -> None:
    store, entries = await filled(reopen)
    compaction = asyncio.ensure_future(store.compact(Index(35)))
    for last in range(41, 60):
        entries = (*entries, entry(2, last, b"z" * 700))
        await store.append(hard(2, 3, last - 1), entries[-1:])
    await compaction
    _, recovered = await reopen()
    assert recovered.first_index > 10
    assert_holds_the_end_of(recovered, entries, 35)


async def test_a_replaced_suffix_stays_replaced_after_compaction(reopen: Reopen) -> None:
    store, _ = await reopen()
    entries: tuple[Entry, ...] = ()
    for term in range(1, 8):  # each term replaces the last three entries of the one before it
        new = run(term, max(1, len(entries) - 2), len(entries) + 8, b"%d" % term * 700)
        entries = (*entries[: new[0].index - 1], *new)
        for at in range(len(new)):
            await store.append(hard(term, None, new[0].index - 1), new[at : at + 1])
    for first_kept in range(1, len(entries) - 2):
        await store.compact(Index(first_kept))
        store, recovered = await reopen()
        assert_holds_the_end_of(recovered, entries, first_kept)
    assert recovered.first_index > 20


@pytest.mark.parametrize(("index", "term"), [(41, 2), (1000, 5), (40, 2), (39, 1), (39, 3)])
async def test_a_restarted_log_begins_after_the_checkpoint(reopen: Reopen, index: int, term: int) -> None:
    store, _ = await filled(reopen)
    await store.restart(hard(6, 1), Index(index), Term(term))
    store, recovered = await reopen()
    assert recovered == RecoveredLog(
        hard_state=hard(6, 1, index), entries=(), first_index=Index(index + 1), base_term=Term(term)
    )
    assert recovered.last_index == index
    assert recovered.term_at(Index(index)) == term
    with pytest.raises(InvariantViolation, match="leaves a gap"):
        await store.append(hard(6, 1, index), run(6, index + 2, index + 2))
    await store.append(hard(6, 1, index), run(6, index + 1, index + 3))
    _, recovered = await reopen()
    assert recovered.entries == run(6, index + 1, index + 3)
    assert recovered.first_index == index + 1


async def test_what_a_restarted_log_begins_after_is_committed_at_once(reopen: Reopen) -> None:
    store, _ = await filled(reopen)
    await store.restart(hard(6, 1), Index(100), Term(5))
    with pytest.raises(InvariantViolation, match="commit index goes back from 100 to 99"):
        await store.append(hard(6, 1, 99), ())


async def test_a_restarted_log_frees_its_room_and_lives_on(reopen: Reopen) -> None:
    store, _ = await filled(reopen)
    before = store.size_bytes()
    for index in (100, 200, 200, 300):
        await store.restart(hard(6, 1, 0), Index(index), Term(6))
    assert store.size_bytes() < before - 13_000
    for last in range(301, 340):
        await store.append(hard(6, 1, last - 1), run(6, last, last, b"x" * 700))
    await store.compact(Index(330))
    _, recovered = await reopen()
    assert 310 < recovered.first_index <= 330
    assert recovered.last_index == 339


async def test_a_new_log_can_begin_at_a_checkpoint(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.restart(hard(3), Index(7), Term(2))
    await store.append(hard(3, None, 7), run(3, 8, 8))
    _, recovered = await reopen()
    assert recovered.entries == run(3, 8, 8)
    assert recovered.base_term == 2


async def test_a_log_is_not_restarted_behind_what_is_known(reopen: Reopen) -> None:
    store, entries = await filled(reopen)
    for hard_state, index, term, message in (
        (hard(2, 3), 38, 2, "commit index goes back"),
        (hard(1, 3), 50, 1, "term goes back"),
        (hard(2, 4), 50, 2, "vote in term 2 changes"),
        (hard(2, 3), 50, 3, "entry of term 3"),
    ):
        with pytest.raises(InvariantViolation, match=message):
            await store.restart(hard_state, Index(index), Term(term))
    await store.append(hard(2, 3, 39), ())
    _, recovered = await reopen()
    assert recovered.entries == entries


async def test_a_closed_store_is_neither_compacted_nor_restarted(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.close()
    with pytest.raises(StorageError, match="closed"):
        await store.compact(Index(1))
    with pytest.raises(StorageError, match="closed"):
        await store.restart(hard(1), Index(1), Term(1))


async def test_a_store_that_needs_entries_the_log_has_dropped_is_refused(reopen: Reopen) -> None:
    store, _ = await reopen()
    await store.restart(hard(3), Index(7), Term(2))
    _, recovered = await reopen()
    recovered.require_covers(Index(7))
    with pytest.raises(StorageError, match="has applied entry 6, but the write-ahead log begins at entry 8"):
        recovered.require_covers(Index(6))
