"""A lock, and holders that are stopped at the wrong moment: only the store can refuse what they write too late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, AsyncLock, FenceMode, FencingToken
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads.common import OWN_TIMEOUT_S, confirmed, insist, number_of

KEY = "counter"
TTL_S, PAUSED_TTL_S, WAIT_S = 2.0, 1.0, 5.0


class Lock(Workload):
    """Whoever holds the lock reads a counter and writes it plus one: two at a time lose an update."""

    name = "lock"
    help = "a counter guarded by a lock, whose holders pause at times: fenced writes lose no update"
    least: ClassVar[Mapping[str, int]] = {"acquire": 3, "increment": 5}
    workers_at_least = 2

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            drawn = worker.rng.random()
            if drawn < 0.1:
                await self._read(worker)
            elif drawn < 0.15:
                await self._pause(worker)
            else:
                await self._hold(worker)

    async def _hold(self, worker: Worker) -> None:
        lock = worker.client.lock(self.setting.prefix + "lock", ttl=TTL_S, timeout=WAIT_S)
        if (token := await self._acquire(worker, lock)) is None:
            return
        for _ in range(worker.rng.randint(1, 3)):
            if (found := await self._read(worker)) is not None:
                await self._increment(worker, token, found.result)
        await worker.do("release", lambda: confirmed(lock.release()), value={"token": token.token})

    async def _pause(self, worker: Worker) -> None:
        """Acquire and read, do nothing for a while, and write. Nobody renews the lease: its client is closed."""
        async with AsyncClient(worker.client.endpoints, timeout=OWN_TIMEOUT_S, tls=worker.client.tls) as own:
            lock = own.lock(self.setting.prefix + "lock", ttl=PAUSED_TTL_S, timeout=WAIT_S)
            if (token := await self._acquire(worker, lock)) is None:
                return
            found = await self._read(worker)
        if found is not None and await worker.rest(worker.rng.uniform(0.5, 2.5) * PAUSED_TTL_S):
            await self._increment(worker, token, found.result)

    async def _acquire(self, worker: Worker, lock: AsyncLock) -> FencingToken | None:
        async def acquire() -> Answer:
            return Answer({"token": (await lock.acquire()).grant.token})

        if (answer := await worker.do("acquire", acquire)) is None:
            return None
        # Not `held.fence()`, which asks the client's own clock: the store is to judge.
        return FencingToken(lock.name, answer.result["token"], worker.rng.choice(list(FenceMode)))

    async def _increment(self, worker: Worker, token: FencingToken, count: int) -> None:
        async def write() -> Answer:
            done = await worker.client.put(self.setting.prefix + KEY, str(count + 1), fence=token)
            return Answer(revision=done.revision)

        asked = {"token": token.token, "to": count + 1}
        await worker.do("increment", write, key=KEY, value=asked, extra={"mode": token.mode.name.lower()})

    async def finish(self, worker: Worker) -> None:
        await insist("a last read of the counter", partial(self._read, worker))

    async def _read(self, worker: Worker) -> Answer | None:
        async def read() -> Answer:
            found = number_of(await worker.client.get(self.setting.prefix + KEY))
            return found if found.revision else Answer(0)

        return await worker.do("read", read, key=KEY, read=True)

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import locks  # noqa: PLC0415

        return locks.check(operations, out_of_time)
