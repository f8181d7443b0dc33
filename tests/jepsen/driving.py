"""Runs a workload as the runner does, until it has done enough."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from raftkv.checker.history import Operation
from raftkv.client import AsyncClient
from raftkv.jepsen.recorder import Recorder
from raftkv.jepsen.worker import Pace, Worker
from raftkv.jepsen.workload import Setting, Workload

PATIENCE_S = 60.0
RATE = 400.0


def setting(name: str, *, workers: int, nodes: int = 3) -> Setting:
    return Setting(prefix=f"jepsen/{name}/", nodes=nodes, workers=workers, seconds=1.0)


async def drive(
    workload: Workload,
    make_client: Callable[[], AsyncClient],
    *,
    enough: Callable[[Sequence[Operation]], bool],
    seed: int = 7,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Operation]:
    """Let the workload's workers run until `enough` is told of all operations so far; return all of them.

    `meanwhile` is called now and then.
    """
    recorder, over = Recorder(), asyncio.Event()
    pace = Pace(RATE, over)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(PATIENCE_S))
        clients = [await stack.enter_async_context(make_client()) for _ in range(workload.setting.workers)]
        workers = [
            Worker(
                number,
                workload.name,
                client=client,
                recorder=recorder,
                pace=pace,
                rng=random.Random(f"{seed}/{number}"),
            )
            for number, client in enumerate(clients)
        ]
        await workload.setup(clients[0])
        async with asyncio.TaskGroup() as tasks:
            for worker in workers:
                tasks.create_task(workload.run(worker))
            while not enough(recorder.operations):
                meanwhile()
                await asyncio.sleep(0.02)
            over.set()
        await workload.finish(workers[0])
    return sorted(recorder.operations, key=lambda one: one.began)


def done(*wanted: str, times: int = 1) -> Callable[[Sequence[Operation]], bool]:
    """Return whether each of these operations was OK so many times."""

    def enough(operations: Sequence[Operation]) -> bool:
        ok = [one.f for one in operations if one.ok]
        return all(ok.count(f) >= times for f in wanted)

    return enough
