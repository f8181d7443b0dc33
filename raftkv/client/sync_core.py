"""What every call of the synchronous client stands on: its asynchronous twin, and the loop on which that one runs."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from raftkv.client.aio import AsyncClient
from raftkv.client.core import DEFAULT_ATTEMPT_TIMEOUT_S, DEFAULT_TIMEOUT_S
from raftkv.client.levels import ReadFrom
from raftkv.client.loop_thread import FORKED, LoopThread, shared
from raftkv.client.receipts import ReadToken
from raftkv.client.routing import EndpointState
from raftkv.client.tls import Tls, tls_from_environment
from raftkv.client.urls import endpoints_from_environment
from raftkv.errors import ConfigurationError

T = TypeVar("T")


class SyncCore:
    """A synchronous client without its calls."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
        read_from: ReadFrom = ReadFrom.LEADER,
        monotonic: bool = True,
        tls: Tls | None = None,
    ) -> None:
        self._async = AsyncClient(
            endpoints,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            dial_learned=dial_learned,
            read_from=read_from,
            monotonic=monotonic,
            tls=tls,
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
        read_from: ReadFrom = ReadFrom.LEADER,
        monotonic: bool = True,
        tls: Tls | None = None,
    ) -> Self:
        """Make a client from raftkv://h1:7001,h2:7001, or raftkvs:// for TLS. Raises ConfigurationError."""
        return cls(
            url,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            dial_learned=dial_learned,
            read_from=read_from,
            monotonic=monotonic,
            tls=tls,
        )

    @classmethod
    def from_env(
        cls,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
        read_from: ReadFrom = ReadFrom.LEADER,
        monotonic: bool = True,
        tls: Tls | None = None,
    ) -> Self:
        """Make a client from RAFTKV_ENDPOINTS: a URL, or comma-separated. Raises ConfigurationError.

        Unless `tls` is given, RAFTKV_CACERT, RAFTKV_CERT, RAFTKV_KEY and RAFTKV_TLS_SERVER_NAME say what it would.
        """
        found = endpoints_from_environment(os.environ)
        tls = tls_from_environment(os.environ) if tls is None else tls
        return cls(
            found,
            timeout=timeout,
            attempt_timeout=attempt_timeout,
            dial_learned=dial_learned,
            read_from=read_from,
            monotonic=monotonic,
            tls=tls,
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that were configured."""
        return self._async.endpoints

    @property
    def tls(self) -> Tls | None:
        """See AsyncClient.tls."""
        return self._async.tls

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._async.closed

    @property
    def token(self) -> ReadToken | None:
        """See AsyncClient.token."""
        return self._async.token

    def endpoint_states(self) -> tuple[EndpointState, ...]:
        """See AsyncClient.endpoint_states."""
        return self._run(self._states())

    async def _states(self) -> tuple[EndpointState, ...]:
        return self._async.endpoint_states()

    def seen(self, token: ReadToken | None) -> None:
        """See AsyncClient.seen."""
        self._run(self._take_over(token))

    async def _take_over(self, token: ReadToken | None) -> None:
        self._async.seen(token)  # on the loop, where answers are heard as well

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

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread.pid != os.getpid():
            work.close()
            raise ConfigurationError(FORKED)
        return self._thread.run(work)
