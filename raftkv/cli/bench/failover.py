"""How long a writer pauses when the leader goes, many times."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from raftkv.cli.bench.progress import progress
from raftkv.cli.exits import say
from raftkv.cli.figures import percentile
from raftkv.cli.recovery import caught_up
from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster

PATIENCE_S: Final = 30.0
WRITES_BEFORE: Final = (50, 150)
"""Writes before each end: a number drawn anew, so that it meets every phase of the heartbeat."""
WRITES_AFTER: Final = 50
"""Writes that must be acknowledged after the old leader's process is gone: then nothing of the pause is left out."""


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """What was run, and how long writes paused."""

    nodes: int
    times: int
    how: str
    """kill or stop."""
    median_ms: float
    p95_ms: float
    max_ms: float
    samples_ms: list[float]


class _Writer:
    """Writes one key after the other, and notes when each was acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.acknowledged_at: list[float] = []
        self._client = client
        self._task = asyncio.create_task(self._write())
        self._numbers = count()

    async def _write(self) -> None:
        for number in self._numbers:
            await self._client.put(b"bench/failover/%d" % number, b"value")
            self.acknowledged_at.append(perf_counter())

    async def writes(self, number: int) -> None:
        """Wait for so many more acknowledgements. Raises what a write raised."""
        goal = len(self.acknowledged_at) + number
        while len(self.acknowledged_at) < goal:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.001)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def measure_failover(nodes: int, times: int, directory: Path | None, *, graceful: bool) -> FailoverResult:
    """End the leader of a cluster of our own `times` times. Raises RaftKVError when a write fails.

    A sample is the longest time between two acknowledgements around the end of the leader, as one writer saw it.
    """
    cluster = LocalCluster(nodes, directory=directory)
    say(f"starting a cluster of {nodes} in {cluster.directory}")
    samples_ms: list[float] = []
    async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        writer = _Writer(client)
        try:
            with progress("failovers", times, lambda: len(samples_ms)):
                for _ in range(times):
                    leader = cluster.node(await cluster.leader(PATIENCE_S))
                    await writer.writes(random.randint(*WRITES_BEFORE))
                    first = len(writer.acknowledged_at) - 1
                    os.kill(leader.pid, signal.SIGTERM if graceful else signal.SIGKILL)
                    await leader.wait_ended()
                    await writer.writes(WRITES_AFTER)
                    gaps = [later - earlier for earlier, later in pairwise(writer.acknowledged_at[first:])]
                    samples_ms.append(round(max(gaps) * 1000, 1))
                    await leader.start()
                    await caught_up(cluster, client, leader.id, PATIENCE_S)
        finally:
            await writer.end()
    ordered = sorted(samples_ms)
    return FailoverResult(
        nodes,
        times,
        "stop" if graceful else "kill",
        round(median(ordered), 1),
        percentile(ordered, 95) or 0.0,
        ordered[-1],
        samples_ms,
    )
