"""What a checkpoint costs those who write meanwhile, and the node that makes it."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from raftkv.cli.bench.load import highest_term
from raftkv.cli.bench.operations import key_template
from raftkv.cli.bench.progress import progress
from raftkv.cli.exits import say
from raftkv.cli.figures import milliseconds, percentile
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster, NodeProcess

PACE_S: Final = 0.001
PRELOAD_INFLIGHT: Final = 256
SAMPLE_S: Final = 0.25
"""The node's memory is looked at so often: looking keeps the kernel from changing its mappings for a while."""
CHECKPOINT_TIMEOUT_S: Final = 300.0
MADE: Final = "checkpoint made, log compacted"
"""What a node logs."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of puts, from the moment at which each was due."""

    puts: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a node, in MiB: all that is resident, and what of it is its own, and no page of a file."""

    resident: float
    anonymous: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointResult:
    """What was run, and what it cost."""

    nodes: int
    keys: int
    value_size: int
    rate: int
    rounds: int
    without: Latencies
    during: Latencies
    p99_ratio: float | None
    """Median of the rounds."""
    checkpoint_s: list[float]
    longest_delay_ms: list[float]
    """By how much a tick of the node that made it came too late at most, and so a heartbeat."""
    elections: int
    before: Memory
    peak: Memory


@dataclass(slots=True)
class _Steady:
    """Overwrites keys at a steady rate, however long the answers take."""

    client: AsyncClient
    rate: int
    template: bytes
    keys: int
    value: bytes
    latencies_s: list[float] = field(default_factory=list)
    failure: RaftKVError | None = None

    def take(self) -> list[float]:
        """Return the latencies since the last call."""
        taken, self.latencies_s = self.latencies_s, []
        return taken

    async def run(self) -> None:
        """Go on until cancelled. Raises RaftKVError."""
        begin = perf_counter()
        sent = 0
        async with asyncio.TaskGroup() as group:
            while self.failure is None:
                due = int((perf_counter() - begin) * self.rate) + 1
                for number in range(sent, due):
                    group.create_task(self._put(begin + number / self.rate))
                sent = due
                await asyncio.sleep(PACE_S)
        raise self.failure

    async def _put(self, due: float) -> None:
        try:
            await self.client.put(self.template % random.randrange(self.keys), self.value)
        except RaftKVError as error:
            self.failure = self.failure or error
            return
        self.latencies_s.append(perf_counter() - due)


async def measure_checkpoint(
    nodes: int, directory: Path | None, *, keys: int, value_size: int, rate: int, rounds: int, seconds: float
) -> CheckpointResult:
    """Fill a cluster of our own, and have its leader make checkpoints under load. Raises RaftKVError."""
    cluster = LocalCluster(nodes, directory=directory, arguments=("--log-format", "json"))
    template, value = key_template(16, keys), random.randbytes(value_size)
    say(f"starting a cluster of {nodes} in {cluster.directory}")
    async with cluster, AsyncClient(cluster.url, timeout=30.0) as client:
        await _preload(client, template, keys, value)
        # Connections of its own: what the load makes of a slow answer does not concern these calls.
        async with AsyncClient(cluster.url, timeout=CHECKPOINT_TIMEOUT_S) as operator:
            for node in cluster.nodes:
                # So that none becomes due by itself before long.
                await operator.checkpoint(node.client_address)
            load = _Steady(client, rate, template, keys, value)
            return await measure_rounds(cluster, operator, load, rounds=rounds, seconds=seconds)


async def measure_rounds(
    cluster: LocalCluster, operator: AsyncClient, load: _Steady, *, rounds: int, seconds: float
) -> CheckpointResult:
    """Alternate between load alone and load during a checkpoint."""
    leader = cluster.node(await cluster.leader())
    logged = len(leader.log())
    without: list[list[float]] = []
    during: list[list[float]] = []
    took_s: list[float] = []
    elections = 0
    running = asyncio.create_task(load.run())
    memory = _MemoryOf(leader)
    gc.collect()
    gc.freeze()
    try:
        await _while_it_runs(running, asyncio.sleep(1.0))
        with progress("checkpoints", rounds, lambda: len(took_s)):
            for _ in range(rounds):
                load.take()
                memory.look(memory.before)
                await _while_it_runs(running, asyncio.sleep(seconds))
                without.append(load.take())
                term = await highest_term(operator)
                async with memory.sampled():
                    begin = perf_counter()
                    await _while_it_runs(running, operator.checkpoint(leader.client_address))
                    took_s.append(round(perf_counter() - begin, 2))
                during.append(load.take())
                elections += await highest_term(operator) - term
                await _while_it_runs(running, asyncio.sleep(1.0))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    ratios = [high / low for high, low in zip(map(_p99, during), map(_p99, without), strict=True) if high and low]
    return CheckpointResult(
        nodes=len(cluster.nodes),
        keys=load.keys,
        value_size=len(load.value),
        rate=load.rate,
        rounds=rounds,
        without=_latencies(without),
        during=_latencies(during),
        p99_ratio=round(median(ratios), 2) if ratios else None,
        checkpoint_s=took_s,
        longest_delay_ms=_delays(leader.log()[logged:]),
        elections=elections,
        before=memory.highest(memory.before),
        peak=memory.highest(memory.during),
    )


async def _preload(client: AsyncClient, template: bytes, keys: int, value: bytes) -> None:
    numbers = iter(range(keys))
    written = 0

    async def write() -> None:
        nonlocal written
        for number in numbers:
            await client.put(template % number, value)
            written += 1

    with progress("writing the keys", keys, lambda: written):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(PRELOAD_INFLIGHT, keys)):
                group.create_task(write())


async def _while_it_runs(load: asyncio.Task[None], step: Coroutine[Any, Any, object]) -> None:
    """Wait for `step`; raise what makes the load fail meanwhile."""
    waiting = asyncio.create_task(step)
    await asyncio.wait({load, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if load.done():
        waiting.cancel()
        load.result()
    waiting.result()


class _MemoryOf:
    """What a process takes."""

    def __init__(self, node: NodeProcess) -> None:
        self.before: list[Memory] = []
        self.during: list[Memory] = []
        self._path = Path(f"/proc/{node.pid}/smaps_rollup")

    def look(self, samples: list[Memory]) -> None:
        fields = {
            name: int(rest.split()[0])
            for name, _, rest in (line.partition(":") for line in self._path.read_text().splitlines()[1:])
        }
        samples.append(Memory(round(fields["Rss"] / 1024, 1), round(fields["Anonymous"] / 1024, 1)))

    @staticmethod
    def highest(samples: list[Memory]) -> Memory:
        return Memory(max(one.resident for one in samples), max(one.anonymous for one in samples))

    @asynccontextmanager
    async def sampled(self) -> AsyncIterator[None]:
        async def sample() -> None:
            while True:
                self.look(self.during)
                await asyncio.sleep(SAMPLE_S)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _p99(latencies_s: list[float]) -> float | None:
    return percentile(sorted(latencies_s), 99)


def _latencies(rounds: list[list[float]]) -> Latencies:
    every = sorted(latency for one in rounds for latency in one)
    return Latencies(len(every), *(milliseconds(percentile(every, percent)) for percent in (50, 99, 100)))


def _delays(log: str) -> list[float]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return [line["longest_delay_ms"] for line in lines if line["event"] == MADE]
