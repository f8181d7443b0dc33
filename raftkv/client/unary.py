"""Single calls to one chosen node, beside the pipeline: for questions about that node itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from grpc.aio import AioRpcError

from raftkv.client.wire import to_rpc_error
from raftkv.errors import ConnectionFailed

T = TypeVar("T")


async def answer_of(endpoint: str, rpc: Awaitable[T]) -> T:
    """Return the answer of a unary call to `endpoint`.

    Raises the node's own error where it sent one; else DeadlineExceeded, or ConnectionFailed, both ambiguous.
    """
    try:
        return await rpc
    except AioRpcError as error:
        raise to_rpc_error(endpoint, error) from None
    except asyncio.CancelledError:
        # gRPC raises it too when the server or the closing of the connection cancelled the call. Only when this task
        # is being cancelled is it meant for us.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionFailed(f"{endpoint}: the call was cancelled by the other side", ambiguous=True) from None
