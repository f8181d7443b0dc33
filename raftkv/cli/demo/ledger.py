"""What the cluster has acknowledged, and so must never lose."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Promise:
    """What must be true of one key."""

    value: bytes = b""
    """That of the last acknowledged write."""
    acked: int = 0
    """Acknowledged writes: as many versions must exist, neither fewer nor more."""
    doubtful: list[bytes] = field(default_factory=list)
    """Values of writes that failed: each may have taken effect, once."""


class Ledger:
    """Keeps a promise for every key, and wakes who waits for more of them."""

    def __init__(self) -> None:
        self.acked = 0
        self.failures: list[str] = []
        self._promises: dict[bytes, Promise] = {}
        self._waiters: list[tuple[int, asyncio.Event]] = []

    @property
    def promises(self) -> Mapping[bytes, Promise]:
        return self._promises

    def acknowledged(self, key: bytes, value: bytes) -> None:
        """Record a write that the cluster has confirmed."""
        promise = self._promises.setdefault(key, Promise())
        promise.value = value
        promise.acked += 1
        self.acked += 1
        for count, event in self._waiters:
            if self.acked >= count:
                event.set()

    def failed(self, key: bytes, value: bytes, reason: str) -> None:
        """Record a write of which nothing is known."""
        self._promises.setdefault(key, Promise()).doubtful.append(value)
        self.failures.append(reason)

    async def more(self, count: int) -> None:
        """Wait until `count` further writes are acknowledged."""
        waiter = (self.acked + count, asyncio.Event())
        self._waiters.append(waiter)
        try:
            await waiter[1].wait()
        finally:
            self._waiters.remove(waiter)
