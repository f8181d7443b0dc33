"""Calls about keys and values."""

from __future__ import annotations

from collections.abc import AsyncIterator

from raftkv.client import txn as txns
from raftkv.client import wire
from raftkv.client.batches import lane_of_write
from raftkv.client.calls import COMMON, Kind
from raftkv.client.committing import AsyncTxn
from raftkv.client.levels import Concern, Fallback, Level
from raftkv.client.reading import ReadCore
from raftkv.client.receipts import UNTOLD_WRITE
from raftkv.client.results import (
    Count,
    DeleteResult,
    KeyValue,
    Order,
    PutResult,
    RangeResult,
    ReadLevel,
    ReadResult,
    TxnResult,
)
from raftkv.client.spans import Pages, Span, between, one_key, to_bytes, under
from raftkv.client.tokens import Fences, fences_of
from raftkv.client.txn import Branch
from raftkv.client.wire_lease import LeaseLike, lease_id
from raftkv.errors import InvalidArgument, KeyExists, RaftKVError, RevisionMismatch
from raftkv.quorum import parse_concern
from raftkv.v1 import kv_pb2


class KeyValueCalls(ReadCore):
    """Reads, writes and transactions.

    Every write takes `fence`: tokens of locks (`held.fence()`), all of which must be good where the write is applied,
    or it is refused with StaleFence, without effect.
    """

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        lease: LeaseLike = None,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key. Returns once the write is committed, or as `concern` says.

        `lease`: a lease or its id; the key is deleted with it. A put without one detaches the key from the lease that
        it had.
        `previous`: return the pair before, too.
        `concern`: how many voters must have it on disk before it is acknowledged: "leader", "majority", "all", or a
        number. Below a majority the result comes early: it is not committed, has no revision, and a change of leaders
        may lose the write (WriteLost at a later read of this client); refused with `lease`, `fence` and `previous`.
        Above, a result that comes without so many of them says so: `receipt.reached` is False, and it is committed.

        Raises LeaseNotFound, StaleFence, SpaceExceeded, without effect.

        Example::

            written = await client.put("color", "red")
            print(written.revision, written.durable_on)
            logged = await client.put("log/1", "started", concern="leader")
            print(logged.committed, logged.receipt.words)
        """
        key_bytes, value_bytes = to_bytes(key), to_bytes(value)
        operation = kv_pb2.Operation()
        if lease is None and fence is None and not previous:
            wire.fill_put(operation.put, key_bytes, value_bytes)
            size_bytes = wire.size_estimate(key_bytes, value_bytes)
        else:
            wire.fill_put(
                operation.put,
                key_bytes,
                value_bytes,
                lease=lease_id(lease),
                previous=previous,
                fences=fences_of(fence),
            )
            size_bytes = wire.size_estimate() + operation.ByteSize()
        lane = COMMON
        if concern is not None:
            operation.put.write_concern = parse_concern(concern)
            lane = lane_of_write(operation.put.write_concern)
        call = await self._call(Kind.WRITE, operation, size_bytes, timeout, lane)
        answer = call.future.result().put
        if previous:
            return wire.to_put_result(answer, call.wrote)
        return PutResult(answer.revision, None, call.wrote)  # most of them, at half the cost

    async def create(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        lease: LeaseLike = None,
        fence: Fences = None,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key that must not exist. Raises KeyExists, with the pair that is there; else as `put`.

        It is a transaction of one condition: the key has version 0. `concern`: a majority or more.

        Example::

            try:
                await client.create("owner", "me")
            except KeyExists as conflict:
                print("taken by", conflict.pair.value)
        """
        branch = txns.when(txns.version(key) == 0).then(txns.put(key, value, lease=lease)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, concern, timeout)
        found = result.results[0]
        if isinstance(found, PutResult):
            return found
        if not isinstance(found, KeyValue):
            raise RaftKVError(f"the node says that key {to_bytes(key)!r} exists, and does not show it")
        raise KeyExists(found)

    async def update(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        if_revision: int,
        lease: LeaseLike = None,
        fence: Fences = None,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key that was last written at `if_revision` (its mod_revision, 1 or more; `create` is for new keys).

        Raises RevisionMismatch, with the pair that is there, or None; else as `put`. `concern`: a majority or more.

        Example::

            pair = await client.get("color")
            if pair is not None:
                await client.update("color", pair.value.upper(), if_revision=pair.mod_revision)
        """
        branch = _if_unchanged(key, if_revision).then(txns.put(key, value, lease=lease)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, concern, timeout)
        found = result.results[0]
        if isinstance(found, PutResult):
            return found
        raise _mismatch(key, if_revision, found)

    async def delete(
        self,
        key: bytes | str,
        *,
        if_revision: int | None = None,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Remove a key. Returns once the delete is committed, or as `concern` says; `deleted` is 0 or 1.

        `if_revision`: only if it was last written then (1 or more), else RevisionMismatch is raised, without effect.
        `previous`: return the pair removed, too. `concern` as in `put`; with `if_revision`, a majority or more. Raises
        StaleFence, without effect.

        Example::

            gone = await client.delete("color", previous=True)
            print(gone.deleted, gone.previous)
        """
        if if_revision is None:
            return await self._delete(one_key(key), fence, previous, concern, timeout)
        branch = _if_unchanged(key, if_revision).then(txns.delete(key, previous=previous)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, concern, timeout)
        found = result.results[0]
        if isinstance(found, DeleteResult):
            return found
        raise _mismatch(key, if_revision, found)

    async def delete_range(
        self,
        start: bytes | str,
        end: bytes | str | None,
        *,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Remove the keys in [start, end), in one revision; `end` None: all from `start` on.

        `previous`: return the pairs removed, too. `concern`: a majority or more. Raises LimitExceeded, without effect,
        for more keys than one command may remove (5,000), or more than 1 MiB of pairs to return.

        Example::

            await client.delete_range("logs/2025", "logs/2026")
        """
        return await self._delete(between(start, end), fence, previous, concern, timeout)

    async def delete_prefix(
        self,
        prefix: bytes | str,
        *,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Remove the keys that begin with `prefix` (empty: all), in one revision. As `delete_range`.

        Example::

            print((await client.delete_prefix("tmp/")).deleted)
        """
        return await self._delete(under(prefix), fence, previous, concern, timeout)

    def txn(self) -> AsyncTxn:
        """Begin a transaction: operations that take effect together, at one revision, or not at all.

        The conditions and operations are those of `raftkv.client.txn`.

        Example::

            result = await (
                client.txn()
                .when(value("a") == "1", version("b") == 0)
                .then(put("a", "2"), put("b", "1"))
                .otherwise(get("a"))
                .commit()
            )
            if not result.succeeded:
                print(result.results[0])
        """
        return AsyncTxn(self._commit)

    async def compact(self, revision: int, *, timeout: float | None = None) -> int:
        """Give up the history before `revision` (1 or more). Return where history begins now.

        Reads and watches at `revision` and later still work; earlier ones raise Compacted. Raises FutureRevision,
        without effect, above the store's revision; Compacted where that history is given up already.

        Example::

            written = await client.put("color", "blue")
            await client.compact(written.revision)
        """
        wire.check_u64("revision", revision)
        if revision == 0:
            raise InvalidArgument("revision is 0; history begins at 1")
        operation = kv_pb2.Operation(compact=kv_pb2.CompactRequest(revision=revision))
        return (await self._perform(Kind.WRITE, operation, wire.size_estimate(), timeout)).compact.revision

    async def get(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return a key's pair as it was at `revision` (0: now), or None.

        `level`: how fresh it must be; `pair.guarantee` says what it is, and `read` tells more.
        `fallback`: with "stale", a weaker answer, labelled as what it is, when none of that level comes in time: the
        last quarter of the timeout, at most a second, is kept for that, and asks every node for what it holds itself.
        With `endpoint`, that node is asked and no other, in one attempt: with LOCAL, what it holds itself, whatever
        this client has seen.

        Raises Compacted, FutureRevision, ClusterMismatch; the levels below LINEARIZABLE: WriteLost once, where a write
        of this client, acknowledged by fewer than a majority, is lost; TokenOutOfRange; TooStale, QuorumUnavailable.

        Example::

            pair = await client.get("color")
            print(None if pair is None else pair.value)
            pair = await client.get("color", level=Bounded(0.5), fallback="stale")
            print(None if pair is None else pair.guarantee)
        """
        operation = kv_pb2.Operation()
        wire.fill_range(operation.range, one_key(key), revision=revision)
        answer, receipt = await self._read(operation, level, fallback, endpoint, timeout)
        return wire.to_pair(answer, receipt)

    async def read(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> ReadResult:
        """Read a key as `get` does, and tell all about the answer, also where there is no such key.

        Example::

            found = await client.read("color", level=Quorum(2))
            print(found.pair, found.receipt.words, found.receipt.served_by)
        """
        operation = kv_pb2.Operation()
        wire.fill_range(operation.range, one_key(key), revision=revision)
        answer, receipt = await self._read(operation, level, fallback, endpoint, timeout)
        return ReadResult(wire.to_pair(answer, receipt), answer.revision, receipt)

    async def range(
        self,
        start: bytes | str,
        end: bytes | str | None,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        order: Order = Order.KEY,
        descending: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        cursor: bytes = b"",
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> RangeResult:
        """Return the pairs in [start, end) at `revision` (0: now); `end` None: all from `start` on.

        One page: at most `limit` pairs (0: no limit), 2,000 and 1 MiB; `more` says whether keys are left. The next page
        is had by the same call with `cursor` and `revision` of the page before (`scan` goes on by itself). Other orders
        than that of the keys, ascending, read the whole range for every page. The bounds of revisions are both
        included; 0: none. `level`, `fallback`, `endpoint` and errors as in `get`.

        Example::

            page = await client.range("a", "c", limit=100)
            while page.more:
                page = await client.range("a", "c", limit=100, cursor=page.cursor, revision=page.revision)
        """
        return await self._page(
            between(start, end),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            order=order,
            descending=descending,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            cursor=cursor,
            level=level,
            fallback=fallback,
            endpoint=endpoint,
            timeout=timeout,
        )

    async def prefix(
        self,
        prefix: bytes | str,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        order: Order = Order.KEY,
        descending: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        cursor: bytes = b"",
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> RangeResult:
        """Return the pairs whose keys begin with `prefix` (empty: all). Otherwise as `range`.

        Example::

            newest = await client.prefix("users/", order=Order.CREATE_REVISION, descending=True, limit=10)
        """
        return await self._page(
            under(prefix),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            order=order,
            descending=descending,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            cursor=cursor,
            level=level,
            fallback=fallback,
            endpoint=endpoint,
            timeout=timeout,
        )

    async def count(
        self,
        prefix: bytes | str = b"",
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> Count:
        """Return how many keys begin with `prefix` (empty: all). Options and errors as in `get`.

        The number has the receipt of the read.

        Example::

            number = await client.count("users/", level=ReadLevel.LOCAL)
            print(number, number.receipt.words)
        """
        operation = kv_pb2.Operation()
        wire.fill_range(operation.range, under(prefix), revision=revision, count_only=True)
        answer, receipt = await self._read(operation, level, fallback, endpoint, timeout)
        return Count(answer.count, receipt)

    async def scan(
        self,
        prefix: bytes | str = b"",
        *,
        page: int = 1000,
        revision: int = 0,
        keys_only: bool = False,
        order: Order = Order.KEY,
        descending: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyValue]:
        """Yield all pairs whose keys begin with `prefix` (empty: all), as they were at one revision.

        Asks for `page` pairs at a time (at least 1); `timeout` is for each page. Orders and bounds as in `range`.
        Raises Compacted when the revision is compacted away meanwhile.

        Example::

            async for pair in client.scan("users/", order=Order.MOD_REVISION, descending=True):
                print(pair.key)
        """
        pages = Pages(prefix, page, revision)
        while not pages.done:
            found = await self.range(
                pages.start,
                pages.end,
                limit=pages.size,
                revision=pages.revision,
                keys_only=keys_only,
                order=order,
                descending=descending,
                min_mod_revision=min_mod_revision,
                max_mod_revision=max_mod_revision,
                min_create_revision=min_create_revision,
                max_create_revision=max_create_revision,
                cursor=pages.cursor,
                level=level,
                timeout=timeout,
            )
            for pair in pages.take(found):
                yield pair

    async def _commit(self, branch: Branch, fence: Fences, concern: Concern, timeout: float | None) -> TxnResult:
        operation, size_bytes, writes = txns.to_request(branch, fence, concern)
        # What writes nothing is asked anew at every attempt, and is never in doubt.
        kind = Kind.WRITE if writes else Kind.READ
        lane = COMMON if concern is None else lane_of_write(operation.txn.write_concern)
        call = await self._call(kind, operation, wire.size_estimate() + size_bytes, timeout, lane)
        return txns.to_result(branch, call.future.result().txn, call.wrote if writes else UNTOLD_WRITE)

    async def _delete(
        self, span: Span, fence: Fences, previous: bool, concern: Concern, timeout: float | None
    ) -> DeleteResult:
        operation = kv_pb2.Operation()
        wire.fill_delete(operation.delete, span, previous=previous, fences=fences_of(fence))
        if concern is not None:
            operation.delete.write_concern = parse_concern(concern)
        size_bytes = wire.size_estimate() + operation.ByteSize()
        lane = lane_of_write(operation.delete.write_concern)
        call = await self._call(Kind.WRITE, operation, size_bytes, timeout, lane)
        return wire.to_delete_result(call.future.result().delete, call.wrote)

    async def _page(
        self,
        span: Span,
        *,
        limit: int,
        revision: int,
        keys_only: bool,
        order: Order,
        descending: bool,
        min_mod_revision: int,
        max_mod_revision: int,
        min_create_revision: int,
        max_create_revision: int,
        cursor: bytes,
        level: Level,
        fallback: Fallback,
        endpoint: str | None,
        timeout: float | None,
    ) -> RangeResult:
        operation = kv_pb2.Operation()
        wire.fill_range(
            operation.range,
            span,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            order=order,
            descending=descending,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            cursor=cursor,
        )
        return wire.to_range_result(*await self._read(operation, level, fallback, endpoint, timeout))


def _if_unchanged(key: bytes | str, revision: int) -> Branch:
    if isinstance(revision, bool) or not isinstance(revision, int) or revision < 1:
        raise InvalidArgument(
            f"if_revision is {revision!r}, not the revision of a key (1 or more); create() is for new keys"
        )
    return txns.when(txns.mod_revision(key) == revision)


def _mismatch(key: bytes | str, expected: int, found: object) -> RevisionMismatch:
    return RevisionMismatch(to_bytes(key), expected, found if isinstance(found, KeyValue) else None)
