"""Calls about keys and values, for code without an event loop."""

from __future__ import annotations

from collections.abc import Iterator

from raftkv.client.committing import AsyncTxn, Txn
from raftkv.client.levels import Concern, Fallback, Level
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
from raftkv.client.spans import Pages
from raftkv.client.sync_core import SyncCore
from raftkv.client.tokens import Fences
from raftkv.client.txn import Branch
from raftkv.client.wire_lease import LeaseLike


class SyncKeyValueCalls(SyncCore):
    """The twin of KeyValueCalls."""

    def put(
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
        """See AsyncClient.put."""
        return self._run(
            self._async.put(key, value, lease=lease, fence=fence, previous=previous, concern=concern, timeout=timeout)
        )

    def create(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        lease: LeaseLike = None,
        fence: Fences = None,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> PutResult:
        """See AsyncClient.create."""
        return self._run(self._async.create(key, value, lease=lease, fence=fence, concern=concern, timeout=timeout))

    def update(
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
        """See AsyncClient.update."""
        return self._run(
            self._async.update(
                key, value, if_revision=if_revision, lease=lease, fence=fence, concern=concern, timeout=timeout
            )
        )

    def delete(
        self,
        key: bytes | str,
        *,
        if_revision: int | None = None,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """See AsyncClient.delete."""
        return self._run(
            self._async.delete(
                key, if_revision=if_revision, fence=fence, previous=previous, concern=concern, timeout=timeout
            )
        )

    def delete_range(
        self,
        start: bytes | str,
        end: bytes | str | None,
        *,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """See AsyncClient.delete_range."""
        return self._run(
            self._async.delete_range(start, end, fence=fence, previous=previous, concern=concern, timeout=timeout)
        )

    def delete_prefix(
        self,
        prefix: bytes | str,
        *,
        fence: Fences = None,
        previous: bool = False,
        concern: Concern = None,
        timeout: float | None = None,
    ) -> DeleteResult:
        """See AsyncClient.delete_prefix."""
        return self._run(
            self._async.delete_prefix(prefix, fence=fence, previous=previous, concern=concern, timeout=timeout)
        )

    def compact(self, revision: int, *, timeout: float | None = None) -> int:
        """See AsyncClient.compact."""
        return self._run(self._async.compact(revision, timeout=timeout))

    def get(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """See AsyncClient.get."""
        return self._run(
            self._async.get(key, revision=revision, level=level, fallback=fallback, endpoint=endpoint, timeout=timeout)
        )

    def read(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> ReadResult:
        """See AsyncClient.read."""
        return self._run(
            self._async.read(key, revision=revision, level=level, fallback=fallback, endpoint=endpoint, timeout=timeout)
        )

    def range(
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
        """See AsyncClient.range."""
        return self._run(
            self._async.range(
                start,
                end,
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
        )

    def prefix(
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
        """See AsyncClient.prefix."""
        return self._run(
            self._async.prefix(
                prefix,
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
        )

    def count(
        self,
        prefix: bytes | str = b"",
        *,
        revision: int = 0,
        level: Level = ReadLevel.LINEARIZABLE,
        fallback: Fallback = None,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> Count:
        """See AsyncClient.count."""
        return self._run(
            self._async.count(
                prefix, revision=revision, level=level, fallback=fallback, endpoint=endpoint, timeout=timeout
            )
        )

    def scan(
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
    ) -> Iterator[KeyValue]:
        """See AsyncClient.scan."""
        pages = Pages(prefix, page, revision)
        while not pages.done:
            found = self.range(
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
            yield from pages.take(found)

    def txn(self) -> Txn:
        """See AsyncClient.txn."""
        return Txn(self._commit)

    def _commit(self, branch: Branch, fence: Fences, concern: Concern, timeout: float | None) -> TxnResult:
        return self._run(AsyncTxn(self._async._commit, branch).commit(fence=fence, concern=concern, timeout=timeout))
