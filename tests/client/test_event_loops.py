"""A client on another event loop than its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raftkv.client import AsyncClient
from raftkv.errors import InvalidArgument, WrongEventLoop
from tests.client.fake_watch import client_of, watch_cluster


async def enter(client: AsyncClient) -> None:
    async with client:
        raise AssertionError("entered")


async def watch(client: AsyncClient) -> None:
    async with client.watch("k"):
        raise AssertionError("opened")


USES: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "a read": lambda client: client.get("k"),
    "a write": lambda client: client.put("k", "v"),
    "the cluster": lambda client: client.status(),
    "a watch": watch,
    "an election": lambda client: anext(client.election("e").observe()),
    "a lock": lambda client: client.lock("l").acquire(),
    "a lease": lambda client: client.lease(1.0).grant(),
    "entering": enter,
    "closing": lambda client: client.close(),
}


@pytest.mark.parametrize("use", USES)
async def test_another_loop_is_told_so_and_its_own_goes_on(use: str) -> None:
    async with watch_cluster(1) as cluster, client_of(cluster) as client:
        await client.put("k", "v")

        async def elsewhere() -> None:
            async with asyncio.timeout(60):
                await USES[use](client)

        with pytest.raises(WrongEventLoop, match=r"one client per loop.*blocking raftkv\.client\.Client"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert not client.closed
        pair = await client.get("k")
        assert pair is not None
        assert pair.value == b"v"


async def test_a_watch_is_read_on_the_loop_that_it_was_opened_on() -> None:
    async with watch_cluster(1) as cluster, client_of(cluster) as client, client.watch("k") as events:

        async def elsewhere() -> None:
            async with asyncio.timeout(60):
                await anext(events)

        with pytest.raises(WrongEventLoop, match="opened on"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        cluster.put(b"k")
        async with asyncio.timeout(60):
            assert (await anext(events)).key == b"k"


async def test_a_client_that_is_closed_may_be_closed_again_anywhere() -> None:
    async with watch_cluster(1) as cluster:
        client = client_of(cluster)
        await client.put("k", "v")
        await client.close()
        await asyncio.to_thread(asyncio.run, client.close())


def test_it_is_a_misuse() -> None:
    assert issubclass(WrongEventLoop, InvalidArgument)
    assert not WrongEventLoop("x").retryable
