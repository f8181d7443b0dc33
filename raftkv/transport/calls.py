"""Unary calls to peers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc

T = TypeVar("T")


async def unless_cancelled(rpc: Awaitable[T]) -> T:
    """Return what `rpc` does. Raises AioRpcError where gRPC raises CancelledError and nobody cancels this task.

    It does so when the channel is closed under a call, as that to a node which has left the cluster.
    """
    try:
        return await rpc
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise unavailable("the connection was closed while the call was under way") from None


def unavailable(details: str) -> grpc.aio.AioRpcError:
    """Return the failure of a call that found nobody."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
