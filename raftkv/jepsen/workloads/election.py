"""Elections: leaders that act, leaders that are stopped and act too late, and observers who ask who leads."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, AsyncElection, FenceMode, FencingToken
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.jepsen.workloads.common import OWN_TIMEOUT_S, confirmed, count, insist

TTL_S, PAUSED_TTL_S, WAIT_S = 2.0, 1.0, 5.0


class Election(Workload):
    """Every third worker observes; the others are candidates."""

    name = "election"
    help = "leaders that act under their token, and observers: nobody acts after a later leader"
    least: ClassVar[Mapping[str, int]] = {"lead": 3, "act": 5, "observe": 20}
    workers_at_least = 3

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.numbers = itertools.count(1)

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            if worker.number % 3 == 2:
                await self._observe(worker)
            elif worker.rng.random() < 0.05:
                await self._lead_paused(worker)
            else:
                await self._lead(worker)

    async def _lead(self, worker: Worker) -> None:
        election = self._candidacy(worker, worker.client, TTL_S)
        if (token := await self._campaign(worker, election)) is None:
            return
        for _ in range(worker.rng.randint(1, 3)):
            await self._act(worker, token)
        await worker.do("resign", lambda: confirmed(election.resign()), value={"token": token.token})

    async def _lead_paused(self, worker: Worker) -> None:
        """Nobody renews the lease of this leader: its client is closed."""
        async with AsyncClient(worker.client.endpoints, timeout=OWN_TIMEOUT_S, tls=worker.client.tls) as own:
            token = await self._campaign(worker, self._candidacy(worker, own, PAUSED_TTL_S))
        if token is not None and await worker.rest(worker.rng.uniform(0.5, 2.5) * PAUSED_TTL_S):
            await self._act(worker, token)

    def _candidacy(self, worker: Worker, client: AsyncClient, ttl: float) -> AsyncElection:
        return client.election(self.setting.prefix + "election", f"c{worker.number}", ttl=ttl, timeout=WAIT_S)

    async def _campaign(self, worker: Worker, election: AsyncElection) -> FencingToken | None:
        async def campaign() -> Answer:
            return Answer({"token": (await election.campaign()).grant.token})

        if (answer := await worker.do("lead", campaign, value=f"c{worker.number}")) is None:
            return None
        return FencingToken(election.name, answer.result["token"], worker.rng.choice(list(FenceMode)))

    async def _act(self, worker: Worker, token: FencingToken) -> None:
        number, candidate = next(self.numbers), f"c{worker.number}"

        async def act() -> Answer:
            done = await worker.client.put(self.setting.prefix + "acted", f"{candidate} {number}", fence=token)
            return Answer(revision=done.revision)

        asked = {"token": token.token, "candidate": candidate, "number": number}
        await worker.do("act", act, value=asked, extra={"mode": token.mode.name.lower()})

    async def _observe(self, worker: Worker) -> Answer | None:
        election = worker.client.election(self.setting.prefix + "election")

        async def observe() -> Answer:
            leader = await election.leader()
            return Answer(leader and {"token": leader.token, "candidate": leader.value.decode()})

        return await worker.do("observe", observe, read=True)

    async def finish(self, worker: Worker) -> None:
        await insist("who leads in the end", partial(self._observe, worker))

    def done(self, operations: Sequence[Operation]) -> Counter[str]:
        return count(
            operations,
            lead=lambda one: one.f == "lead",
            act=lambda one: one.f == "act",
            observe=lambda one: one.f == "observe" and one.result is not None,
        )

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import elections  # noqa: PLC0415

        return elections.check(operations, out_of_time)
