"""Sets: what was added is there, and nothing else is."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient
from raftkv.invariant import invariant
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import LiveKeys, count, insist


class Set(Workload):
    """An element is a key; a read is of all keys of a set. When a set is full, another one is begun."""

    name = "set"
    help = "elements added one by one, and reads of them all: none is lost, none appears from nowhere"
    least: ClassVar[Mapping[str, int]] = {"add": 25, "read": 6}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.sets = LiveKeys("set", live=1, uses=300)
        self.elements = itertools.count(1)

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            if worker.rng.random() < 0.2:
                await self._read(worker, self.sets.live[0])
            else:
                name, element = self.sets.draw(worker.rng), next(self.elements)
                add = partial(_add, worker.client, f"{self.setting.prefix}{name}/{element}")
                await worker.do("add", add, key=name, value=element)

    async def finish(self, worker: Worker) -> None:
        for name in self.sets.all:
            await insist(f"a last read of {name}", partial(self._read, worker, name))

    async def _read(self, worker: Worker, name: str) -> Answer | None:
        read = partial(_elements, worker.client, f"{self.setting.prefix}{name}/")
        return await worker.do("read", read, key=name, read=True)

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(
            operations,
            add=lambda one: one.f == "add",
            read=lambda one: one.f == "read" and bool(one.result),
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import sets  # noqa: PLC0415

        return sets.check(operations, out_of_time)


async def _add(client: AsyncClient, path: str) -> Answer:
    return Answer(revision=(await client.create(path, "")).revision)


async def _elements(client: AsyncClient, prefix: str) -> Answer:
    page = await client.prefix(prefix)
    invariant(not page.more, "a set is read in one page")
    found = sorted(int(pair.key.removeprefix(prefix.encode())) for pair in page.pairs)
    return Answer(found, extra={"at": page.revision})
