"""Clients: they write, read, count up, transfer and compact at random."""

from __future__ import annotations

import asyncio

from raftkv.v1 import kv_pb2
from tests.sim.l1.caller import EVERYTHING, Caller, Habits, Look, Operation, Read, Session, World, encode
from tests.sim.l1.claims import Asked
from tests.sim.l1.oracle import Call, Write
from tests.sim.l1.state import ACCOUNT, ACCOUNTS, COUNTER, TOTAL

__all__ = ["Client", "Habits", "World"]

_COUNTERS = 2
_OLD = 60
"""Compactions and reads of the past go back so many revisions, at most."""

_Pairs = dict[bytes, tuple[int, bytes]]


class Client(Caller):
    """See the module's docstring."""

    _seen: _Pairs | None = None
    """What it knows of counters and accounts: (mod_revision, value)."""

    async def _work(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0, 2 * self._habits.think_s))
            if self._random.random() < self._habits.sessionless:
                await self._write_without_a_session()
            else:
                session = await self._open_session()
                if session is not None:
                    await self._run(session, [self._draw(session) for _ in range(self._draw_size())])

    def _draw_size(self) -> int:
        return self._random.randint(1, self._habits.batch)

    def _draw(self, session: Session) -> Operation:
        operation = self._draw_other(session) if self._random.random() < self._habits.txns else self._draw_plain()
        operation.sequence = session.take()
        if isinstance(operation, Write | Call):
            operation.session = session.number
        return operation

    def _draw_plain(self) -> Write | Read:
        habits, chance = self._habits, self._random.random()
        if chance < habits.reads:
            level = kv_pb2.LOCAL if self._random.random() < habits.local else kv_pb2.LINEARIZABLE
            if level == kv_pb2.LINEARIZABLE and self._world.has_leases and self._random.random() < 0.5:
                level = kv_pb2.LEASE
            return Read(EVERYTHING if self._random.random() < habits.scans else self._key(), Asked(level))
        return Write(self._key(), None if self._random.random() < habits.deletes else self._value())

    def _draw_other(self, session: Session) -> Call | Read | Look:
        chance = self._random.random()
        if chance < 0.35:
            return Call(self._count_up())
        if chance < 0.65:
            return Call(self._transfer())
        if chance < 0.8:
            return Call(self._write_on_a_condition())
        past = max(1, self._revision - self._random.randrange(_OLD))
        if chance < 0.85:
            return Call(kv_pb2.Operation(compact=kv_pb2.CompactRequest(revision=past)))
        if chance < 0.93:
            key = EVERYTHING if self._random.random() < 0.5 else self._key()
            return Read(key, Asked(kv_pb2.LINEARIZABLE), past)
        return Look(_txn([], [_accounts()], []), self._take_accounts)

    def _key(self) -> bytes:
        return b"key-%d" % self._random.randrange(self._habits.keys)

    def _value(self) -> bytes:
        self._written += 1
        unique = b"%d/%d:" % (self.number, self._written)
        return unique + b"x" * self._random.randrange(self._habits.value_bytes)

    # --- transactions -------------------------------------------------------------------------------------------------

    def _known(self) -> _Pairs:
        if self._seen is None:
            self._seen = {}
        return self._seen

    def _as_known(self, key: bytes) -> kv_pb2.Compare:
        """Return the condition that a key is what this client knows."""
        known = self._known().get(key)
        if known is None:
            return kv_pb2.Compare(key=key, target=kv_pb2.Compare.VERSION, relation=kv_pb2.Compare.EQUAL)
        if self._random.random() < 0.5:
            return kv_pb2.Compare(
                key=key, target=kv_pb2.Compare.MOD_REVISION, relation=kv_pb2.Compare.EQUAL, number=known[0]
            )
        return kv_pb2.Compare(key=key, target=kv_pb2.Compare.VALUE, relation=kv_pb2.Compare.EQUAL, value=known[1])

    def _count_up(self) -> kv_pb2.Operation:
        """Compare and set."""
        key = COUNTER + b"%d" % self._random.randrange(_COUNTERS)
        _, value = self._known().get(key, (0, b"0"))
        return _txn([self._as_known(key)], [_put(key, b"%d" % (int(value) + 1))], [_get(key)])

    def _transfer(self) -> kv_pb2.Operation:
        """Move some of the total from one account to another; or open them, all at once."""
        names = [ACCOUNT + b"%d" % number for number in range(ACCOUNTS)]
        known = self._known()
        if not all(name in known for name in names):
            unopened = [
                kv_pb2.Compare(
                    key=ACCOUNT,
                    range_end=ACCOUNT + b"~",
                    target=kv_pb2.Compare.VERSION,
                    relation=kv_pb2.Compare.EQUAL,
                    number=0,
                )
            ]
            return _txn(unopened, [_put(name, b"%d" % (TOTAL // ACCOUNTS)) for name in names], [_accounts()])
        giver, taker = self._random.sample(names, 2)
        amount = self._random.randrange(1, 10)
        puts = [
            _put(giver, b"%d" % (int(known[giver][1]) - amount)),
            _put(taker, b"%d" % (int(known[taker][1]) + amount)),
        ]
        return _txn([self._as_known(giver), self._as_known(taker)], puts, [_accounts()])

    def _write_on_a_condition(self) -> kv_pb2.Operation:
        """Create, update, or delete a range in which nothing is new."""
        key, chance = self._key(), self._random.random()
        if chance < 0.4:
            compare = kv_pb2.Compare(key=key, target=kv_pb2.Compare.CREATE_REVISION, relation=kv_pb2.Compare.EQUAL)
            return _txn([compare], [_put(key, self._value())], [_get(key)])
        recent = kv_pb2.Compare(
            key=b"key-",
            range_end=b"key-~",
            target=kv_pb2.Compare.MOD_REVISION,
            relation=kv_pb2.Compare.LESS,
            number=max(1, self._revision - self._random.randrange(20)),
        )
        delete = kv_pb2.TxnOperation(
            delete=kv_pb2.DeleteRequest(key=b"key-", range_end=b"key-~", prev_kv=self._random.random() < 0.3)
        )
        if chance < 0.7:
            return _txn([recent], [delete], [_put(key, self._value())])
        inner = kv_pb2.TxnBranch(  # it sees the key as it was before
            compares=[
                kv_pb2.Compare(key=key, target=kv_pb2.Compare.VERSION, relation=kv_pb2.Compare.GREATER, number=1)
            ],
            then=[_get(key)],
            otherwise=[_put(b"mark", self._value())],
        )
        return _txn([recent], [delete], [_put(key, self._value()), kv_pb2.TxnOperation(branch=inner)])

    def _answered(self, call: Call, result: kv_pb2.OperationResult) -> None:
        if not result.HasField("txn"):
            return
        self.counts["transactions"] += 1
        self.counts["conditions failed"] += not result.txn.branch.succeeded
        known, branch = self._known(), call.operation.txn.branch
        if result.txn.branch.succeeded:
            for operation in filter(_is_put, branch.then):
                known[operation.put.key] = result.txn.revision, operation.put.value
        for read in result.txn.branch.results:
            for pair in read.range.kvs:
                known[pair.key] = pair.mod_revision, pair.value

    def _take_accounts(self, result: kv_pb2.OperationResult, floor: int) -> None:
        (page,) = result.txn.branch.results
        pairs = {pair.key: (pair.mod_revision, pair.value) for pair in page.range.kvs}
        self._world.oracle.read_range(ACCOUNT, ACCOUNT + b"~", pairs, result.txn.revision, floor)

    # --- without a session --------------------------------------------------------------------------------------------

    async def _write_without_a_session(self) -> None:
        """A put that is repeated only while every attempt had no effect."""
        write = Write(self._key(), self._value(), sequence=1)
        deadline = self._now() + self._habits.patience_s
        while self._now() < deadline and not write.doubtful:
            self._world.oracle.sends(write)
            left_s = self._attempt_s(deadline)
            batch = kv_pb2.BatchRequest(operations=[encode(write)], timeout_ms=max(1, int(left_s * 1000)))
            answer = await self._attempt(batch, left_s)
            if answer is None:
                write.doubtful = True
            elif self._settle(write, answer.results[0]):
                return
            await self._pause()
        self._give_up(write)


def _txn(
    compares: list[kv_pb2.Compare], then: list[kv_pb2.TxnOperation], otherwise: list[kv_pb2.TxnOperation]
) -> kv_pb2.Operation:
    branch = kv_pb2.TxnBranch(compares=compares, then=then, otherwise=otherwise)
    return kv_pb2.Operation(txn=kv_pb2.TxnRequest(branch=branch))


def _put(key: bytes, value: bytes) -> kv_pb2.TxnOperation:
    return kv_pb2.TxnOperation(put=kv_pb2.PutRequest(key=key, value=value))


def _is_put(operation: kv_pb2.TxnOperation) -> bool:
    return operation.HasField("put")


def _get(key: bytes) -> kv_pb2.TxnOperation:
    return kv_pb2.TxnOperation(range=kv_pb2.RangeRequest(key=key))


def _accounts() -> kv_pb2.TxnOperation:
    return kv_pb2.TxnOperation(range=kv_pb2.RangeRequest(key=ACCOUNT, range_end=ACCOUNT + b"~"))
