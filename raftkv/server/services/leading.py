"""Calls that only the leader can answer, wherever they come in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from raftkv.errors import FailedPrecondition, NoLeader
from raftkv.server import wire
from raftkv.server.node import Node
from raftkv.server.services.status import abort
from raftkv.transport.grpc_peer import GrpcTransport

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

T = TypeVar("T")


async def on_leader(
    node: Node,
    transport: GrpcTransport,
    context: grpc.aio.ServicerContext[Any, Any],
    *,
    here: Callable[[], Awaitable[T]],
    there: Callable[[PeerAsyncStub], Awaitable[T]],
) -> T:
    """Answer `here` when this node leads, else ask the leader over the peer channel (`there`), once."""
    leader = node.leader
    if node.is_leader:
        return await here()
    if leader is None:
        await abort(context, wire.to_error(NoLeader("no leader is known: an election, or no majority")))
    stub = transport.stub(leader)
    if stub is None:
        await abort(context, wire.to_error(NoLeader(f"no way to leader {leader} is known")))
    try:
        return await there(stub)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            await abort(context, wire.to_error(FailedPrecondition(error.details() or "refused by the leader")))
        unreachable = NoLeader(f"leader {leader} could not be reached: {error.details()}", ambiguous=True)
        await abort(context, wire.to_error(unreachable))
