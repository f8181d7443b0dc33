"""What every call of the client stands on: its endpoints and timeouts, and one way to get an operation answered."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from raftkv.client.batches import RENEWALS
from raftkv.client.calls import COMMON, Call, Kind
from raftkv.client.dispatcher import Dispatcher
from raftkv.client.keeper import Keeper
from raftkv.client.levels import ReadFrom
from raftkv.client.receipts import ReadToken
from raftkv.client.routing import EndpointState
from raftkv.client.seen import Seen
from raftkv.client.tls import Tls, tls_from_environment
from raftkv.client.urls import asks_for_tls, endpoints_from_environment, parse_endpoints
from raftkv.errors import ConnectionFailed, InvalidArgument, WrongEventLoop
from raftkv.v1 import kv_pb2

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_ATTEMPT_TIMEOUT_S: Final = 1.0
_WRONG_LOOP: Final = (
    "an AsyncClient belongs to the event loop of its first call, and this is another one: make one client per loop "
    "(and per asyncio.run), or use the blocking raftkv.client.Client, which any thread may use"
)
_MAX_TIMEOUT_S: Final = 86_400.0


class ClientCore:
    """A client without its calls: opened at the first of them, closed once."""

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
        """`endpoints`: "raftkv://h1:7001,h2:7001", "h1:7001,h2:7001" or a list of "host:port".

        `attempt_timeout`: seconds of silence after which a node counts as gone and its calls move to another.
        `dial_learned`: connect to a leader that is not among `endpoints` under the address it announces.
        `read_from`: NEAREST sends reads to the endpoint that answers soonest.
        `monotonic`: reads of whatever level see this client's own writes and never go back in time, on any node: those
        that allow an earlier state wait until it has what the client has seen (`token`).
        `tls`: speak TLS, as a URL raftkvs:// does too, then with the authorities that this machine trusts.
        Raises ConfigurationError when `endpoints` is malformed or a file of `tls` of no use, InvalidArgument for a
        timeout out of range.
        """
        self._dispatcher: Dispatcher | None = None
        self._endpoints = parse_endpoints(endpoints)
        self._tls = Tls() if tls is None and asks_for_tls(endpoints) else tls
        if self._tls is not None:
            self._tls.credentials()  # what is wrong with its files is said here
        self._timeout = checked_timeout(timeout)
        self._attempt_timeout = checked_timeout(attempt_timeout)
        self._dial_learned = dial_learned
        if not isinstance(read_from, ReadFrom):
            raise InvalidArgument(f"read_from is {read_from!r}, not one of ReadFrom (LEADER, NEAREST)")
        self._read_from = read_from
        self._monotonic = monotonic
        self._seen = Seen()
        self._closing = self._closed = False
        self._keeper: Keeper | None = None

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
        """Make a client from raftkv://h1:7001,h2:7001, or raftkvs:// for TLS. Raises ConfigurationError.

        Example::

            async with AsyncClient.from_url("raftkv://10.0.0.1:7001,10.0.0.2:7001") as client:
                await client.put("color", "red")
        """
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

        Example::

            async with AsyncClient.from_env() as client:
                await client.put("color", "red")
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
        return self._endpoints

    @property
    def tls(self) -> Tls | None:
        """What it was told of TLS; None: it speaks plain text."""
        return self._tls

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    @property
    def token(self) -> ReadToken | None:
        """What this client has seen so far, its own writes included; None: nothing yet.

        A read that carries it (`AtLeast(token)`), of this client or another, shows no earlier state.
        """
        return self._seen.newest

    def endpoint_states(self) -> tuple[EndpointState, ...]:
        """Return what this client knows of its endpoints: the circuit breaker of each, failures, latency.

        Asks nobody. Empty before the first call.

        Example::

            for one in client.endpoint_states():
                print(one.endpoint, one.breaker.value, one.failures, one.last_error)
        """
        dispatcher = self._dispatcher
        return () if dispatcher is None else dispatcher.router.states(dispatcher.loop.time())

    def seen(self, token: ReadToken | None) -> None:
        """Take over what another client has seen (`token`): from now on this one shows nothing earlier either.

        None, the token of a client that has seen nothing, changes nothing. Raises ClusterMismatch for the token of
        another cluster than this client talks to.

        Example::

            async with AsyncClient(client.endpoints) as other:
                await other.put("color", "red")
                client.seen(other.token)
            await client.get("color", level=ReadLevel.LOCAL)
        """
        if token is not None:
            self._seen.take_over(token)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(self._endpoints)!r})"

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # The constructor may have failed before it set anything. A forked child has a copy that was never its own.
        dispatcher = getattr(self, "_dispatcher", None)
        if dispatcher is not None and not self._closed and dispatcher.pid == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    async def close(self) -> None:
        """Disconnect. Calls under way fail with ConnectionFailed. Idempotent.

        Leases and locks that are still held are lost to their holders at once, and to the store when their ttl is over.

        Example::

            client = AsyncClient.from_env()
            try:
                await client.put("color", "red")
            finally:
                await client.close()
        """
        try:
            self._check_loop()
        except WrongEventLoop:
            if self._closed:
                return
            raise
        self._closing = True
        if self._keeper is not None and not self._closed:
            await self._keeper.close()
        self._closed = True
        if self._dispatcher is not None:
            await self._dispatcher.close()

    async def _perform(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None
    ) -> kv_pb2.OperationResult:
        lane = RENEWALS if operation.HasField("lease_keep_alive") else COMMON
        return (await self._call(kind, operation, size_bytes, timeout, lane)).future.result()

    async def _call(
        self,
        kind: Kind,
        operation: kv_pb2.Operation,
        size_bytes: int,
        timeout: float | None,
        lane: int = COMMON,
    ) -> Call:
        """Return the operation when it is answered, with its receipt. Raises what its future has."""
        dispatcher = self._dispatcher
        if dispatcher is None or self._closed or dispatcher.loop is not asyncio.get_running_loop():
            dispatcher = self._open()  # or it tells what is wrong
        seconds = self._timeout if timeout is None else checked_timeout(timeout)
        call = dispatcher.start(kind, operation, size_bytes, seconds, lane)
        try:
            await call.future
        except asyncio.CancelledError:
            dispatcher.abandon(call)
            raise
        return call

    def _kept_leases(self) -> Keeper:
        if self._closing:
            raise ConnectionFailed("the client is closed")
        self._check_loop()
        if self._keeper is None:
            self._keeper = Keeper(self._perform, self._timeout)
        return self._keeper

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)

    def _open(self) -> Dispatcher:
        dispatcher = self._dispatcher
        if self._closed:
            raise ConnectionFailed("the client is closed")
        if dispatcher is None:
            dispatcher = self._dispatcher = Dispatcher(
                self._endpoints,
                asyncio.get_running_loop(),
                timeout=self._timeout,
                attempt_timeout=self._attempt_timeout,
                dial_learned=self._dial_learned,
                seen=self._seen,
                nearest=self._read_from is ReadFrom.NEAREST,
                tls=self._tls,
            )
            dispatcher.open()
        else:
            self._check_loop()
        return dispatcher

    def _check_loop(self) -> None:
        # A call from elsewhere would hang, or break what the calls of its own loop stand on.
        dispatcher = self._dispatcher
        if dispatcher is not None and dispatcher.loop is not asyncio.get_running_loop():
            raise WrongEventLoop(_WRONG_LOOP)


def checked_timeout(seconds: float) -> float:
    """Return a timeout. Raises InvalidArgument unless it is more than 0 and at most one day."""
    if not 0 < seconds <= _MAX_TIMEOUT_S:
        raise InvalidArgument(f"a timeout is {seconds!r} s, not more than 0 and at most {_MAX_TIMEOUT_S:g}")
    return seconds
