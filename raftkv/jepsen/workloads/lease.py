"""Leases: a key lives as long as its lease, which is not shorter than its holder may rely on, and ends at last."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import count, insist, read_number

TTLS_S: Final = (1.0, 1.5, 2.0, 3.0)
ID_BITS: Final = 52
"""What JSON carries everywhere."""
WATCHED_S: Final = 6.0
"""How long a worker watches its key go once nobody renews it. `finish` looks after the others."""


class Lease(Workload):
    """A worker has one lease and one key at a time: each of them is used once."""

    name = "lease"
    help = "keys on leases of a second or three: gone in time, and never early"
    least: ClassVar[Mapping[str, int]] = {"attach": 3, "gone": 2}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.numbers = itertools.count(1)
        self.present: dict[str, None] = {}
        self.ids: dict[int, random.Random] = {}

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            await self._life(worker, self._new_id(worker), next(self.numbers))

    def _new_id(self, worker: Worker) -> int:
        """Return an id of our own: a lease whose grant is in doubt has a name then, far from what the store chooses.

        The seed decides; but what an earlier run on the same cluster had, under another prefix, does not come again.
        """
        if worker.number not in self.ids:
            self.ids[worker.number] = random.Random(f"{self.setting.prefix}/{worker.rng.getrandbits(64)}")
        return self.ids[worker.number].getrandbits(ID_BITS) or 1

    async def _life(self, worker: Worker, lease: int, number: int) -> None:
        client, rng, key, ttl = worker.client, worker.rng, f"k{number}", worker.rng.choice(TTLS_S)
        asked = {"lease": lease, "ttl_ms": round(ttl * 1000)}
        if await worker.do("grant", partial(_grant, client, lease, ttl), key=key, value=asked) is None:
            return
        self.present[key] = None
        attach = partial(_attach, client, self.setting.prefix + key, number, lease)
        await worker.do("attach", attach, key=key, value=number, extra={"lease": lease})
        for _ in range(rng.randrange(4)):
            await self._read(worker, key)
            if not await worker.rest(ttl * rng.uniform(0.2, 0.6)):
                return
            await worker.do("renew", partial(_renew, client, lease), key=key, value={"lease": lease})
        if rng.random() < 0.3:
            await worker.do("revoke", partial(_revoke, client, lease), key=key, value={"lease": lease})
        until = worker.recorder.now() + round((ttl + WATCHED_S) * 1e9)
        while not await self._gone(worker, key) and worker.recorder.now() < until:
            if not await worker.rest(rng.uniform(0.05, 0.3)):
                return

    async def finish(self, worker: Worker) -> None:
        for key in tuple(self.present):
            await insist(f"that {key} is gone with its lease", lambda: self._is_gone(worker, key))  # noqa: B023

    async def _is_gone(self, worker: Worker, key: str) -> bool | None:
        return await self._gone(worker, key) or None

    async def _gone(self, worker: Worker, key: str) -> bool:
        answer = await self._read(worker, key)
        if answer is None or answer.result is not None:
            return False
        self.present.pop(key, None)
        return True

    async def _read(self, worker: Worker, key: str) -> Answer | None:
        read = partial(read_number, worker.client, self.setting.prefix + key)
        return await worker.do("read", read, key=key, read=True)

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        attached = {one.key: one for one in operations if one.f == "attach" and one.ok}

        def gone(one: Operation) -> bool:
            return one.f == "read" and one.result is None and one.key in attached and attached[one.key].precedes(one)

        return count(operations, attach=lambda one: one.f == "attach", gone=gone)

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import leases  # noqa: PLC0415

        return leases.check(operations, out_of_time, margin_ms=self.setting.lease_margin_ms)


async def _grant(client: AsyncClient, lease: int, ttl: float) -> Answer:
    await client.grant_lease(ttl, lease=lease)
    return Answer()


async def _attach(client: AsyncClient, path: str, number: int, lease: int) -> Answer:
    return Answer(revision=(await client.put(path, str(number), lease=lease)).revision)


async def _renew(client: AsyncClient, lease: int) -> Answer:
    return Answer({"ttl_ms": round((await client.renew_leases(lease))[0] * 1000)})


async def _revoke(client: AsyncClient, lease: int) -> Answer:
    await client.revoke_lease(lease)
    return Answer()
