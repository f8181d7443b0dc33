"""Many watchers of one prefix, while puts go in at a steady rate."""

from __future__ import annotations

import asyncio
import gc
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Final

from raftkv.cli.bench.deliveries import Record, judge
from raftkv.cli.bench.load import highest_term
from raftkv.cli.bench.operations import key_template
from raftkv.cli.bench.progress import progress
from raftkv.cli.bench.target import Target
from raftkv.cli.exits import say
from raftkv.cli.figures import milliseconds, percentile
from raftkv.client import AsyncClient, AsyncWatch
from raftkv.errors import RaftKVError

PACE_S: Final = 0.002
"""Puts that have fallen due are sent so often: together, as those of one turn of a busy loop would be."""
WARM_UP_S: Final = 1.0
OPENING_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchResult:
    """What was run, and how soon watchers were told. Latencies: from just before a put is sent."""

    operation: str
    nodes: int | None
    """How many of our own; None: the cluster at `endpoints`."""
    endpoints: str
    watchers: int
    clients: int
    """Of the watchers; the puts come from another one."""
    rate: int
    """Puts a second that were wanted."""
    total: int
    key_size: int
    value_size: int
    seconds: float
    puts_per_s: float
    events: int
    """Pairs of watcher and event."""
    events_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    """Until the watcher's code has the event, over all pairs."""
    put_p50_ms: float | None
    put_p99_ms: float | None
    """Until the put is acknowledged."""
    lost: int
    duplicated: int
    elections: int
    """By how much the term has risen meanwhile."""


class _Puts:
    """Sends puts at a steady rate, however long their answers take."""

    def __init__(self, client: AsyncClient, rate: int, template: bytes, value: bytes) -> None:
        self.sent_at: dict[int, float] = {}
        """By revision."""
        self.latencies_s: list[float] = []
        self._client = client
        self._rate = rate
        self._template = template
        self._value = value
        self._failure: RaftKVError | None = None

    async def run(self, total: int) -> float:
        """Return how long it took until all were acknowledged, in seconds. Raises RaftKVError."""
        begin = perf_counter()
        sent = 0
        async with asyncio.TaskGroup() as group:
            while sent < total and self._failure is None:
                due = min(int((perf_counter() - begin) * self._rate) + 1, total)
                for number in range(sent, due):
                    group.create_task(self._put(number))
                sent = due
                await asyncio.sleep(PACE_S)
        if self._failure is not None:
            raise self._failure
        return perf_counter() - begin

    async def _put(self, number: int) -> None:
        begin = perf_counter()
        try:
            revision = (await self._client.put(self._template % number, self._value)).revision
        except RaftKVError as error:
            self._failure = self._failure or error
            return
        self.latencies_s.append(perf_counter() - begin)
        self.sent_at[revision] = begin


async def measure_watch(
    target: AbstractAsyncContextManager[Target],
    *,
    watchers: int,
    clients: int,
    rate: int,
    total: int,
    key_size: int,
    value_size: int,
    timeout: float,
) -> WatchResult:
    """Run it on a cluster. Raises RaftKVError when that cannot be reached, or a put or a watch fails."""
    template = key_template(key_size, total)
    value = random.randbytes(value_size)
    last = b"bench/watch/end"
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(target)
        writer = await stack.enter_async_context(AsyncClient(cluster.endpoints, timeout=timeout, tls=cluster.tls))
        opened = [
            await stack.enter_async_context(AsyncClient(cluster.endpoints, timeout=timeout, tls=cluster.tls))
            for _ in range(clients)
        ]
        await asyncio.gather(*(client.get(b"bench") for client in (writer, *opened)))
        prefix = template[: template.index(b"%")] or b""
        say(f"opening {watchers:,} watches")
        watches = [
            client.watch(prefix=prefix, deletes=False, timeout=OPENING_TIMEOUT_S)
            for client in islice(cycle(opened), watchers)
        ]
        await asyncio.gather(*(stack.enter_async_context(watch) for watch in watches))
        records = [Record() for _ in watches]
        following = [
            asyncio.create_task(_follow(watch, record, last)) for watch, record in zip(watches, records, strict=True)
        ]
        await _Puts(writer, rate, template, value).run(max(min(total, int(rate * WARM_UP_S)), 1))
        gc.collect()
        gc.freeze()
        puts = _Puts(writer, rate, template, value)
        with progress("puts", total, lambda: len(puts.latencies_s)):
            term = await highest_term(writer)
            seconds = await puts.run(total)
            elections = await highest_term(writer) - term
        await writer.put(last, b"")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*following)
        except TimeoutError:
            say(f"some watchers have not been told of the last put after {timeout:g} s")
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
    say("comparing what was told with what was written")
    found = judge(records, puts.sent_at)
    latencies_s = sorted(puts.latencies_s)
    return WatchResult(
        operation="watch",
        nodes=cluster.nodes,
        endpoints=",".join(writer.endpoints),
        watchers=watchers,
        clients=clients,
        rate=rate,
        total=total,
        key_size=key_size,
        value_size=value_size,
        seconds=round(seconds, 2),
        puts_per_s=round(total / seconds, 1),
        events=found.events,
        events_per_s=round(found.events / seconds, 1),
        p50_ms=milliseconds(found.percentile_s(50)),
        p99_ms=milliseconds(found.percentile_s(99)),
        max_ms=milliseconds(found.percentile_s(100)),
        put_p50_ms=milliseconds(percentile(latencies_s, 50)),
        put_p99_ms=milliseconds(percentile(latencies_s, 99)),
        lost=found.lost,
        duplicated=found.duplicated,
        elections=elections,
    )


async def _follow(watch: AsyncWatch, record: Record, last: bytes) -> None:
    """Take down what a watcher is told, until it is told of `last`."""
    batches, times = record.batches.append, record.times.append
    async for batch in watch.batches():
        times(perf_counter())
        batches(batch)
        if batch[-1].key == last:
            return
    raise RaftKVError("a watch has ended by itself")
