"""Calls about keys and values."""

from __future__ import annotations

from collections.abc import AsyncIterator

from raftkv.client import txn as txns
from raftkv.client import wire
from raftkv.client.calls import Kind
from raftkv.client.committing import AsyncTxn
from raftkv.client.core import ClientCore
from raftkv.client.results import DeleteResult, KeyValue, Order, PutResult, RangeResult, ReadLevel, TxnResult
from raftkv.client.spans import Pages, Span, between, one_key, to_bytes, under
from raftkv.client.tokens import Fences, fences_of
from raftkv.client.txn import Branch
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.client.wire_lease import LeaseLike, lease_id
from raftkv.errors import InvalidArgument, KeyExists, RaftKVError, RevisionMismatch
from raftkv.v1 import kv_pb2


class KeyValueCalls(ClientCore):
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
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key. Returns once the write is committed.

        `lease`: a lease or its id; the key is deleted with it. A put without one detaches the key from the lease that
        it had.
        `previous`: return the pair before, too. Raises LeaseNotFound, StaleFence, SpaceExceeded, without effect.

        Example::

            written = await client.put("color", "red")
            print(written.revision)
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
        answer = await self._perform(Kind.WRITE, operation, size_bytes, timeout)
        return wire.to_put_result(answer.put)

    async def create(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        lease: LeaseLike = None,
        fence: Fences = None,
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key that must not exist. Raises KeyExists, with the pair that is there; else as `put`.

        It is a transaction of one condition: the key has version 0.

        Example::

            try:
                await client.create("owner", "me")
            except KeyExists as conflict:
                print("taken by", conflict.pair.value)
        """
        branch = txns.when(txns.version(key) == 0).then(txns.put(key, value, lease=lease)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, timeout)
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
        timeout: float | None = None,
    ) -> PutResult:
        """Set a key that was last written at `if_revision` (its mod_revision, 1 or more; `create` is for new keys).

        Raises RevisionMismatch, with the pair that is there, or None; else as `put`.

        Example::

            pair = await client.get("color")
            if pair is not None:
                await client.update("color", pair.value.upper(), if_revision=pair.mod_revision)
        """
        branch = _if_unchanged(key, if_revision).then(txns.put(key, value, lease=lease)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, timeout)
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
        timeout: float | None = None,
    ) -> DeleteResult:
        """Remove a key. Returns once the delete is committed; `deleted` is 0 or 1.

        `if_revision`: only if it was last written then (1 or more), else RevisionMismatch is raised, without effect.
        `previous`: return the pair removed, too. Raises StaleFence, without effect.

        Example::

            gone = await client.delete("color", previous=True)
            print(gone.deleted, gone.previous)
        """
        if if_revision is None:
            return await self._delete(one_key(key), fence, previous, timeout)
        branch = _if_unchanged(key, if_revision).then(txns.delete(key, previous=previous)).otherwise(txns.get(key))
        result = await self._commit(branch, fence, timeout)
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
        timeout: float | None = None,
    ) -> DeleteResult:
        """Remove the keys in [start, end), in one revision; `end` None: all from `start` on.

        `previous`: return the pairs removed, too. Raises LimitExceeded, without effect, for more keys than one command
        may remove (5,000), or more than 1 MiB of pairs to return.

        Example::

            await client.delete_range("logs/2025", "logs/2026")
        """
        return await self._delete(between(start, end), fence, previous, timeout)

    async def delete_prefix(
        self, prefix: bytes | str, *, fence: Fences = None, previous: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """Remove the keys that begin with `prefix` (empty: all), in one revision. As `delete_range`.

        Example::

            print((await client.delete_prefix("tmp/")).deleted)
        """
        return await self._delete(under(prefix), fence, previous, timeout)

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
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return a key's pair as it was at `revision` (0: now), or None.

        With `endpoint`, that node is asked and no other, in one attempt: with LOCAL, what it holds itself.
        Raises Compacted, FutureRevision.

        Example::

            pair = await client.get("color")
            print(None if pair is None else pair.value)
        """
        operation = kv_pb2.Operation()
        wire.fill_range(operation.range, one_key(key), revision=revision, level=level)
        return wire.to_pair(await self._read(operation, level, endpoint, timeout))

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
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> RangeResult:
        """Return the pairs in [start, end) at `revision` (0: now); `end` None: all from `start` on.

        One page: at most `limit` pairs (0: no limit), 2,000 and 1 MiB; `more` says whether keys are left. The next page
        is had by the same call with `cursor` and `revision` of the page before (`scan` goes on by itself). Other orders
        than that of the keys, ascending, read the whole range for every page. The bounds of revisions are both
        included; 0: none. `endpoint` as in `get`. Raises Compacted, FutureRevision.

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
        level: ReadLevel = ReadLevel.LINEARIZABLE,
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
            endpoint=endpoint,
            timeout=timeout,
        )

    async def count(
        self,
        prefix: bytes | str = b"",
        *,
        revision: int = 0,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Return how many keys begin with `prefix` (empty: all). `revision`, `endpoint` and errors as in `get`.

        Example::

            print(await client.count("users/"))
        """
        operation = kv_pb2.Operation()
        wire.fill_range(operation.range, under(prefix), revision=revision, count_only=True, level=level)
        return (await self._read(operation, level, endpoint, timeout)).count

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
        level: ReadLevel = ReadLevel.LINEARIZABLE,
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

    async def _commit(self, branch: Branch, fence: Fences, timeout: float | None) -> TxnResult:
        operation, size_bytes, writes = txns.to_request(branch, fence)
        # What writes nothing is asked anew at every attempt, and is never in doubt.
        kind = Kind.WRITE if writes else Kind.READ
        answer = await self._perform(kind, operation, wire.size_estimate() + size_bytes, timeout)
        return txns.to_result(branch, answer.txn)

    async def _delete(self, span: Span, fence: Fences, previous: bool, timeout: float | None) -> DeleteResult:
        operation = kv_pb2.Operation()
        wire.fill_delete(operation.delete, span, previous=previous, fences=fences_of(fence))
        size_bytes = wire.size_estimate() + operation.ByteSize()
        return wire.to_delete_result((await self._perform(Kind.WRITE, operation, size_bytes, timeout)).delete)

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
        level: ReadLevel,
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
            level=level,
            order=order,
            descending=descending,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            cursor=cursor,
        )
        return wire.to_range_result(await self._read(operation, level, endpoint, timeout))

    async def _read(
        self, operation: kv_pb2.Operation, level: ReadLevel, endpoint: str | None, timeout: float | None
    ) -> kv_pb2.RangeResponse:
        if endpoint is not None:
            address = parse_endpoint(endpoint)
            rpc = self._open().connections.get(address).kv.Range(operation.range, timeout=self._seconds(timeout))
            return await answer_of(address, rpc)
        kind = Kind.LOCAL_READ if level == ReadLevel.LOCAL else Kind.READ
        request = operation.range
        size_bytes = wire.size_estimate(request.key, request.range_end, request.cursor)
        return (await self._perform(kind, operation, size_bytes, timeout)).range


def _if_unchanged(key: bytes | str, revision: int) -> Branch:
    if isinstance(revision, bool) or not isinstance(revision, int) or revision < 1:
        raise InvalidArgument(
            f"if_revision is {revision!r}, not the revision of a key (1 or more); create() is for new keys"
        )
    return txns.when(txns.mod_revision(key) == revision)


def _mismatch(key: bytes | str, expected: int, found: object) -> RevisionMismatch:
    return RevisionMismatch(to_bytes(key), expected, found if isinstance(found, KeyValue) else None)
