"""The load: so many operations at a time, each one timed.

Several variants of an operation take turns: the speed of a machine drifts, and so it does for all of them.
"""

from __future__ import annotations

import asyncio
import gc
import operator
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Final

from raftkv.cli.bench.operations import Operation, Perform
from raftkv.cli.bench.progress import progress
from raftkv.cli.bench.target import Target
from raftkv.cli.figures import milliseconds, percentile
from raftkv.client import AsyncClient, EndpointFailure, Status
from raftkv.errors import RaftKVError

WARM_UP: Final = 5_000
"""Most operations that come first and do not count; a tenth of all, if that is less."""
TURNS: Final = 5
"""So often each of several variants has its turn."""
_FAILED: Final = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was run, and how fast it was."""

    operation: str
    variant: str | None
    """The read level or write concern that was asked for."""
    worth: str | None
    """What an answer said of itself, shortly before."""
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
        self.seconds = 0.0
        self.elections = 0
        self._numbers = iter(range(total))

    def done(self) -> int:
        """Return how many have been begun. Costs the workers nothing."""
        return self.total - operator.length_hint(self._numbers)

    async def work(self, performers: Sequence[Perform], workers: int, count: int | None = None) -> None:
        """Perform the next `count`, or all, `workers` at a time."""
        count = self.total if count is None else count
        begin = perf_counter()
        numbers = islice(self._numbers, count)
        async with asyncio.TaskGroup() as group:
            for perform in islice(cycle(performers), min(workers, count)):
                group.create_task(self._work(perform, numbers))
        self.seconds += perf_counter() - begin

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
    operations: Sequence[Operation],
    target: AbstractAsyncContextManager[Target],
    *,
    clients: int,
    inflight: int,
    timeout: float,
) -> list[LoadResult]:
    """Run the load on a cluster, for each of `operations`: variants of one, which share what the first one seeds.

    Raises RaftKVError when the cluster cannot be reached, or fails before the measurement.
    """
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(target)
        # Not monotonic: a read of a node's own state would be one of what the client has seen (AT_LEAST).
        opened = [
            await stack.enter_async_context(
                AsyncClient(cluster.endpoints, timeout=timeout, monotonic=False, tls=cluster.tls)
            )
            for _ in range(clients)
        ]
        await asyncio.gather(*(client.get(b"bench") for client in opened))  # connected, and there is a leader
        seeds = _Run(operations[0].seeds)
        with progress("writing the keys", seeds.total, seeds.done):
            await seeds.work([operations[0].seed(client) for client in opened], inflight)
        _require_success(seeds)
        performers = [
            [one.on(client) for client in islice(cycle(opened), min(inflight, one.total))] for one in operations
        ]
        for one, perform in zip(operations, performers, strict=True):
            warm_up = _Run(min(one.total // 10, WARM_UP))
            await warm_up.work(perform, inflight)
            _require_success(warm_up)
        worth = [await one.worth(opened[0]) for one in operations]
        gc.collect()
        gc.freeze()
        runs = [_Run(one.total) for one in operations]
        turns = 1 if len(operations) == 1 else TURNS
        with progress(
            f"{operations[0].name}s", sum(run.total for run in runs), lambda: sum(run.done() for run in runs)
        ):
            for turn in range(turns):
                for run, perform in zip(runs, performers, strict=True):
                    term = await highest_term(opened[0])
                    await run.work(perform, inflight, run.total * (turn + 1) // turns - run.total * turn // turns)
                    run.elections += await highest_term(opened[0]) - term
        return [
            _result(one, run, said, nodes=cluster.nodes, clients=opened, inflight=inflight)
            for one, run, said in zip(operations, runs, worth, strict=True)
        ]


def _require_success(run: _Run) -> None:
    if run.errors:
        raise RaftKVError(f"before the measurement, {len(run.errors)} operations failed: {run.errors[0]}")


def _result(
    operation: Operation,
    run: _Run,
    worth: str | None,
    *,
    nodes: int | None,
    clients: Sequence[AsyncClient],
    inflight: int,
) -> LoadResult:
    good = sorted(latency for latency in run.latencies_s if latency != _FAILED)
    return LoadResult(
        operation=operation.name,
        variant=operation.variant,
        worth=worth,
        nodes=nodes,
        endpoints=",".join(clients[0].endpoints),
        clients=len(clients),
        inflight=inflight,
        total=run.total,
        key_size=operation.key_size,
        value_size=operation.value_size,
        locks=operation.locks,
        seconds=round(run.seconds, 2),
        ops_per_s=round(len(good) / run.seconds, 1),
        p50_ms=milliseconds(percentile(good, 50)),
        p99_ms=milliseconds(percentile(good, 99)),
        max_ms=milliseconds(percentile(good, 100)),
        errors=len(run.errors),
        first_error=run.errors[0] if run.errors else None,
        elections=run.elections,
    )


async def highest_term(client: AsyncClient) -> int:
    """Return the highest term that a node is in. Raises the failure of the first node if none can be asked."""
    found = await client.statuses()
    terms = [status.term for status in found if isinstance(status, Status)]
    if not terms:
        raise next(failure.error for failure in found if isinstance(failure, EndpointFailure))
    return max(terms)
