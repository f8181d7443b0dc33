"""Connections: one channel for each endpoint, made when it is first needed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import grpc

from raftkv.client.tls import Tls
from raftkv.errors import ConfigurationError
from raftkv.v1 import cluster_pb2_grpc, kv_pb2_grpc, maintenance_pb2_grpc, watch_pb2_grpc

OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    # A node that comes back is found within half a second (by default it takes up to two minutes).
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one also bounds an attempt to connect: a busy machine, or one far away, needs more than 100 ms.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A new channel is a new connection: how to get away from one that is dead without having been closed.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A page of a range or a batch of answers may be larger than the 4 MiB that gRPC allows by default.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


class Connection:
    """A channel to one endpoint, with its stubs."""

    __slots__ = ("channel", "cluster", "kv", "maintenance", "watch")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.kv = kv_pb2_grpc.KVStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterStub(self.channel)
        self.maintenance = maintenance_pb2_grpc.MaintenanceStub(self.channel)
        self.watch = watch_pb2_grpc.WatchStub(self.channel)


class Connections:
    """The open connections of one client."""

    __slots__ = ("_closing", "_credentials", "_open", "_tls")

    def __init__(self, tls: Tls | None = None) -> None:
        """Raises ConfigurationError for files of `tls` that are of no use."""
        self._tls = tls
        self._credentials = None if tls is None else tls.credentials()
        self._open: dict[str, Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, address: str) -> Connection:
        """Return the connection to an endpoint. Making one does not wait for the network."""
        connection = self._open.get(address)
        if connection is None:
            connection = self._open[address] = Connection(self._channel(address))
        return connection

    def discard(self, address: str) -> None:
        """Give up a connection, and all that goes on on it; the next `get` makes a new one."""
        connection = self._open.pop(address, None)
        if connection is not None:
            task = asyncio.ensure_future(connection.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _channel(self, address: str) -> grpc.aio.Channel:
        target = f"dns:///{address}"
        if self._tls is None or self._credentials is None:
            return grpc.aio.insecure_channel(target, options=OPTIONS)
        # The files may have been replaced since. In the middle of that, those of before are as good as a connection
        # that was kept.
        with contextlib.suppress(ConfigurationError):
            self._credentials = self._tls.credentials()
        name = self._tls.server_name
        named = () if name is None else (("grpc.ssl_target_name_override", name),)
        return grpc.aio.secure_channel(target, self._credentials, options=OPTIONS + named)

    async def close(self) -> None:
        """Close them all."""
        for address in tuple(self._open):
            self.discard(address)
        await asyncio.gather(*self._closing)
