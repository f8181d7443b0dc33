"""What a run ends with is insisted on: a workload that was not answered in the end says so."""

from __future__ import annotations

import asyncio
import random

import pytest

from raftkv.client import AsyncClient
from raftkv.client.calls import COMMON, Call, Kind
from raftkv.errors import ConnectionFailed
from raftkv.jepsen.recorder import Recorder
from raftkv.jepsen.worker import Pace, Worker
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads import WORKLOADS, common
from raftkv.jepsen.workloads.lease import Lease
from raftkv.jepsen.workloads.watch import Watch
from raftkv.v1 import kv_pb2
from tests.jepsen.driving import setting
from tests.jepsen.fake_store import FakeClient, FakeStore


class Unreachable(FakeClient):
    """What it asks for is never answered."""

    async def _call(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None, lane: int = COMMON
    ) -> Call:
        raise ConnectionFailed("no node can be reached")


async def finish(workload: Workload, client: AsyncClient) -> str:
    """Finish as the runner does; return what was not answered."""
    pace, rng = Pace(1e9, asyncio.Event()), random.Random(1)
    worker = Worker(-1, workload.name, client=client, recorder=Recorder(), pace=pace, rng=rng)
    with pytest.raises(TimeoutError) as told:
        async with asyncio.timeout(20.0):
            await workload.finish(worker)
    return str(told.value)


ASKED = {
    "register": "a last read of r0",
    "set": "a last read of set0",
    "append": "a last read of l0, l1, l2, l3",
    "bank": "a last read of all accounts",
    "lock": "a last read of the counter",
    "election": "who leads in the end",
    "lease": "that k1 is gone with its lease",
    "watch": "a last write",
    "sessions": "a last read of s0",
    "quorum": "a last read of q0",
    "probe": "a last read",
}


@pytest.mark.parametrize("name", WORKLOADS)
async def test_a_last_question_without_an_answer_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PATIENCE_S", 0.01)
    workload = WORKLOADS[name](setting(name, workers=3))
    if isinstance(workload, Lease):
        workload.present["k1"] = None
    text = await finish(workload, Unreachable(FakeStore(seed=1)))
    assert text == f"not within 0.01 s: {ASKED[name]}"


async def test_a_watcher_that_is_not_told_everything_in_the_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PATIENCE_S", 0.01)
    workload = Watch(setting("watch", workers=3))
    workload.through[1] = 0
    text = await finish(workload, FakeStore(seed=1).client())  # there is no node to watch at
    assert text.endswith("that watcher 1 is told everything up to revision 2")
