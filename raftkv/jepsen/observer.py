"""Who leads, as the nodes themselves say: asked all the time, around the proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from raftkv.client import AsyncClient, Role
from raftkv.errors import RaftKVError
from raftkv.jepsen.recorder import Recorder

INTERVAL_S: Final = 0.1
PATIENCE_S: Final = 1.0


class Observer:
    """Asks every node, until it is cancelled, and remarks every leader of a term that it has not seen before."""

    def __init__(self, client: AsyncClient, recorder: Recorder) -> None:
        self._client = client
        self._recorder = recorder
        self.leaders: dict[int, set[int]] = {}
        """Of each term that was seen: the nodes that said they lead it."""
        self.current: tuple[int, int] | None = None
        """(node, term) of the leader of the highest term."""

    async def watch(self, endpoints: Callable[[], Iterable[str]]) -> None:
        """Ask the nodes at these addresses for ever, also those that come later."""
        known: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                for endpoint in endpoints():
                    if endpoint not in known:
                        known.add(endpoint)
                        tasks.create_task(self._watch_one(endpoint))
                await asyncio.sleep(INTERVAL_S)

    async def _watch_one(self, endpoint: str) -> None:
        while True:
            try:
                status = await self._client.status(endpoint, timeout=PATIENCE_S)
            except RaftKVError:
                pass  # it is down, paused or busy: that is what the faults are for
            else:
                if status.role is Role.LEADER:
                    self.saw(status.member_id, status.term)
            await asyncio.sleep(INTERVAL_S)

    def saw(self, node: int, term: int) -> None:
        """Note that a node says it leads a term."""
        known = self.leaders.setdefault(term, set())
        if node in known:
            return
        known.add(node)
        self._recorder.remark("cluster", "leader", {"node": node, "term": term})
        if self.current is None or term >= self.current[1]:
            self.current = (node, term)
