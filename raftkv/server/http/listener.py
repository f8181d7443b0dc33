"""The connections of the HTTP server, bounded in number, time and size: no client of it can hurt the node.

Every connection serves one request and has `LIFETIME_S` for all of it: handshake, request, answer. Where there are too
many, the oldest ends: who asks now, a probe that is through in milliseconds, comes before whoever holds on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from aiohttp import web

from raftkv.errors import ConfigurationError
from raftkv.server.http.tls import Contexts

log = structlog.get_logger("raftkv.http")

LIFETIME_S: Final = 10.0
MAX_CONNECTIONS: Final = 64
MAX_LINE_BYTES: Final = 4096
MAX_HEADERS: Final = 64
MAX_PER_S: Final = 50
"""Connections begun in a second, and as many in a burst; the kernel keeps the others waiting. A handshake of TLS is
work for the loop that heartbeats run on."""
ACCEPT_RETRY_S: Final = 0.5
"""After a connection that could not be taken, because the process has no file descriptor left, say."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Protocol(web.RequestHandler):
    """One connection, as aiohttp speaks HTTP on it."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what went wrong here."""
        if status >= 500:
            log.error("an HTTP request failed", path=request.path, exc_info=exc)
        else:
            log.debug("no HTTP request", remote=request.remote, problem=message)
        response = web.Response(status=status, text=f"{message or 'the node could not answer: see its log'}\n")
        response.force_close()
        return response


class _Web(web.Server):
    """Makes the protocols, and tells when their connections are gone."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.gone: dict[web.RequestHandler, asyncio.Future[None]] = {}

    def __call__(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        protocol = _Protocol(
            self,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to have none
            keepalive_timeout=LIFETIME_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=0,
        )
        self.gone[protocol] = loop.create_future()
        return protocol

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        gone = self.gone.get(handler)
        if gone is not None and not gone.done():
            gone.set_result(None)


class Listener:
    """Takes connections on one address."""

    def __init__(self, sockets: list[socket.socket], handler: Handler, contexts: Contexts) -> None:
        self._sockets = sockets
        self._contexts = contexts
        self._web = _Web(handler)
        self._accepting: list[asyncio.Task[None]] = []
        self._open: dict[asyncio.Task[None], None] = {}
        """Oldest first."""

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._open)

    def start(self) -> None:
        self._accepting = [asyncio.create_task(self._accept(one), name="raftkv-http") for one in self._sockets]

    async def close(self) -> None:
        """End all connections at once."""
        tasks = [*self._accepting, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in self._sockets:
            one.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        while True:
            free_at = max(free_at, loop.time() - 1) + 1 / MAX_PER_S
            if (wait_s := free_at - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("an HTTP connection could not be taken", problem=str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._open) >= MAX_CONNECTIONS:
                next(iter(self._open)).cancel()
            task = asyncio.create_task(self._serve(connection))
            self._open[task] = None
            task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        protocol = self._web()
        transport: asyncio.BaseTransport | None = None
        try:
            context = self._contexts()
            limits: dict[str, Any] = {} if context is None else {"ssl": context, "ssl_handshake_timeout": LIFETIME_S}
            # A handshake that fails, a client that is too slow or gone: its own business.
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(LIFETIME_S):
                    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                        lambda: protocol, connection, **limits
                    )
                    await self._web.gone[protocol]
        finally:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            connection.close()
            del self._web.gone[protocol]


@asynccontextmanager
async def listening(address: str, handler: Handler, contexts: Contexts) -> AsyncIterator[Listener]:
    """Serve `handler` at `address` for the length of the block. Raises ConfigurationError."""
    listener = Listener(await _bind(address), handler, contexts)
    listener.start()
    try:
        yield listener
    finally:
        await listener.close()


async def _bind(address: str) -> list[socket.socket]:
    host, _, port = address.rpartition(":")
    found: list[socket.socket] = []
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, where in dict.fromkeys(infos):
            one = socket.create_server(where[:2], family=family, backlog=MAX_CONNECTIONS)
            found.append(one)
            one.setblocking(False)
    except OSError as error:
        for one in found:
            one.close()
        raise ConfigurationError(
            f"cannot listen on {address} (for HTTP): the port is in use, or the address is not this machine's"
        ) from error
    return found
