"""Waiting that ends when another node leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

from raftkv.raft import NodeId
from raftkv.server.node import Node

T = TypeVar("T")


async def another_leader(node: Node, leader: NodeId | None, term: int, until: float) -> bool:
    """Wait until there is a leader, and not the one of before. Return False when it is `until` (event loop time)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while node.leader is None or (node.leader, node.raft.term) == (leader, term):
                await node.leadership_changed()
            return True
    return False


async def unless_replaced(node: Node, leader: NodeId, answer: Awaitable[T], *, watch: bool = True) -> T | None:
    """Return what `leader` answers; stop waiting for one that has been replaced (None). With `watch` off, just wait."""
    call = asyncio.ensure_future(answer)
    try:
        while watch and not call.done() and node.leader == leader:
            changed = node.leadership_changed()
            either: set[asyncio.Future[Any]] = {call, changed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if watch and not call.done():
            return None
        return await call
    finally:
        call.cancel()
