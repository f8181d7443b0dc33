"""What grpc.health.v1 says of a node that starts, catches up, and loses its leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from raftkv.errors import ShuttingDown, TooStale
from raftkv.server.grpc_health import NOT_SERVING, SERVING, report_health
from tests.integration.waiting import until


class FakeNode:
    """A node, and what is asked of it."""

    def __init__(self) -> None:
        self.leader: int | None = None
        self.corruption: object = None
        self.behind = True
        self.asked = 0
        self.told: dict[str, int] = {}
        self._changed = asyncio.get_running_loop().create_future()
        self._stopped = False

    def leadership_changed(self) -> asyncio.Future[None]:
        if self._stopped:
            raise ShuttingDown("the node stops")
        return asyncio.shield(self._changed)

    def change(self, leader: int | None, *, stopped: bool = False) -> None:
        self.leader, self._stopped = leader, stopped
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)

    async def confirm(self, _timeout_s: float) -> None:
        self.asked += 1
        if self.behind:
            raise TooStale("it has not caught up")

    async def set(self, service: str, status: int) -> None:
        self.told[service] = status


@asynccontextmanager
async def reported() -> AsyncIterator[FakeNode]:
    node = FakeNode()
    servicer = cast("Any", node)
    task = asyncio.create_task(report_health(servicer, servicer, node.confirm, always=["cluster"], led=["kv"]))
    try:
        yield node
    finally:
        node.change(None, stopped=True)
        await task


async def test_a_node_that_has_started_serves_when_it_has_caught_up_and_not_as_soon_as_it_knows_a_leader() -> None:
    async with reported() as node:
        await until("the first report", lambda: "kv" in node.told)
        assert node.told == {"": SERVING, "cluster": SERVING, "kv": NOT_SERVING}
        node.change(leader=2)
        await until("it was asked twice", lambda: node.asked >= 2)
        assert node.told["kv"] == NOT_SERVING, "the next node of a rolling restart would be stopped now"
        node.behind = False
        await until("it serves", lambda: node.told["kv"] == SERVING)


async def test_once_it_has_caught_up_a_leader_is_enough() -> None:
    async with reported() as node:
        node.behind = False
        node.change(leader=2)
        await until("it serves", lambda: node.told.get("kv") == SERVING)
        asked = node.asked
        node.change(leader=None)
        await until("it does not", lambda: node.told["kv"] == NOT_SERVING)
        assert node.told[""] == SERVING, "it is alive without a leader"
        node.change(leader=3)
        await until("it serves again", lambda: node.told["kv"] == SERVING)
        assert node.asked == asked


async def test_data_that_is_in_doubt_does_not_serve() -> None:
    async with reported() as node:
        node.behind, node.corruption = False, "another state"
        node.change(leader=2)
        await until("a report", lambda: "kv" in node.told)
        assert node.told["kv"] == NOT_SERVING
        assert node.asked == 0
