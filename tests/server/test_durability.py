"""Who waits for copies is told when there are so many, and not for the copies of another leader's entry."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from raftkv.raft import Index, Raft
from raftkv.server.durability import FEW, Copies, Durability
from raftkv.server.proposals import Decided, Outcome


class Log:
    durable = Index(0)


class FakeRaft:
    """A leader of whom a test says what is where."""

    def __init__(self) -> None:
        self.log = Log()
        self.on: tuple[int, ...] = (0, 0, 0)
        self.configuration_index = 0

    def durable_on(self) -> tuple[int, ...]:
        return self.on


def waiting() -> tuple[Durability, FakeRaft]:
    raft = FakeRaft()
    return Durability(cast("Raft", raft)), raft


def outcome() -> Outcome:
    return asyncio.get_running_loop().create_future()


async def test_early_ones_wait_for_so_many_and_for_the_leader_itself() -> None:
    durability, raft = waiting()
    one, two = outcome(), outcome()
    durability.acknowledge(two, 4, 7, 2)
    durability.acknowledge(one, 4, 7, 1)
    raft.on = (9, 9, 0)
    durability.check()
    assert not one.done()
    assert not two.done()
    raft.on, raft.log.durable = (9, 6, 0), Index(7)
    durability.check()
    assert one.result() == Decided(None, 4, 7, 1)
    assert not two.done()
    raft.on = (9, 7, 0)
    durability.check()
    assert two.result() == Decided(None, 4, 7, 2)
    assert not durability


async def test_what_another_leader_puts_there_counts_for_nobody() -> None:
    """It led, lost the entry, and leads again: everybody has index 7, of another term."""
    durability, raft = waiting()
    early = outcome()
    durability.acknowledge(early, 4, 7, 1)
    durability.leadership_lost()
    raft.on, raft.log.durable = (9, 9, 9), Index(9)
    durability.check()
    assert not early.done(), "what became of it is for Proposals to tell"


async def test_committed_ones_are_let_go_when_leadership_is_lost() -> None:
    durability, raft = waiting()
    running = asyncio.create_task(durability.reached(7, 3))
    await asyncio.sleep(0)
    raft.on = (7, 7, 6)
    durability.check()
    assert durability
    durability.leadership_lost()
    assert (await running).voters == 0


async def test_a_number_above_the_voters_that_are_left_is_not_reached() -> None:
    durability, raft = waiting()
    running = asyncio.create_task(durability.reached(7, 3))
    await asyncio.sleep(0)
    raft.on = (9, 9)
    durability.check()
    await asyncio.sleep(0)
    assert not running.done()
    raft.on = (9, 9, 7)
    durability.check()
    assert (await running).voters == 3


async def test_they_are_told_in_any_order_of_their_coming() -> None:
    durability, raft = waiting()
    running = {index: asyncio.create_task(durability.reached(index, 3)) for index in (9, 7, 8)}
    await asyncio.sleep(0)
    raft.on = (9, 9, 8)
    durability.check()
    assert ((await running[7]).voters, (await running[8]).voters) == (3, 3)
    assert not running[9].done()
    durability.leadership_lost()
    await running[9]


@pytest.mark.parametrize("kind", ["gave up", "was applied"])
async def test_those_who_wait_no_longer_do_not_pile_up(kind: str) -> None:
    durability, _ = waiting()
    for index in range(20 * FEW):
        if kind == "gave up":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await durability.reached(index, 3)
        else:
            early = outcome()
            durability.acknowledge(early, 4, index, 2)
            early.set_result(Decided([], 4, index))
            await asyncio.sleep(0)
    assert sum(map(len, durability._queues.values())) <= 2 * FEW


async def test_copies_are_of_the_configuration_that_was_in_force_when_they_were_counted() -> None:
    durability, raft = waiting()
    told = outcome()
    durability.acknowledge(told, 4, 7, 1)
    reached = asyncio.create_task(durability.reached(7, 3))
    await asyncio.sleep(0)
    raft.on, raft.log.durable, raft.configuration_index = (7, 7, 7), Index(7), 5
    durability.check()
    raft.configuration_index = 6
    assert told.result() == Decided(None, 4, 7, 3, 5)
    assert await reached == Copies(3, 5)
