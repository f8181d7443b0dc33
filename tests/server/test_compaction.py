"""When a checkpoint is due."""

from __future__ import annotations

from itertools import count

import pytest

from raftkv.raft import Index
from raftkv.server.compaction import CompactionPolicy


@pytest.mark.parametrize("growth", [0.5, 1, 4, 6])
def test_the_log_never_outgrows_its_share_of_the_store(growth: float) -> None:
    """However many bytes the store takes for a byte of log."""
    policy = CompactionPolicy(1000, Index(0))
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
        policy.made(Index(checkpoint))


def test_what_is_kept_reaches_back_to_the_checkpoint_before() -> None:
    policy = CompactionPolicy(1000, Index(7))
    assert policy.made(Index(20)) == 8
    assert policy.made(Index(30)) == 21
    policy.restored(Index(50))
    assert policy.made(Index(60)) == 51
