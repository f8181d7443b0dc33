"""Calls that only the leader can answer, wherever they come in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc

from raftkv.errors import LeaderChanged, NoLeader
from raftkv.server.node import Node
from raftkv.server.services.status import error_of
from raftkv.transport.calls import unless_cancelled
from raftkv.transport.grpc_peer import GrpcTransport

if TYPE_CHECKING:
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

T = TypeVar("T")


async def on_leader(
    node: Node,
    transport: GrpcTransport,
    *,
    here: Callable[[], Awaitable[T]],
    there: Callable[[PeerAsyncStub], Awaitable[T]],
) -> T:
    """Answer `here` when this node leads, else ask the leader over the peer channel (`there`), once.

    Raises what the leader raised, NoLeader (no effect), and LeaderChanged (ambiguous) when it did not answer.
    """
    leader = node.leader
    if node.is_leader:
        return await here()
    if leader is None:
        raise NoLeader("no leader is known: an election, or no majority")
    stub = transport.stub(leader)
    if stub is None:
        raise NoLeader(f"no way to leader {leader} is known")
    try:
        return await unless_cancelled(there(stub))
    except grpc.aio.AioRpcError as failure:
        error = error_of(failure)
        if error is None:
            error = LeaderChanged(f"leader {leader} did not answer: {failure.details()}", ambiguous=True)
        raise error from None
