"""A client of one node without any of the client library's help: raw stubs, and what an error of theirs says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio
from grpc_status import rpc_status

from raftkv.v1 import common_pb2
from raftkv.v1.cluster_pb2_grpc import ClusterStub
from raftkv.v1.kv_pb2_grpc import KVStub
from raftkv.v1.lease_pb2_grpc import LeaseStub
from raftkv.v1.lock_pb2_grpc import LockStub
from raftkv.v1.peer_pb2_grpc import PeerStub

if TYPE_CHECKING:
    from raftkv.v1.cluster_pb2_grpc import ClusterAsyncStub
    from raftkv.v1.kv_pb2_grpc import KVAsyncStub
    from raftkv.v1.lease_pb2_grpc import LeaseAsyncStub
    from raftkv.v1.lock_pb2_grpc import LockAsyncStub
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 << 20),
)


@dataclass(frozen=True, slots=True)
class Stubs:
    """One connection, spoken to as a client and as a peer; a node answers either at one of its addresses only."""

    channel: grpc.aio.Channel
    kv: KVAsyncStub
    cluster: ClusterAsyncStub
    peer: PeerAsyncStub
    lease: LeaseAsyncStub
    lock: LockAsyncStub


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Stubs(
            channel, KVStub(channel), ClusterStub(channel), PeerStub(channel), LeaseStub(channel), LockStub(channel)
        )


def detail_of(error: grpc.aio.AioRpcError) -> common_pb2.Error | None:
    """Return raftkv's own account of an error; None when it is gRPC's, such as a deadline of the caller's."""
    status = rpc_status.from_call(error)
    if status is None:
        return None
    found = common_pb2.Error()
    return found if any(detail.Unpack(found) for detail in status.details) else None
