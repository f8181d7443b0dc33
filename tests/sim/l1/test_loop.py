from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from tests.sim.l1.loop import Deadlock, Process, RealWorld, VirtualTimeLoop


def run(main: Coroutine[Any, Any, Any], *, seed: int = 0) -> Any:
    loop = VirtualTimeLoop(Random(seed))
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await asyncio.Event().wait()
        return loop.time()

    assert run(main()) == 3600.25


def test_the_order_of_simultaneous_timers_comes_from_the_seed() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def sleeper(number: int) -> None:
            await asyncio.sleep(1.0)
            order.append(number)

        await asyncio.gather(*(sleeper(number) for number in range(8)))
        return order

    assert run(main(), seed=1) == run(main(), seed=1)
    assert run(main(), seed=1) != run(main(), seed=2)
    assert sorted(run(main(), seed=1)) == list(range(8))


def test_a_deadlock_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = VirtualTimeLoop(Random(0))
    task = loop.create_task(main())
    with pytest.raises(Deadlock, match="nothing is ready and no timer is set"):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_a_circle_without_end_is_an_error() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    loop = VirtualTimeLoop(Random(0), max_steps=1000)
    task = loop.create_task(main())
    with pytest.raises(Deadlock, match="circles"):
        loop.run_until_complete(task)
    loop._max_steps = 10_000
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_threads_and_sockets_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RealWorld, match="threads"):
            await asyncio.to_thread(print)
        with pytest.raises(RealWorld, match="threads"):
            loop.call_soon_threadsafe(print)
        with pytest.raises(RealWorld, match="sockets"):
            await asyncio.open_connection("localhost", 1)
        with pytest.raises(RealWorld, match="child processes"):
            await asyncio.create_subprocess_exec("true")

    run(main())


def test_a_paused_process_does_nothing_and_then_everything_in_order() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        seen: list[tuple[str, float]] = []
        process = Process("p")

        async def ticker(name: str, pace_s: float) -> None:
            while True:
                await asyncio.sleep(pace_s)
                seen.append((name, loop.time()))

        task = loop.create_task(ticker("inside", 1.0), context=process.context.copy())
        await asyncio.sleep(1.5)
        loop.pause(process)
        await asyncio.sleep(3.0)
        loop.go_on(process)
        await asyncio.sleep(1.2)
        loop.kill(process)
        await asyncio.sleep(5)
        assert task.cancelled()
        assert not process.tasks
        return seen

    assert run(main()) == [("inside", 1.0), ("inside", 4.5), ("inside", 5.5)]


def test_what_a_process_starts_belongs_to_it() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        seen: list[str] = []
        process = Process("p")

        async def child() -> None:
            await asyncio.sleep(1)
            seen.append("child")

        async def parent() -> None:
            asyncio.get_running_loop().call_later(1, seen.append, "timer")
            await asyncio.ensure_future(child())

        task = loop.create_task(parent(), context=process.context.copy())
        await asyncio.sleep(0.5)
        assert len(process.tasks) == 2
        loop.pause(process)
        await asyncio.sleep(1)
        assert seen == []
        loop.kill(process)
        await asyncio.sleep(1)
        assert task.cancelled()
        return seen

    assert run(main()) == ["timer"]  # a timer is no task: whoever kills sees to what its callbacks can reach
