"""Every write concern and every read level at once: what an answer says of itself must be so."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, AtLeast, Bounded, Concern, Level, Quorum, ReadLevel, ReadToken
from raftkv.errors import FailedPrecondition
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import LiveKeys, count, insist

BOUNDS_S: Final = (0.1, 0.5, 2.0)


class Quorums(Workload):
    """Half of the reads are of one node that is drawn; the others go where the client sends them."""

    name = "quorum"
    help = "every write concern and read level: each answer is as good as it says"
    least: ClassVar[Mapping[str, int]] = {"write": 6, "read": 8}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = LiveKeys("q", live=5, uses=400)
        self.values = itertools.count(1)
        self.concerns: list[Concern] = ["leader", "majority", "all", *range(1, setting.nodes + 1)]
        self.levels = ["linearizable", "lease", "local", "at_least", "bounded"]
        self.levels += [f"quorum:{replicas}" for replicas in range(1, setting.nodes + 1)]
        self.token: ReadToken | None = None
        """Of what anybody wrote last."""

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            key, rng = self.keys.draw(worker.rng), worker.rng
            if rng.random() < 0.4:
                concern, value = rng.choice(self.concerns), next(self.values)
                write = partial(self._write, worker.client, self.setting.prefix + key, value, concern)
                await worker.do("write", write, key=key, value=value, extra={"concern": concern})
            else:
                endpoint = rng.choice(worker.client.endpoints) if rng.random() < 0.5 else None
                level = rng.choice(self.levels)
                if level == "at_least" and worker.client.token is None:
                    level = "local"  # a client that has seen nothing yet asks for no more
                await self._read(worker, key, level, endpoint)

    async def finish(self, worker: Worker) -> None:
        for key in self.keys.live:
            await insist(f"a last read of {key}", partial(self._read, worker, key, "linearizable", None))

    async def _write(self, client: AsyncClient, path: str, value: int, concern: Concern) -> Answer:
        done = await client.put(path, str(value), concern=concern)
        receipt = done.receipt
        self.token = receipt.token
        told: dict[str, Any] = {
            "committed": receipt.committed,
            "durable_on": receipt.durable_on,
            "index": receipt.index,
            "term": receipt.term,
            "configuration": receipt.configuration_index,
        }
        return Answer(revision=done.revision, extra=told)

    async def _read(self, worker: Worker, key: str, name: str, endpoint: str | None) -> Answer | None:
        level, asked = self._level(worker, name), {"level": name}
        if isinstance(level, AtLeast) and level.token is not None:
            asked["token"] = str(level.token)
        if endpoint is not None:
            asked["endpoint"] = endpoint
        read = partial(self._answer, worker.client, self.setting.prefix + key, level, endpoint)
        return await worker.do("read", read, key=key, extra=asked, read=True)

    def _level(self, worker: Worker, name: str) -> Level:
        match name.split(":"):
            case ["quorum", replicas]:
                return Quorum(int(replicas))
            case ["bounded"]:
                return Bounded(worker.rng.choice(BOUNDS_S))
            case ["at_least"]:
                return AtLeast(self.token if worker.rng.random() < 0.5 else None)
            case _:
                return ReadLevel[name.upper()]

    async def _answer(self, client: AsyncClient, path: str, level: Level, endpoint: str | None) -> Answer:
        try:
            found = await client.read(path, level=level, endpoint=endpoint)
        except FailedPrecondition:
            if level is ReadLevel.LEASE and "lease" in self.levels:
                self.levels.remove("lease")  # the nodes run without leader leases
            raise
        receipt = found.receipt
        told: dict[str, Any] = {
            "guarantee": receipt.guarantee.name.lower(),
            "sees_writes_at": receipt.sees_writes_at,
            "staleness_ms": math.ceil(receipt.staleness * 1000),
            "applied_index": receipt.applied_index,
            "configuration": receipt.configuration_index,
            "at": found.revision,
        }
        pair = found.pair
        return Answer(None if pair is None else int(pair.value), 0 if pair is None else pair.mod_revision, told)

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        """Count what is known to be committed: of the rest a cluster without a leader may say a lot."""
        return count(
            operations,
            write=lambda one: one.f == "write" and one.extra["committed"],
            read=lambda one: one.f == "read" and one.result is not None and one.extra["guarantee"] == "linearizable",
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import quorums  # noqa: PLC0415

        setting = self.setting
        return quorums.check(
            operations,
            out_of_time,
            voters=0 if setting.members_change else setting.nodes,
            trust_lease=not (setting.clock_slack_ms or setting.lease_margin_ms),
            slack_ms=setting.clock_slack_ms,
        )
