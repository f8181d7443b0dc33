"""The synchronous twin of `aio`: the same names, for code without an event loop."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from raftkv.client.aio import DEFAULT_ATTEMPT_TIMEOUT_S, DEFAULT_TIMEOUT_S, AsyncClient
from raftkv.client.loop_thread import FORKED, LoopThread, shared
from raftkv.client.results import (
    DeleteResult,
    EndpointFailure,
    KeyValue,
    Member,
    PutResult,
    RangeResult,
    ReadLevel,
    StateHash,
    Status,
)
from raftkv.client.spans import Pages
from raftkv.client.urls import endpoints_from_environment
from raftkv.errors import ConfigurationError

T = TypeVar("T")


class Client:
    """A client of one cluster, for any number of threads. Everything is as AsyncClient says, but blocks.

    All clients of a process share one background thread. Calls made by several threads at a time share messages.
    Ctrl-C abandons the call it interrupts. What is still open at exit is closed. Neither a client
    nor gRPC survives a fork: make clients after it. In a child forked later, calls raise ConfigurationError.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> None:
        self._async = AsyncClient(
            endpoints, timeout=timeout, attempt_timeout=attempt_timeout, dial_learned=dial_learned
        )
        self._thread: LoopThread = shared(self._async)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> Self:
        """Make a client from raftkv://h1:7001,h2:7001. Raises ConfigurationError."""
        return cls(url, timeout=timeout, attempt_timeout=attempt_timeout, dial_learned=dial_learned)

    @classmethod
    def from_env(
        cls,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> Self:
        """Make a client from RAFTKV_ENDPOINTS: a URL, or comma-separated. Raises ConfigurationError."""
        found = endpoints_from_environment(os.environ)
        return cls(found, timeout=timeout, attempt_timeout=attempt_timeout, dial_learned=dial_learned)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that were configured."""
        return self._async.endpoints

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(self.endpoints)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. Calls under way in other threads fail with ConnectionFailed. Idempotent."""
        if self._thread.pid == os.getpid():
            self._thread.run(self._async.close())

    def put(self, key: bytes | str, value: bytes | str, *, timeout: float | None = None) -> PutResult:
        """See AsyncClient.put."""
        return self._run(self._async.put(key, value, timeout=timeout))

    def delete(self, key: bytes | str, *, timeout: float | None = None) -> DeleteResult:
        """See AsyncClient.delete."""
        return self._run(self._async.delete(key, timeout=timeout))

    def delete_range(
        self, start: bytes | str, end: bytes | str | None, *, timeout: float | None = None
    ) -> DeleteResult:
        """See AsyncClient.delete_range."""
        return self._run(self._async.delete_range(start, end, timeout=timeout))

    def delete_prefix(self, prefix: bytes | str, *, timeout: float | None = None) -> DeleteResult:
        """See AsyncClient.delete_prefix."""
        return self._run(self._async.delete_prefix(prefix, timeout=timeout))

    def get(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """See AsyncClient.get."""
        return self._run(self._async.get(key, revision=revision, level=level, endpoint=endpoint, timeout=timeout))

    def range(
        self,
        start: bytes | str,
        end: bytes | str | None,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
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
                level=level,
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
        level: ReadLevel = ReadLevel.LINEARIZABLE,
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
                level=level,
                endpoint=endpoint,
                timeout=timeout,
            )
        )

    def count(
        self,
        prefix: bytes | str = b"",
        *,
        revision: int = 0,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """See AsyncClient.count."""
        return self._run(self._async.count(prefix, revision=revision, level=level, endpoint=endpoint, timeout=timeout))

    def scan(
        self,
        prefix: bytes | str = b"",
        *,
        page: int = 1000,
        revision: int = 0,
        keys_only: bool = False,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
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
                level=level,
                timeout=timeout,
            )
            yield from pages.take(found)

    def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """See AsyncClient.status."""
        return self._run(self._async.status(endpoint, timeout=timeout))

    def statuses(self, *, timeout: float | None = None) -> tuple[Status | EndpointFailure, ...]:
        """See AsyncClient.statuses."""
        return self._run(self._async.statuses(timeout=timeout))

    def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """See AsyncClient.members."""
        return self._run(self._async.members(timeout=timeout))

    def add_member(
        self, member_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """See AsyncClient.add_member."""
        return self._run(self._async.add_member(member_id, peer_address, witness=witness, timeout=timeout))

    def promote_members(
        self, *member_ids: int, remove: Iterable[int] = (), timeout: float | None = None
    ) -> tuple[Member, ...]:
        """See AsyncClient.promote_members."""
        return self._run(self._async.promote_members(*member_ids, remove=remove, timeout=timeout))

    def remove_members(self, *member_ids: int, timeout: float | None = None) -> tuple[Member, ...]:
        """See AsyncClient.remove_members."""
        return self._run(self._async.remove_members(*member_ids, timeout=timeout))

    def state_hash(self, endpoint: str, *, timeout: float | None = None) -> StateHash:
        """See AsyncClient.state_hash."""
        return self._run(self._async.state_hash(endpoint, timeout=timeout))

    def transfer_leader(self, target: int = 0, *, timeout: float | None = None) -> None:
        """See AsyncClient.transfer_leader."""
        return self._run(self._async.transfer_leader(target, timeout=timeout))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread.pid != os.getpid():
            work.close()
            raise ConfigurationError(FORKED)
        return self._thread.run(work)
