"""Changes that a cluster allows as soon as its members have caught up, and have been heard from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from raftkv.client import AsyncClient, MemberKind
from raftkv.errors import FailedPrecondition
from tests.integration.waiting import PATIENCE_S, POLL_S

T = TypeVar("T")


async def promote(client: AsyncClient, *nodes: int, remove: tuple[int, ...] = ()) -> dict[int, MemberKind]:
    """Promote as soon as the cluster allows it: learners have to catch up first."""
    members = await _allowed(lambda: client.promote_members(*nodes, remove=remove), "cannot be promoted yet")
    return {member.id: member.kind for member in members}


async def hand_over(client: AsyncClient, node: int) -> None:
    """Let a node lead as soon as the cluster allows it: its leader has to have heard from it."""
    await _allowed(lambda: client.transfer_leader(node), "has not answered the leader")


async def _allowed(change: Callable[[], Awaitable[T]], not_yet: str) -> T:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await change()
            except FailedPrecondition as error:
                if not_yet not in error.message:
                    raise
                await asyncio.sleep(POLL_S)
