"""grpc.health.v1: what Kubernetes and load balancers ask. Empty name: the process is alive, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from grpc_health.v1 import health, health_pb2

from raftkv.errors import RaftKVError, ShuttingDown
from raftkv.server.http.health import CONFIRM_S
from raftkv.server.node import Node

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
RETRY_S: Final = 0.1
"""Between two attempts to confirm that a node which has just started has what the leader has."""


async def report_health(
    told: health.aio.HealthServicer,
    node: Node,
    confirm: Callable[[float], Awaitable[None]],
    *,
    always: Sequence[str],
    led: Sequence[str],
) -> None:
    """Keep it true until the node stops. `always` serve while the process lives. `led` serve while a leader is known
    and the data is sound, but not before the node has once had, since it started, what a leader has confirmed: a
    rolling restart goes on to the next node when this one is ready. `confirm` is that of `raftkv.server.http.health`.
    """
    for service in ("", *always):
        await told.set(service, SERVING)
    caught_up = False
    with contextlib.suppress(ShuttingDown):
        while True:
            changed = node.leadership_changed()
            serves = node.leader is not None and node.corruption is None
            if serves and not caught_up:
                caught_up = await _confirmed(confirm)
                serves = caught_up
            for service in led:
                await told.set(service, SERVING if serves else NOT_SERVING)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if caught_up else RETRY_S):
                    await changed


async def _confirmed(confirm: Callable[[float], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(CONFIRM_S):
            await confirm(CONFIRM_S)
    except ShuttingDown:
        raise
    except (RaftKVError, TimeoutError):
        return False
    return True
