"""What was acknowledged against what is there afterwards, and the sweeping up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.client import AsyncClient
from raftkv.drill.load import PREFIX, key_of, value_of
from raftkv.drill.measure.record import Outcome, Write
from raftkv.drill.measure.verdict import Audit

PAGE: Final = 1000
"""Keys at a time: a delete of as many is well below what one may remove."""


async def audited(client: AsyncClient, run: str, writes: Sequence[Write]) -> Audit:
    """Read everything back, linearizably, and compare. Raises RaftKVError when that is not possible."""
    found = {pair.key: pair async for pair in client.scan(_prefix(run), page=PAGE)}
    lost, repeated, acknowledged = [], [], 0
    for one in writes:
        key = key_of(run, one.writer, one.number)
        pair = found.get(key)
        if one.outcome is Outcome.OK:
            acknowledged += 1
            if pair is None or pair.value != value_of(one.writer, one.number):
                lost.append(key.decode())
        if pair is not None and pair.version > 1:
            repeated.append(key.decode())
    return Audit(acknowledged=acknowledged, lost=lost, repeated=repeated)


async def sweep(client: AsyncClient, run: str) -> int:
    """Delete what the drill wrote. Return how many keys that were. Raises RaftKVError."""
    deleted = 0
    prefix = _prefix(run)
    while True:
        page = await client.prefix(prefix, limit=PAGE, keys_only=True)
        if not page.pairs:
            return deleted
        done = await client.delete_range(page.pairs[0].key, page.pairs[-1].key + b"\0")
        deleted += done.deleted or 0


def _prefix(run: str) -> bytes:
    return PREFIX + run.encode() + b"/"
