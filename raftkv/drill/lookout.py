"""Looks at every node, again and again, and notes what each says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from raftkv.client import AsyncClient, Status
from raftkv.client import Role as NodeRole
from raftkv.drill.measure.record import Record, Role, Sight
from raftkv.errors import RaftKVError

EVERY_S: Final = 0.02
"""Between two looks at a node, and so about how late anything is noticed."""
ANSWER_S: Final = 1.0

_ROLES: Final = {
    NodeRole.LEADER: Role.LEADER,
    NodeRole.CANDIDATE: Role.CANDIDATE,
    NodeRole.PRE_CANDIDATE: Role.CANDIDATE,
}


class Lookout:
    """Looks while the block runs."""

    def __init__(
        self, client: AsyncClient, endpoints: Mapping[int, str], record: Record, clock: Callable[[], float]
    ) -> None:
        """`endpoints`: of the members, by id. The client should be one that nothing else waits for."""
        self._client = client
        self._endpoints = endpoints
        self._record = record
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._look(*one)) for one in self._endpoints.items()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, node: int, endpoint: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            try:
                status = await self._client.status(endpoint, timeout=ANSWER_S)
            except RaftKVError:
                pass  # a node that is away says nothing: that is what there is to be seen
            else:
                if status.member_id == node:
                    self._record.sights.append(sight_of(status, self._clock()))
            await asyncio.sleep(max(due - loop.time(), 0.0))


def sight_of(status: Status, at: float) -> Sight:
    """Return what a status shows."""
    return Sight(
        at=at,
        node=status.member_id,
        role=_ROLES.get(status.role, Role.FOLLOWER),
        term=status.term,
        leader=status.leader_id,
        commit=status.commit_index,
        applied=status.applied_index,
    )
