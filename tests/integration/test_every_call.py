"""The leader is killed in the middle of each call of the API: every call is answered, and took effect exactly once.

Each kind of call has a worker of its own that makes call after call and would notice if one of them had been applied
twice, or not at all, or had been answered from a past that the worker had left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raftkv.client import AsyncClient, get, put, value
from raftkv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

Turn = Callable[[int], Awaitable[None]]
"""Makes the calls of a turn, numbered from 0, and checks what they were answered."""
Make = Callable[[AsyncClient, str], Turn]

KILLS = 2
TURNS_BETWEEN = 5
LAG = 8
"""So many turns of every worker lie between two kills."""


def puts(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        done = await client.put(key, str(number), previous=True)
        assert (done.previous.version if done.previous else 0) == number
        pair = await client.get(key)
        assert pair is not None
        assert (pair.version, pair.mod_revision) == (number + 1, done.revision)

    return turn


def deletes(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        await client.put(key, str(number))
        assert (await client.delete(key)).deleted == 1
        assert await client.get(key) is None

    return turn


def range_deletes(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        await asyncio.gather(*(client.put(f"{key}/{one}", str(number)) for one in range(3)))
        assert await client.count(f"{key}/") == 3
        assert [pair.key async for pair in client.scan(f"{key}/", page=2)] == [
            f"{key}/{one}".encode() for one in range(3)
        ]
        assert (await client.delete_prefix(f"{key}/")).deleted == 3

    return turn


def creates(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        made = await client.create(f"{key}/{number}", "once")  # twice would be KeyExists
        await client.update(f"{key}/{number}", "twice", if_revision=made.revision)  # RevisionMismatch
        page = await client.prefix(f"{key}/{number}")
        assert [pair.version for pair in page.pairs] == [2]

    return turn


def transactions(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        before = str(number - 1) if number else "none"
        if not number:
            await client.put(key, before)
        step = client.txn().when(value(key) == before).then(put(key, str(number)), get(key)).otherwise(get(key))
        assert (await step.commit()).succeeded
        read = await client.txn().when(value(key) == str(number)).then(get(key)).commit()
        assert read.succeeded

    return turn


def compactions(client: AsyncClient, key: str) -> Turn:
    made: list[int] = []

    async def turn(number: int) -> None:
        made.append((await client.put(key, str(number))).revision)
        if number >= LAG:  # the others read and watch what is not long past
            revision = made[number - LAG]
            assert await client.compact(revision) == revision  # twice would be Compacted

    return turn


def leases(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        granted = await client.grant_lease(60.0)
        await client.put(key, str(number), lease=granted.id)
        assert await client.renew_leases(granted.id) == (60.0,)
        status = await client.lease_status(granted.id, keys=True)
        assert status is not None
        assert status.keys == (key.encode(),)
        assert granted.id in await client.lease_ids()
        assert await client.revoke_lease(granted.id) == 1  # twice would be LeaseNotFound
        assert await client.get(key) is None

    return turn


def locks(client: AsyncClient, key: str) -> Turn:
    tokens: list[int] = []
    lock = client.lock(key, ttl=60.0)

    async def turn(number: int) -> None:
        async with lock as held:
            tokens.append(held.token)
            await client.put(f"{key}/fenced", str(number), fence=held.fence())
            state = await client.lock_state(key)
            assert [one.token for one in state.contenders] == [held.token]
            assert state.newest_token == held.token  # nobody was granted in between
        assert tokens == sorted(set(tokens))
        assert not (await client.lock_state(key)).contenders

    return turn


def crowds(client: AsyncClient, key: str) -> Turn:
    inside = 0
    contenders = [client.semaphore(key, limit=2, ttl=60.0) for _ in range(5)]

    async def work(number: int) -> None:
        nonlocal inside
        async with contenders[number]:
            inside += 1
            assert inside <= 2
            await client.get(key)
            inside -= 1

    async def turn(number: int) -> None:
        await asyncio.gather(*(work(one) for one in range(5)))

    return turn


def elections(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        election = client.election(key, f"candidate {number}", ttl=60.0)
        async with election:
            await election.proclaim(f"leader {number}")
            leader = await election.leader()
            assert leader is not None
            assert leader.value == f"leader {number}".encode()
        assert await election.leader() is None

    return turn


def services(client: AsyncClient, key: str) -> Turn:
    service = client.service(key.replace("/", "-"))

    async def turn(number: int) -> None:
        async with service.register(f"10.0.0.1:{number}", ttl=60.0):
            assert [one.address for one in await service.instances()] == [f"10.0.0.1:{number}"]
        assert await service.instances() == ()

    return turn


def watches(client: AsyncClient, key: str) -> Turn:
    async def turn(number: int) -> None:
        async with client.watch(prefix=f"{key}/{number}/") as events:
            done = [await client.put(f"{key}/{number}/{one}", str(one)) for one in range(3)]
            seen = [(await anext(events)).revision for _ in done]
            assert seen == [one.revision for one in done]

    return turn


EVERY_KIND: tuple[Make, ...] = (
    puts,
    deletes,
    range_deletes,
    creates,
    transactions,
    compactions,
    leases,
    locks,
    crowds,
    elections,
    services,
    watches,
)


@pytest.mark.jepsen
async def test_the_leader_is_killed_in_the_middle_of_every_call(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    turns = {make.__name__: 0 for make in EVERY_KIND}
    ending = asyncio.Event()
    busy = asyncio.Condition()

    async def work(make: Make) -> None:
        turn = make(client, f"{prefix}{make.__name__}")
        while not ending.is_set():
            await turn(turns[make.__name__])
            turns[make.__name__] += 1
            async with busy:
                busy.notify_all()

    async with asyncio.TaskGroup() as group:
        for make in EVERY_KIND:
            group.create_task(work(make))
        for _ in range(KILLS):
            goal = min(turns.values()) + TURNS_BETWEEN
            async with busy:
                await busy.wait_for(lambda: min(turns.values()) >= goal)  # noqa: B023 - it ends with this round
            victim = cluster.node(await cluster.leader())
            await victim.kill()
            await victim.start()
        goal = min(turns.values()) + TURNS_BETWEEN
        async with busy:
            await busy.wait_for(lambda: min(turns.values()) >= goal)
        ending.set()
    await cluster.converged()
