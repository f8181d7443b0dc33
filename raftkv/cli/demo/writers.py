"""The load: concurrent writers of new keys, and one probe that writes one key again and again and sees every pause."""

from __future__ import annotations

import asyncio
import time
from itertools import count, pairwise
from types import TracebackType
from typing import Final, Self

from raftkv.cli.demo.ledger import Ledger
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError

FIRST_KEY: Final = b"demo/"
LAST_KEY: Final = b"demo0"
"""Every key of the demo lies in [FIRST_KEY, LAST_KEY)."""
PROBE_KEY: Final = b"demo/probe"
WRITERS: Final = 8
PACE_S: Final = 0.003
"""Between two writes of one writer: a load that leaves the machine room for an election."""


class Writers:
    """Writes while the block runs; a write in flight at its end is waited for."""

    def __init__(self, client: AsyncClient, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.probe_acks: list[float] = []
        """When the probe's writes were acknowledged, on the monotonic clock."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        self._tasks.append(asyncio.create_task(self._probe()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    def longest_pause_ms(self, since: float, until: float) -> float | None:
        """Return the longest time between two answers to the probe that touches [since, until]."""
        pauses = [after - before for before, after in pairwise(self.probe_acks) if after >= since and before <= until]
        return round(max(pauses) * 1000, 1) if pauses else None

    async def _write(self, writer: int) -> None:
        for number in count():
            if self._stopping or not await self._put(b"demo/%d/%08d" % (writer, number), b"%d-%d" % (writer, number)):
                return
            await asyncio.sleep(PACE_S)

    async def _probe(self) -> None:
        for number in count():
            if self._stopping or not await self._put(PROBE_KEY, b"%d" % number):
                return
            self.probe_acks.append(time.monotonic())

    async def _put(self, key: bytes, value: bytes) -> bool:
        try:
            await self._client.put(key, value)
        except RaftKVError as error:
            self._ledger.failed(key, value, error.message)
            return False
        self._ledger.acknowledged(key, value)
        return True
