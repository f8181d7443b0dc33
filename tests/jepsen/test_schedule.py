"""Faults come, are proven, and go; whatever happens none is left on."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from raftkv.jepsen import schedule
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.recorder import Recorder
from raftkv.jepsen.schedule import Schedule
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import ClusterError


class Pretended(Nemesis):
    """Does nothing, and says what it was asked to do."""

    name = "pretended"
    help = "nothing"
    hold_s = (0.001, 0.002)

    def __init__(self, name: str, told: list[str], *, proofs: tuple[bool, ...] = (), begins: bool = True) -> None:
        super().__init__(cast("Testbed", None), random.Random(1))
        setattr(self, "name", name)  # noqa: B010 - a class variable, of each
        self.told = told
        self.proofs = list(proofs)
        self.begins = begins
        self.on = False

    async def begin(self) -> str:
        if not self.begins:
            raise ClusterError("there is no leader")
        self.on = True
        self.told.append(f"{self.name} begins")
        return f"{self.name} is on"

    async def prove(self) -> None:
        if self.proofs and not self.proofs.pop(0):
            raise FaultNotProven("nothing to be seen of it")

    def abandon(self) -> None:
        self.told.append(f"{self.name} is abandoned")

    async def end(self) -> None:
        if self.on:
            self.told.append(f"{self.name} ends")
        self.on = False


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "REST_S", (0.001, 0.002))


async def run(*nemeses: Nemesis, seconds: float = 0.02) -> tuple[Schedule, Recorder]:
    recorder = Recorder()
    made = Schedule(nemeses, random.Random(1), recorder, lambda text: None)
    await made.run(seconds)
    return made, recorder


def remarks(recorder: Recorder) -> list[tuple[str, Any]]:
    return [(one.f, one.value["nemesis"]) for one in recorder.remarks]


async def test_a_fault_is_begun_proven_kept_and_ended_again_and_again() -> None:
    told: list[str] = []
    made, recorder = await run(Pretended("kill", told), seconds=0.2)
    assert made.proven["kill"] == made.begun["kill"] > 1
    assert told[:4] == ["kill begins", "kill ends", "kill begins", "kill ends"]
    assert remarks(recorder)[:4] == [("begin", "kill"), ("proven", "kill"), ("kept", "kill"), ("end", "kill")]
    numbers = [one.value["number"] for one in recorder.remarks if one.f == "begin"]
    assert numbers == sorted(set(numbers)), "each fault has a number of its own"


async def test_several_are_on_together() -> None:
    told: list[str] = []
    await run(Pretended("kill", told), Pretended("slow", told), seconds=0.01)
    assert told[:4] == ["kill begins", "slow begins", "kill ends", "slow ends"]


@pytest.mark.parametrize("proofs", [(False,), (True, False)])
async def test_a_fault_that_is_not_seen_or_goes_before_its_time_does_not_count(proofs: tuple[bool, ...]) -> None:
    told: list[str] = []
    made, recorder = await run(Pretended("kill", told, proofs=proofs), seconds=0.0)
    assert (made.begun["kill"], made.proven["kill"]) == (1, 0)
    assert told == ["kill begins", "kill ends"]
    assert ("unproven", "kill") in remarks(recorder)


async def test_a_fault_that_cannot_begin_does_not_end_the_run() -> None:
    made, recorder = await run(Pretended("kill", [], begins=False), seconds=0.0)
    assert (made.begun["kill"], made.proven["kill"]) == (0, 0)
    assert remarks(recorder) == [("unproven", "kill")]


async def test_a_run_without_nemeses_lasts_as_long_as_it_is_told() -> None:
    began = asyncio.get_running_loop().time()
    await run(seconds=0.05)
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_fault_that_the_cluster_does_not_get_over_is_a_problem_and_ends_the_schedule() -> None:
    class Stubborn(Pretended):
        async def end(self) -> None:
            await super().end()
            raise ClusterError("node 1 ended with code 1: corrupt")

    made, _ = await run(Stubborn("kill", []), seconds=60.0)
    assert [one.name for one in made.problems] == ["did not come back"]
    assert "node 1 ended with code 1: corrupt" in made.problems[0].text
    assert made.begun["kill"] == 1


async def test_a_fault_begins_when_it_is_asked_for_not_when_it_is_over() -> None:
    """The RTO counts from there: a restart takes the store away while it begins."""

    class Long(Pretended):
        async def begin(self) -> str:
            self.asked = recorder.now()
            await asyncio.sleep(0.02)
            return await super().begin()

    recorder = Recorder()
    nemesis = Long("restart", [])
    made = Schedule([nemesis], random.Random(1), recorder, lambda text: None)
    await made.run(0.0)
    (began,) = (one.time for one in recorder.remarks if one.f == "begin")
    assert began <= nemesis.asked


async def test_a_run_that_is_cancelled_abandons_its_faults() -> None:
    told: list[str] = []
    one = Pretended("kill", told)
    one.hold_s = (60.0, 60.0)  # type: ignore[misc]
    task = asyncio.create_task(run(one, seconds=120.0))
    while not one.on:  # noqa: ASYNC110 - it is looked at from outside
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["kill begins", "kill is abandoned"], "the cluster goes: nobody waits until it is well again"
