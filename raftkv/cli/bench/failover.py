"""From SIGKILL of the leader to the next acknowledged write, many times."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from raftkv.cli.bench.figures import percentile
from raftkv.cli.bench.progress import progress
from raftkv.cli.exits import say
from raftkv.cli.recovery import caught_up
from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster

PATIENCE_S: Final = 30.0
WRITES_BEFORE: Final = (50, 150)
"""Writes before each kill: a number drawn anew, so that the kill meets every phase of the heartbeat."""


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """What was run, and how long writes paused."""

    nodes: int
    times: int
    median_ms: float
    p95_ms: float
    max_ms: float
    samples_ms: list[float]


async def measure_failover(nodes: int, times: int, directory: Path | None) -> FailoverResult:
    """Kill the leader of a cluster of our own `times` times. Raises RaftKVError when a write fails."""
    cluster = LocalCluster(nodes, directory=directory)
    say(f"starting a cluster of {nodes} in {cluster.directory}")
    samples_ms: list[float] = []
    numbers = count()
    async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        with progress("failovers", times, lambda: len(samples_ms)):
            for _ in range(times):
                leader = cluster.node(await cluster.leader(PATIENCE_S))
                for _ in range(random.randint(*WRITES_BEFORE)):
                    await client.put(b"bench/failover/%d" % next(numbers), b"before")
                begin = perf_counter()
                os.kill(leader.pid, signal.SIGKILL)
                await client.put(b"bench/failover/%d" % next(numbers), b"after")
                samples_ms.append(round((perf_counter() - begin) * 1000, 1))
                await leader.wait_ended()
                await leader.start()
                await caught_up(cluster, client, leader.id, PATIENCE_S)
    ordered = sorted(samples_ms)
    p95_ms = percentile(ordered, 95)
    return FailoverResult(nodes, times, round(median(ordered), 1), p95_ms or 0.0, ordered[-1], samples_ms)
