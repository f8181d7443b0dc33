"""However a drill ends, what it did is put right, and its keys are gone."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from raftkv.client import AsyncClient
from raftkv.drill.drill import Drill, Plan
from raftkv.drill.measure.record import How
from tests.drill.fake import FakeClient, FakeCluster
from tests.integration.waiting import until


class Noted:
    """A fault that does nothing, and notes that it was begun and ended."""

    text = "nothing"

    def __init__(self) -> None:
        self.done: list[str] = []

    async def aim(self, how: How, node: int, endpoint: str) -> Noted:
        return self

    async def begin(self) -> None:
        self.done.append("begun")

    async def end(self) -> None:
        self.done.append("ended")


def drill(cluster: FakeCluster, fault: Noted, patience_s: float) -> Drill:
    plan = Plan(how=How.PAUSE, times=1, rate=2000, patience_s=patience_s)
    return Drill(plan, lambda: cast(AsyncClient, FakeClient(cluster)), fault, "run", lambda _: None)


async def test_interrupted_in_a_fault() -> None:
    cluster, fault, told = FakeCluster(), Noted(), list[str]()
    playing = asyncio.create_task(drill(cluster, fault, 60.0).play(lambda: told.append("unwinding")))
    await until("the fault", lambda: fault.done == ["begun"])
    assert cluster.pairs
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert fault.done == ["begun", "ended"]
    assert told
    assert cluster.pairs == {}


async def test_interrupted_with_a_write_in_flight_nothing_is_left() -> None:
    cluster, fault = FakeCluster(), Noted()
    playing = asyncio.create_task(drill(cluster, fault, 60.0).play())
    await until("the fault", lambda: fault.done == ["begun"])
    cluster.write_s = 0.2
    await until("writes that take long", lambda: len(cluster.applying) >= 4)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    await until("the end of all writes", lambda: not cluster.applying)
    assert cluster.pairs == {}


async def test_a_fault_that_brings_no_new_leader_is_ended_too() -> None:
    cluster, fault = FakeCluster(), Noted()
    result = await drill(cluster, fault, 0.5).play()
    assert fault.done == ["begun", "ended"]
    assert not result.passed
    assert "round 1: not after 0.5 s: another leader" in result.problems
    assert cluster.pairs == {}
