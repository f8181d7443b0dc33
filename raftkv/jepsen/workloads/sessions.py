"""Retries: the client sends a write again until it has an answer, and it may be applied once all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads.common import count, insist, put

KEYS = ("s0", "s1", "s2")


class Sessions(Workload):
    """A key's version counts its puts: a put that was applied twice shows."""

    name = "sessions"
    help = "puts that the client repeats by itself: each is counted once"
    least: ClassVar[Mapping[str, int]] = {"increment": 25, "read": 6}

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            key = worker.rng.choice(KEYS)
            if worker.rng.random() < 0.2:
                await self._read(worker, key)
            else:
                await worker.do(
                    "increment", partial(put, worker.client, self.setting.prefix + key, worker.process), key=key
                )

    async def finish(self, worker: Worker) -> None:
        for key in KEYS:
            await insist(f"a last read of {key}", partial(self._read, worker, key))

    async def _read(self, worker: Worker, key: str) -> Answer | None:
        return await worker.do("read", partial(_version, worker.client, self.setting.prefix + key), key=key, read=True)

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(
            operations,
            increment=lambda one: one.f == "increment",
            read=lambda one: one.f == "read" and one.result > 0,
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import sessions  # noqa: PLC0415

        return sessions.check(operations, out_of_time)


async def _version(client: AsyncClient, path: str) -> Answer:
    pair = await client.get(path)
    return Answer(0) if pair is None else Answer(pair.version, pair.mod_revision)
