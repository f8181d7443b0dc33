"""Comparing the states of several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from raftkv.client import AsyncClient, StateHash

POLL_S: Final = 0.05


async def hashes_at_one_index(client: AsyncClient, endpoints: Sequence[str], *, patience_s: float) -> list[StateHash]:
    """Return the state hash of each endpoint, all at one applied index if that comes about in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        hashes = list(await asyncio.gather(*(client.state_hash(endpoint) for endpoint in endpoints)))
        if len({one.applied_index for one in hashes}) <= 1 or loop.time() >= deadline:
            return hashes
        await asyncio.sleep(POLL_S)


def states_equal(hashes: Sequence[StateHash]) -> bool | None:
    """Whether all states are equal; False when two differ at one index; None when they are not all at one index."""
    by_index: dict[int, set[bytes]] = {}
    for one in hashes:
        by_index.setdefault(one.applied_index, set()).add(one.hash)
    if any(len(found) > 1 for found in by_index.values()):
        return False
    return True if len(by_index) == 1 else None
