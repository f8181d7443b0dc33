"""A bank: money moves between accounts, and is neither made nor lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict
from raftkv.client import AsyncClient, KeyValue, get, mod_revision, put
from raftkv.errors import Conflict, FailedPrecondition
from raftkv.jepsen.worker import Answer, Worker
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads.common import PATIENCE_S, insist

ACCOUNTS = tuple(str(number) for number in range(6))
BALANCE = 100
MOST = 20


class Bank(Workload):
    """A transfer reads two accounts and writes them if they are unchanged; a read is of all accounts at once."""

    name = "bank"
    help = "transfers between accounts in transactions: no read sees money made or lost"
    least: ClassVar[Mapping[str, int]] = {"transfer": 15, "read": 10}

    async def setup(self, client: AsyncClient) -> None:
        opening = [put(self.setting.prefix + one, str(BALANCE)) for one in ACCOUNTS]
        await client.txn().then(*opening).commit(timeout=PATIENCE_S)

    async def run(self, worker: Worker) -> None:
        while await worker.turn():
            if worker.rng.random() < 0.3:
                await self._read(worker)
            else:
                source, target = worker.rng.sample(ACCOUNTS, 2)
                amount = worker.rng.randint(1, MOST)
                transfer = partial(self._transfer, worker.client, source, target, amount)
                asked = {"from": source, "to": target, "amount": amount}
                await worker.do("transfer", transfer, value=asked)

    async def finish(self, worker: Worker) -> None:
        await insist("a last read of all accounts", partial(self._read, worker))

    async def _transfer(self, client: AsyncClient, source: str, target: str, amount: int) -> Answer:
        paths = [self.setting.prefix + one for one in (source, target)]
        pairs = (await client.txn().then(*map(get, paths)).commit()).results
        found = [pair for pair in pairs if isinstance(pair, KeyValue)]
        balances = [int(pair.value) for pair in found]
        if len(found) < 2:
            raise FailedPrecondition("an account is gone")  # a read tells the check
        if balances[0] < amount:
            raise FailedPrecondition(f"{amount} is more than there is")
        unchanged = [mod_revision(pair.key) == pair.mod_revision for pair in found]
        moved = [put(paths[0], str(balances[0] - amount)), put(paths[1], str(balances[1] + amount))]
        done = await client.txn().when(*unchanged).then(*moved).commit()
        if not done.succeeded:
            raise Conflict("conflict")
        return Answer(revision=done.revision)

    async def _read(self, worker: Worker) -> Answer | None:
        async def balances() -> Answer:
            page = await worker.client.prefix(self.setting.prefix)
            prefix = self.setting.prefix.encode()
            found = {pair.key.removeprefix(prefix).decode(): int(pair.value) for pair in page.pairs}
            return Answer(found, extra={"at": page.revision})

        return await worker.do("read", balances, read=True)

    def check(self, operations: Sequence[Operation], out_of_time: OutOfTime) -> Verdict:
        from raftkv.checker import bank  # noqa: PLC0415

        begun = dict.fromkeys(ACCOUNTS, BALANCE)
        return bank.check(operations, out_of_time, accounts=ACCOUNTS, total=sum(begun.values()), initial=begun)
