"""The hashes of a node's state: one at a time, the newest; and who asks for what nobody will know is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, CheckState, Command, Group, Put
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.server.state_hashes import StateHashes, asks_for_hash
from raftkv.storage.memory import MemoryOrderedStore

T = TypeVar("T")


class Steps:
    """A `Runner` that makes a step when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.jobs.append((job, future))
        return future

    def step(self) -> None:
        job, future = self.jobs.pop(0)
        future.set_result(job())

    async def stop(self) -> None: ...


class Host:
    def __init__(self) -> None:
        self.store = MemoryOrderedStore()
        self.machine = StateMachine(self.store)
        self.steps = Steps()
        self.tasks: list[asyncio.Task[None]] = []
        self.states = StateHashes(lambda: self.machine, self.steps, self._begin)

    def _begin(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(coroutine, name=name))
        return self.tasks[-1]

    def do(self, command: Command) -> int:
        index = self.machine.applied_index + 1
        payload = encode_batch(Batch(index, (Group(0, 0, (command,)),)))
        ((results, _),) = self.machine.apply([AppliedEntry(index, 1, payload)])
        if asks_for_hash(results):
            self.states.applied(index)
        return index

    async def finish(self) -> None:
        """Let what is being hashed come to its end."""
        while not self.tasks[-1].done():
            await asyncio.sleep(0)
            if self.steps.jobs:
                self.steps.step()


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


async def test_the_state_is_hashed_as_it_was_at_the_entry() -> None:
    one, other = Host(), Host()
    for host in (one, other):
        host.do(Put(0, b"k", b"v"))
        host.do(CheckState(0))
    one.do(Put(0, b"k", b"later"))
    found = []
    for host in (one, other):
        await asyncio.sleep(0)
        host.steps.step()
        state = await host.states.at(2, soon())
        assert state is not None
        found.append((state.index, state.term, state.hash))
    assert found[0] == found[1]


async def test_the_newest_wins_and_the_snapshot_is_held_until_the_thread_has_done_its_step() -> None:
    host = Host()
    first = host.do(CheckState(0))
    waiting = asyncio.create_task(host.states.at(first, soon()))
    await asyncio.sleep(0)
    assert len(host.steps.jobs) == 1
    second = host.do(CheckState(0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not host.tasks[0].done(), "its step is under way, on the snapshot"
    assert await waiting is None
    host.steps.step()
    await asyncio.wait([host.tasks[0]])
    assert host.tasks[0].cancelled()
    host.steps.step()
    state = await host.states.at(second, soon())
    assert state is not None
    assert state.index == second
    assert host.states.known(first) is None


async def test_one_that_is_overtaken_before_it_began_lets_go_of_its_snapshot() -> None:
    host = Host()
    host.do(CheckState(0))
    host.do(CheckState(0))
    await asyncio.wait([host.tasks[0]])
    assert host.tasks[0].cancelled()
    assert host.store._snapshots == 1
    await host.finish()
    assert host.store._snapshots == 0


async def test_whoever_waits_for_an_entry_that_a_snapshot_leapt_over_is_told_that_nobody_knows() -> None:
    host = Host()
    waiting = asyncio.create_task(host.states.at(3, soon()))
    await asyncio.sleep(0)
    host.store = MemoryOrderedStore()
    host.machine = StateMachine(host.store)
    host.machine.leap(10, 1)
    assert not waiting.done()
    host.states.changed()
    assert await waiting is None


async def test_what_is_known_or_being_hashed_of_a_state_that_is_replaced_is_forgotten() -> None:
    host = Host()
    first = host.do(CheckState(0))
    await host.finish()
    assert host.states.known(first) is not None
    second = host.do(CheckState(0))
    await asyncio.sleep(0)
    host.states.forget()
    await host.finish()
    assert host.states.known(first) is None
    assert host.states.known(second) is None
    assert host.store._snapshots == 0


async def test_an_entry_that_does_not_come_in_time() -> None:
    assert await Host().states.at(1, asyncio.get_running_loop().time()) is None


async def test_an_entry_that_was_applied_together_with_later_ones_is_not_known() -> None:
    host = Host()
    host.do(CheckState(0))
    host.states.applied(7)
    assert len(host.tasks) == 1
    assert await host.states.at(7, asyncio.get_running_loop().time()) is None
    await host.finish()


@pytest.mark.parametrize("results", [(), ([],), ([None],)])
def test_most_entries_ask_for_nothing(results: Any) -> None:
    assert not asks_for_hash(results)
