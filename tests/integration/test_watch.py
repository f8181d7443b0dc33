"""Watches of real processes: the leader is killed, nodes restart, and every change is told once and in order."""

from __future__ import annotations

import asyncio

import pytest

from raftkv.client import AsyncClient, AsyncWatch, Client, Event, EventKind
from raftkv.errors import Compacted
from raftkv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def collect(events: AsyncWatch, told: list[Event], last: bytes) -> None:
    """Read until the key `last` is put."""
    async for event in events:
        told.append(event)
        if event.key == last:
            return


async def test_the_leader_is_killed_while_watches_run(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    told: list[list[Event]] = [[], [], []]
    last = f"{prefix}zz".encode()
    async with (
        asyncio.timeout(100),
        AsyncClient(cluster.url, timeout=60.0) as other,
        client.watch(prefix=prefix) as one,
        client.watch(prefix=prefix, previous=True) as two,
        other.watch(start=prefix, end=f"{prefix}~") as three,
    ):
        watchers = [
            asyncio.create_task(collect(events, found, last))
            for events, found in zip((one, two, three), told, strict=True)
        ]
        written: list[tuple[bytes, bytes, int]] = []

        async def write(task: int) -> None:
            for number in range(150):
                key, value = f"{prefix}{task}".encode(), b"%d" % number
                written.append((key, value, (await client.put(key, value)).revision))

        writers = [asyncio.create_task(write(task)) for task in range(8)]
        while len(written) < 300:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        victim = await cluster.leader()
        await cluster.node(victim).kill()
        await asyncio.gather(*writers)
        await cluster.node(victim).start()
        await client.put(last, "")
        await asyncio.gather(*watchers)
    written.sort(key=lambda one: one[2])
    for found in told:
        assert [(event.key, event.value, event.revision) for event in found[:-1]] == written
    newest: dict[bytes, bytes] = {}
    for event in told[1]:
        assert (event.previous.value if event.previous is not None else None) == newest.get(event.key)
        newest[event.key] = event.value


async def test_a_watch_from_the_past_and_one_from_before_it(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    key = f"{prefix}k"
    revisions = [(await client.put(key, str(number))).revision for number in range(10)]
    revisions.append((await client.delete(key)).revision)
    async with asyncio.timeout(60), client.watch(key, start_revision=revisions[3]) as events:
        found = [await anext(events) for _ in range(8)]
    assert [event.revision for event in found] == revisions[3:]
    assert found[-1].kind is EventKind.DELETE
    await client.compact(revisions[5])
    with pytest.raises(Compacted) as caught:
        async with asyncio.timeout(60), client.watch(key, start_revision=revisions[4]):
            pass
    assert caught.value.compacted_revision == revisions[5]


async def test_the_blocking_client_watches_and_can_be_closed(cluster: LocalCluster, prefix: str) -> None:
    def use() -> None:
        with Client(cluster.url, timeout=60.0) as client, client.watch(prefix=prefix) as events:
            for number in range(20):
                client.put(f"{prefix}{number}", str(number))
            found = [next(events) for _ in range(5)]
            found += [event for batch in (events.next_batch(),) for event in batch or ()]
            while len(found) < 20:
                found.append(next(events))
            assert [event.value for event in found] == [b"%d" % number for number in range(20)]
            assert events.revision >= found[-1].revision
            events.close()
            assert list(events) == []
            assert list(events.batches()) == []

    await asyncio.to_thread(use)
