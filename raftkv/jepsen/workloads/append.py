"""Lists that grow in transactions: what each read of a list shows tells the order of all transactions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, KeyValue, get, mod_revision, put
from raftkv.errors import Conflict
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import LiveKeys, count, insist

MOST_MICRO_OPS = 4
FINAL_READS = 4


class Append(Workload):
    """A transaction reads all its lists at one revision, and writes those that grow if none of them has changed."""

    name = "append"
    help = "lists of several keys, read and appended to in transactions: serializable, in real time"
    least: ClassVar[Mapping[str, int]] = {"append": 20, "read": 20}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = LiveKeys("l", live=5, uses=100)
        self.elements = itertools.count(1)

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            await self._txn(worker, [self._micro_op(worker) for _ in range(worker.rng.randint(1, MOST_MICRO_OPS))])

    def _micro_op(self, worker: Worker) -> list[Any]:
        if worker.rng.random() < 0.5:
            return ["r", worker.rng.choice(self.keys.live), None]
        return ["append", self.keys.draw(worker.rng), next(self.elements)]

    async def finish(self, worker: Worker) -> None:
        for first in range(0, len(self.keys.all), FINAL_READS):
            keys = self.keys.all[first : first + FINAL_READS]
            reads = [["r", key, None] for key in keys]
            await insist(f"a last read of {', '.join(keys)}", partial(self._txn, worker, reads))

    async def _txn(self, worker: Worker, asked: list[list[Any]]) -> Answer | None:
        reads = all(f == "r" for f, _, _ in asked)
        return await worker.do(
            "txn", partial(_commit, worker.client, self.setting.prefix, asked), value=asked, read=reads
        )

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(operations, append=lambda one: bool(_appended(one)), read=_reads_others)

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import appends  # noqa: PLC0415

        return appends.check(operations, out_of_time)


def _appended(txn: Operation) -> set[int]:
    return {element for f, _, element in txn.result if f == "append"}


def _reads_others(txn: Operation) -> bool:
    """Whether it was told what another transaction appended."""
    own = _appended(txn)
    return any(f == "r" and not own.issuperset(found) for f, _, found in txn.result)


async def _commit(client: AsyncClient, prefix: str, asked: list[list[Any]]) -> Answer:
    keys = list(dict.fromkeys(key for _, key, _ in asked))
    found = (await client.txn().then(*(get(prefix + key) for key in keys)).commit()).results
    pairs = {key: pair if isinstance(pair, KeyValue) else None for key, pair in zip(keys, found, strict=True)}
    lists: dict[str, list[int]] = {key: json.loads(pair.value) if pair else [] for key, pair in pairs.items()}
    told: list[list[Any]] = []
    for f, key, element in asked:
        if f == "append":
            lists[key] = [*lists[key], element]
        told.append([f, key, element if f == "append" else lists[key]])
    grown = {key for f, key, _ in asked if f == "append"}
    if not grown:
        return Answer(told)
    unchanged = [mod_revision(prefix + key) == (pair.mod_revision if pair else 0) for key, pair in pairs.items()]
    done = (
        await client.txn().when(*unchanged).then(*(put(prefix + key, json.dumps(lists[key])) for key in grown)).commit()
    )
    if not done.succeeded:
        raise Conflict("conflict")
    return Answer(told, done.revision)
