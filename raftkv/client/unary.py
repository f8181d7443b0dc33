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
        # gRPC raises it too in a call whose connection is closed, as that of a node that fell silent. It is meant for
        # this task only if this task is being cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionFailed(
            f"{endpoint}: the connection was given up while the call was under way", ambiguous=True
        ) from None
