"""How long the store is away, as one client sees it: the recovery times of a report come from here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads.common import count, insist, put, read_number

KEY = "probe"
PAUSE_S = 0.01


class Probe(Workload):
    """One worker, at its own rate; more have nothing to do."""

    name = "probe"
    help = "one client that writes and reads without a break: how long is the store away?"
    least: ClassVar[Mapping[str, int]] = {"write": 12, "read": 12}

    async def run(self, worker: Worker) -> None:
        if worker.number:
            return
        path = self.setting.prefix + KEY
        for number in itertools.count(1):
            if not await worker.rest(PAUSE_S):
                return
            await worker.do("write", partial(put, worker.client, path, number), key=KEY, value=number)
            if not await worker.rest(PAUSE_S):
                return
            await self._read(worker)

    async def finish(self, worker: Worker) -> None:
        await insist("a last read", partial(self._read, worker))

    async def _read(self, worker: Worker) -> Answer | None:
        path = self.setting.prefix + KEY
        return await worker.do("read", partial(read_number, worker.client, path), key=KEY, read=True)

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(
            operations,
            write=lambda one: one.f == "write",
            read=lambda one: one.f == "read" and one.result is not None,
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import registers  # noqa: PLC0415

        return registers.check(operations, out_of_time)
