"""Single keys: what every other promise stands on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, value
from raftkv.client import put as then_put
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import LiveKeys, count, insist, put, read_number


class Register(Workload):
    """A compare-and-swap begins with what anybody saw last, so that many succeed.

    Every fifth worker only reads. Whoever writes notices soon that a leader is deposed, and goes elsewhere; a reader
    whom it still answers stays, and would be told what is no longer true.
    """

    name = "register"
    help = "reads, writes, compare-and-swaps and deletes of single keys: linearizable"
    least: ClassVar[Mapping[str, int]] = {"write": 15, "read": 20}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = LiveKeys("r", live=8, uses=400)
        self.numbers = itertools.count(1)
        self.seen: dict[str, int] = {}

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            key, drawn = self.keys.draw(worker.rng), 0.0 if worker.number % 5 == 4 else worker.rng.random()
            path, old = self.setting.prefix + key, self.seen.get(key)
            if drawn < 0.45:
                await self._read(worker, key)
            elif drawn < 0.48:
                await worker.do("delete", partial(_delete, worker.client, path), key=key)
            elif drawn < 0.75 or old is None:
                new = next(self.numbers)
                if await worker.do("write", partial(put, worker.client, path, new), key=key, value=new) is not None:
                    self.seen[key] = new
            else:
                new = next(self.numbers)
                answer = await worker.do("cas", partial(_cas, worker.client, path, old, new), key=key, value=[old, new])
                if answer is not None and answer.result:
                    self.seen[key] = new

    async def finish(self, worker: Worker) -> None:
        for key in self.keys.live:
            await insist(f"a last read of {key}", partial(self._read, worker, key))

    async def _read(self, worker: Worker, key: str) -> Answer | None:
        read = partial(read_number, worker.client, self.setting.prefix + key)
        answer = await worker.do("read", read, key=key, read=True)
        if answer is not None and answer.result is not None:
            self.seen[key] = answer.result
        return answer

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(
            operations,
            write=lambda one: one.f == "write" or (one.f == "cas" and one.result is True),
            read=lambda one: one.f == "read" and one.result is not None,
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import registers  # noqa: PLC0415

        return registers.check(operations, out_of_time)


async def _cas(client: AsyncClient, path: str, old: int, new: int) -> Answer:
    done = await client.txn().when(value(path) == str(old)).then(then_put(path, str(new))).commit()
    return Answer(done.succeeded, done.revision if done.succeeded else 0)


async def _delete(client: AsyncClient, path: str) -> Answer:
    done = await client.delete(path)
    return Answer(bool(done.deleted), done.revision if done.deleted else 0)
