"""The load: so many operations at a time, each one timed."""

from __future__ import annotations

import asyncio
import gc
import operator
from array import array
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Final

from raftkv.cli.bench.figures import milliseconds, percentile
from raftkv.cli.bench.operations import Operation, Perform
from raftkv.cli.bench.progress import progress
from raftkv.cli.bench.target import Target
from raftkv.client import AsyncClient, EndpointFailure, Status
from raftkv.errors import RaftKVError

WARM_UP: Final = 5_000
"""Most operations that come first and do not count; a tenth of all, if that is less."""
_FAILED: Final = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was run, and how fast it was."""

    operation: str
    nodes: int | None
    """How many of our own; None: the cluster at `endpoints`."""
    endpoints: str
    clients: int
    inflight: int
    total: int
    key_size: int | None
    value_size: int | None
    locks: int | None
    seconds: float
    ops_per_s: float
    """Successful ones."""
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: int
    first_error: str | None
    elections: int
    """By how much the term has risen meanwhile: more than 0 says that the cluster was too busy to hear its leader."""


class _Run:
    """Operations numbered from 0, shared out among workers."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.latencies_s = array("d", bytes(8 * total))
        self.errors: list[str] = []
        self._numbers = iter(range(total))

    def done(self) -> int:
        """Return how many have been begun. Costs the workers nothing."""
        return self.total - operator.length_hint(self._numbers)

    async def work(self, performers: list[Perform], workers: int) -> float:
        """Perform all, `workers` at a time. Return how long that took, in seconds."""
        begin = perf_counter()
        async with asyncio.TaskGroup() as group:
            for perform in islice(cycle(performers), min(workers, self.total)):
                group.create_task(self._work(perform, self._numbers))
        return perf_counter() - begin

    async def _work(self, perform: Perform, numbers: Iterator[int]) -> None:
        latencies_s = self.latencies_s
        for number in numbers:
            begin = perf_counter()
            try:
                await perform(number)
            except RaftKVError as error:
                latencies_s[number] = _FAILED
                self.errors.append(error.message)
            else:
                latencies_s[number] = perf_counter() - begin


async def measure(
    operation: Operation, target: AbstractAsyncContextManager[Target], *, clients: int, inflight: int, timeout: float
) -> LoadResult:
    """Run the load on a cluster. Raises RaftKVError when that cannot be reached, or fails before the measurement."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(target)
        opened = [
            await stack.enter_async_context(AsyncClient(cluster.endpoints, timeout=timeout)) for _ in range(clients)
        ]
        await asyncio.gather(*(client.get(b"bench") for client in opened))  # connected, and there is a leader
        seeds = _Run(operation.seeds)
        with progress("writing the keys", seeds.total, seeds.done):
            await seeds.work([operation.seed(client) for client in opened], inflight)
        warm_up = _Run(min(operation.total // 10, WARM_UP))
        performers = [operation.on(client) for client in islice(cycle(opened), min(inflight, operation.total))]
        await warm_up.work(performers, inflight)
        for before in (seeds, warm_up):
            if before.errors:
                raise RaftKVError(f"before the measurement, {len(before.errors)} operations failed: {before.errors[0]}")
        gc.collect()
        gc.freeze()
        run = _Run(operation.total)
        with progress(f"{operation.name}s", run.total, run.done):
            term = await highest_term(opened[0])
            seconds = await run.work(performers, inflight)
            elections = await highest_term(opened[0]) - term
        good = sorted(latency for latency in run.latencies_s if latency != _FAILED)
        return LoadResult(
            operation=operation.name,
            nodes=cluster.nodes,
            endpoints=",".join(opened[0].endpoints),
            clients=clients,
            inflight=inflight,
            total=run.total,
            key_size=operation.key_size,
            value_size=operation.value_size,
            locks=operation.locks,
            seconds=round(seconds, 2),
            ops_per_s=round(len(good) / seconds, 1),
            p50_ms=milliseconds(percentile(good, 50)),
            p99_ms=milliseconds(percentile(good, 99)),
            max_ms=milliseconds(percentile(good, 100)),
            errors=len(run.errors),
            first_error=run.errors[0] if run.errors else None,
            elections=elections,
        )


async def highest_term(client: AsyncClient) -> int:
    """Return the highest term that a node is in. Raises the failure of the first node if none can be asked."""
    found = await client.statuses()
    terms = [status.term for status in found if isinstance(status, Status)]
    if not terms:
        raise next(failure.error for failure in found if isinstance(failure, EndpointFailure))
    return max(terms)
