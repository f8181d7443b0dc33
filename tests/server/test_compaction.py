"""When a checkpoint is due."""

from __future__ import annotations

from itertools import count

import pytest

from raftkv.raft import Index
from raftkv.server.compaction import CompactionPolicy


@pytest.mark.parametrize("growth", [0.5, 1, 4, 6])
def test_the_log_never_outgrows_its_share_of_the_store(growth: float) -> None:
    """However many bytes the store takes for a byte of log."""
    policy = CompactionPolicy(1000, 1 << 30)
    store_bytes = 0.0
    assert not policy.due(int(store_bytes))
    for checkpoint in range(1, 12):
        before = store_bytes
        for written in count(10, 10):
            policy.applied(10)
            store_bytes += 10 * growth
            if policy.due(int(store_bytes)):
                break
            assert written < max(1000, before / 4) + 20, f"checkpoint {checkpoint} is never due"
        assert written >= max(1000, before / 4) - 10, f"checkpoint {checkpoint} comes too early"
        policy.begun()


@pytest.mark.parametrize(("store_bytes", "entries"), [(0, 50), (4000, 50), (40_000, 500)])
def test_many_small_entries_make_one_due_too_and_a_large_store_is_not_copied_for_a_few(
    store_bytes: int, entries: int
) -> None:
    policy = CompactionPolicy(1000, 50)
    for _ in range(2):
        assert not policy.due(store_bytes)
        for _ in range(entries - 1):
            policy.applied(1)
            assert not policy.due(store_bytes)
        policy.applied(1)
        assert policy.due(store_bytes)
        policy.begun()  # and not again until there is as much more


def test_the_log_reaches_back_to_the_checkpoint_that_takes_the_place_of_a_damaged_one() -> None:
    policy = CompactionPolicy(1000, 50)
    assert policy.made(Index(20), Index(7)) == 8
    assert policy.made(Index(30), Index(20)) == 21
    assert policy.made(Index(40), Index(20)) == 21  # that of 30 was damaged
    assert policy.made(Index(50), Index(0)) == 1  # there is none


def test_what_followers_need_is_kept_within_a_margin() -> None:
    policy = CompactionPolicy(1000, 50)
    kept = []
    for index in range(100, 1000, 100):
        for _ in range(10):
            policy.applied(100)
        assert policy.due(0)
        policy.begun()
        kept.append(policy.made(Index(index), Index(index - 100), [Index(250), Index(index + 1)]))
    # That of the follower at 249, until three times as much was written as makes one due; then that of one interval.
    assert kept == [1, 101, 201, 250, 250, 301, 401, 501, 601]
    policy.restored(Index(2000))
    assert policy.made(Index(2100), Index(2000), [Index(2001)]) == 2001
