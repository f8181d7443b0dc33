"""Promotion of learners that have just joined."""

from __future__ import annotations

import asyncio

from raftkv.client import AsyncClient, MemberKind
from raftkv.errors import FailedPrecondition
from tests.integration.waiting import PATIENCE_S, POLL_S


async def promote(client: AsyncClient, *nodes: int, remove: tuple[int, ...] = ()) -> dict[int, MemberKind]:
    """Promote as soon as the cluster allows it: learners have to catch up first."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                members = await client.promote_members(*nodes, remove=remove)
            except FailedPrecondition as error:
                if "cannot be promoted yet" not in error.message:
                    raise
                await asyncio.sleep(POLL_S)
            else:
                return {member.id: member.kind for member in members}
