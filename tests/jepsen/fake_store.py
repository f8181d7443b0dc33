"""A store in memory behind a real AsyncClient, right by itself and wrong in subclasses: what the checks must catch.

It knows what single keys need: puts, deletes, reads of one key or of a prefix, and transactions of these.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import NamedTuple

from raftkv.client import AsyncClient, Guarantee, ReadReceipt
from raftkv.client.calls import COMMON, Call, Kind
from raftkv.client.receipts import UNTOLD_WRITE
from raftkv.v1 import kv_pb2

MOST_DELAY_S = 0.004


class Pair(NamedTuple):
    value: bytes
    mod_revision: int
    version: int


class FakeStore:
    """Does one thing after the other, each at one moment between its request and its answer."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.revision = 1
        self.pairs: dict[bytes, Pair] = {}
        self.wrongs = 0
        """How often it did what it is wrong in."""

    def client(self) -> AsyncClient:
        """Return another client of it."""
        return FakeClient(self)

    def wrong(self, chance: float) -> bool:
        """Draw whether to be wrong now, and count it."""
        drawn = self.rng.random() < chance
        self.wrongs += drawn
        return drawn

    def perform(self, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        """Do it, now."""
        result = kv_pb2.OperationResult()
        match operation.WhichOneof("operation"):
            case "put":
                result.put.CopyFrom(self.put(operation.put, self.revision + 1))
            case "delete":
                result.delete.CopyFrom(self.delete(operation.delete, self.revision + 1))
            case "range":
                result.range.CopyFrom(self.read(operation.range))
            case "txn":
                result.txn.CopyFrom(self.txn(operation.txn.branch))
            case other:
                raise NotImplementedError(f"the fake store knows no {other}")
        return result

    def put(self, request: kv_pb2.PutRequest, revision: int) -> kv_pb2.PutResponse:
        before = self.pairs.get(request.key)
        self.pairs[request.key] = Pair(request.value, revision, before.version + 1 if before else 1)
        self.revision = revision
        return kv_pb2.PutResponse(revision=revision)

    def delete(self, request: kv_pb2.DeleteRequest, revision: int) -> kv_pb2.DeleteResponse:
        gone = self.pairs.pop(request.key, None) is not None
        self.revision = revision if gone else self.revision
        return kv_pb2.DeleteResponse(revision=self.revision, deleted=int(gone))

    def read(self, request: kv_pb2.RangeRequest) -> kv_pb2.RangeResponse:
        end = request.range_end or request.key + b"\0"
        found = [self._shown(key, pair) for key, pair in sorted(self.pairs.items()) if request.key <= key < end]
        return kv_pb2.RangeResponse(kvs=found, count=len(found), revision=self.revision)

    def txn(self, branch: kv_pb2.TxnBranch) -> kv_pb2.TxnResponse:
        succeeded = all(map(self._holds, branch.compares))
        results, revision = [], self.revision + 1
        for one in branch.then if succeeded else branch.otherwise:
            match one.WhichOneof("operation"):
                case "put":
                    results.append(kv_pb2.TxnOperationResult(put=self.put(one.put, revision)))
                case "range":
                    results.append(kv_pb2.TxnOperationResult(range=self.read(one.range)))
                case other:
                    raise NotImplementedError(f"the fake store knows no {other} in a transaction")
        told = kv_pb2.TxnBranchResult(succeeded=succeeded, results=results)
        return kv_pb2.TxnResponse(revision=self.revision, branch=told)

    def _holds(self, compare: kv_pb2.Compare) -> bool:
        assert compare.relation == kv_pb2.Compare.EQUAL
        pair = self.pairs.get(compare.key)
        match compare.target:
            case kv_pb2.Compare.VALUE:
                return pair is not None and pair.value == compare.value
            case kv_pb2.Compare.MOD_REVISION:
                return (pair.mod_revision if pair else 0) == compare.number
            case kv_pb2.Compare.VERSION:
                return (pair.version if pair else 0) == compare.number
        raise NotImplementedError(f"the fake store compares no target {compare.target}")

    @staticmethod
    def _shown(key: bytes, pair: Pair) -> kv_pb2.KeyValue:
        return kv_pb2.KeyValue(key=key, value=pair.value, mod_revision=pair.mod_revision, version=pair.version)


class FakeClient(AsyncClient):
    """What the real client says of itself, asked of a store in memory."""

    def __init__(self, store: FakeStore) -> None:
        super().__init__(["127.0.0.1:1"])
        self._store = store

    async def __aenter__(self) -> FakeClient:  # nothing to connect to
        return self

    async def _call(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None, lane: int = COMMON
    ) -> Call:
        loop, rng = asyncio.get_running_loop(), self._store.rng
        call = Call(kind, operation, size_bytes, timeout=1.0, deadline=0.0, future=loop.create_future(), lane=lane)
        await asyncio.sleep(rng.uniform(0, MOST_DELAY_S))
        result = self._store.perform(operation)
        await asyncio.sleep(rng.uniform(0, MOST_DELAY_S))
        call.wrote = UNTOLD_WRITE
        call.read = ReadReceipt(Guarantee.LINEARIZABLE)
        call.future.set_result(result)
        return call


class LosesUpdates(FakeStore):
    """Acknowledges a put, and forgets it."""

    def put(self, request: kv_pb2.PutRequest, revision: int) -> kv_pb2.PutResponse:
        if not self.wrong(0.05):
            return super().put(request, revision)
        self.revision = revision
        return kv_pb2.PutResponse(revision=revision)


class ServesStaleReads(FakeStore):
    """Answers from a copy that lags, now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.before: list[dict[bytes, Pair]] = []

    def perform(self, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        if operation.WhichOneof("operation") != "range":
            self.before = [*self.before[-9:], dict(self.pairs)]
        elif self.before and self.wrong(0.1):
            now, self.pairs = self.pairs, self.before[0]
            try:
                return super().perform(operation)
            finally:
                self.pairs = now
        return super().perform(operation)


class AppliesTwice(FakeStore):
    """Has no sessions: a compare-and-swap whose answer is lost is sent again, applied again, and compares unequal."""

    def txn(self, branch: kv_pb2.TxnBranch) -> kv_pb2.TxnResponse:
        first = super().txn(branch)
        return super().txn(branch) if first.branch.succeeded and self.wrong(0.1) else first


class WritesTwice(FakeStore):
    """Has no sessions: a put that is sent again is applied a second time, after others."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.late: list[kv_pb2.PutRequest] = []

    def put(self, request: kv_pb2.PutRequest, revision: int) -> kv_pb2.PutResponse:
        told = super().put(request, revision)
        others = [one for one in self.late if one.key == request.key]
        for one in others:
            self.late.remove(one)
            super().put(one, self.revision + 1)
        if self.wrong(0.1):
            self.late.append(request)
        return told


class LosesItsTail(FakeStore):
    """Its leader is followed by one that lacks the last writes, acknowledged though they were."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.lagging: dict[bytes, Pair] = {}
        self.lag = 0

    def perform(self, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        self.lag += 1
        if self.lag > 20:
            self.lag, self.lagging = 0, dict(self.pairs)
        elif self.lag > 10 and self.wrong(0.05):
            # Revisions go on rising: it is not they that give it away.
            self.pairs = dict(self.lagging)
        return super().perform(operation)


BROKEN: Iterable[type[FakeStore]] = (LosesUpdates, ServesStaleReads, AppliesTwice, WritesTwice, LosesItsTail)
