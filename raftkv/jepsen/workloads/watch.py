"""Watches: everybody is told everything, once and in order, however often they stop and go on elsewhere."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import PATIENCE_S, count, insist, put

OPEN_TIMEOUT_S: Final = 2.0
SEGMENT_S: Final = (0.2, 2.0)
LAST_SEGMENT_S: Final = 10.0
FOR_EVER: Final = 2**63
GO_BACK: Final = 20
"""Up to so many revisions are told again, now and then."""


class Watch(Workload):
    """Every third worker writes; each of the others watches by a node of its own."""

    name = "watch"
    help = "watchers at different nodes, which stop and go on: all are told the same, in order"
    least: ClassVar[Mapping[str, int]] = {"write": 25, "event": 30}
    workers_at_least = 3

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.values = itertools.count(1)
        self.first = 1
        self.through: dict[int, int] = {}
        """By watcher: up to which revision it was told everything."""

    async def setup(self, client: AsyncClient) -> None:
        self.first = (await client.put(self.setting.prefix + "begun", "", timeout=PATIENCE_S)).revision + 1

    async def run(self, worker: Worker) -> None:
        if worker.number % 3 == 0:
            while await worker.turn():
                await self._write(worker)
            return
        watcher = worker.number - worker.number // 3 - 1
        self.through[watcher] = self.first - 1
        async with _at(worker, watcher) as client:
            while await worker.turn():
                back = worker.rng.randint(0, GO_BACK) if worker.rng.random() < 0.3 else 0
                await self._watch(worker, client, watcher, back=back, seconds=worker.rng.uniform(*SEGMENT_S))

    async def finish(self, worker: Worker) -> None:
        last = await insist("a last write", partial(self._write, worker))
        for watcher in self.through:
            async with _at(worker, watcher) as client:
                # Its node may have gone for good: then any other.
                clients = itertools.chain([client, client], itertools.repeat(worker.client))
                told = f"that watcher {watcher} is told everything up to revision {last.revision}"
                await insist(told, lambda: self._watch_to(worker, next(clients), watcher, last.revision))  # noqa: B023

    async def _write(self, worker: Worker) -> Answer | None:
        key, value = f"w{worker.rng.randrange(5)}", next(self.values)
        return await worker.do(
            "write", partial(put, worker.client, self.setting.prefix + key, value), key=key, value=value
        )

    async def _watch_to(self, worker: Worker, client: AsyncClient, watcher: int, revision: int) -> bool | None:
        await self._watch(worker, client, watcher, seconds=LAST_SEGMENT_S, through=revision)
        return self.through[watcher] >= revision or None

    async def _watch(
        self,
        worker: Worker,
        client: AsyncClient,
        watcher: int,
        *,
        seconds: float,
        back: int = 0,
        through: int = FOR_EVER,
    ) -> None:
        start = max(self.through[watcher] + 1 - back, self.first)
        segment = partial(_segment, client, self.setting.prefix + "w", start, seconds, through)
        extra = {"watcher": watcher}
        told = await worker.do("watch", segment, value={"from": start}, extra=extra, read=True)
        if told is not None:
            self.through[watcher] = max(self.through[watcher], told.result["through"])

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        found = count(operations, write=lambda one: one.f == "write")
        found["event"] = sum(len(one.result["events"]) for one in operations if one.f == "watch" and one.ok)
        return found

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import watches  # noqa: PLC0415

        return watches.check(operations, out_of_time)


def _at(worker: Worker, watcher: int) -> AsyncClient:
    """Return a client that knows one node and no other."""
    endpoints = worker.client.endpoints
    return AsyncClient(
        [endpoints[watcher % len(endpoints)]], timeout=OPEN_TIMEOUT_S, dial_learned=False, tls=worker.client.tls
    )


async def _segment(client: AsyncClient, prefix: str, start: int, seconds: float, through: int) -> Answer:
    events: list[list[Any]] = []
    cut = len(prefix) - 1
    async with client.watch(prefix=prefix, start_revision=start, progress=True) as watch:
        try:
            async with asyncio.timeout(seconds):
                while watch.revision < through:
                    batch = await watch.next_batch() or ()
                    events += [[event.revision, event.key[cut:].decode(), int(event.value)] for event in batch]
        except TimeoutError:
            pass  # a segment ends somewhere
        return Answer({"events": events, "through": watch.revision})
