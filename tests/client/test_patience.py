"""Observations that begin while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from raftkv.client import AsyncClient, Client
from raftkv.errors import ConnectionFailed, DeadlineExceeded, ErrorCode, LimitExceeded, NoLeader, RaftKVError
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeNode, execute, refusal
from tests.client.fake_watch import WatchCluster, client_of, watch_cluster

Observe = Callable[..., AsyncGenerator[Any, None]]


def observe_election(client: AsyncClient, **settings: Any) -> AsyncGenerator[Any, None]:
    return client.election("e").observe(**settings)


def watch_service(client: AsyncClient, **settings: Any) -> AsyncGenerator[Any, None]:
    return client.service("api").watch(**settings)


AWAY = (NoLeader, ConnectionFailed, DeadlineExceeded)
"""Which of them depends on how far a call has come within its time."""

BOTH = pytest.mark.parametrize("observe", [observe_election, watch_service])


def registered(cluster: WatchCluster) -> None:
    """Both have something to tell: an instance, and that nobody leads."""
    cluster.store.pairs[b"raftkv.services/api/7"] = kv_pb2.KeyValue(
        key=b"raftkv.services/api/7", value=b'{"address": "h:1", "meta": {}}', mod_revision=1
    )


@BOTH
@pytest.mark.parametrize("code", [ErrorCode.NO_LEADER, ErrorCode.OVERLOADED, None])
async def test_it_waits_for_the_store(observe: Observe, code: ErrorCode | None) -> None:
    """`None`: no node can be reached at all."""
    async with watch_cluster(1) as cluster:
        registered(cluster)
        refused = 0

        def refuse(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Any:
            nonlocal refused
            refused += 1
            assert code is not None
            return refusal(code)(node, batch, operation)

        cluster[1].script = refuse
        if code is None:
            await cluster[1].stop()
        async with client_of(cluster, timeout=0.1) as client, aclosing(observe(client)) as told:
            first = asyncio.ensure_future(anext(told))
            # Longer than the client's timeout, within which a call has failed.
            with pytest.raises(RaftKVError):
                await client.get("k")
            with pytest.raises(RaftKVError):
                await client.get("k")
            assert not first.done()
            cluster[1].script = execute
            if code is None:
                await cluster[1].restart()
            async with asyncio.timeout(60):
                found = await first
        assert found is None if observe is observe_election else found.instance.address == "h:1"
        assert code is None or refused


@BOTH
async def test_a_timeout_bounds_the_beginning(observe: Observe) -> None:
    async with watch_cluster(1) as cluster:
        cluster[1].script = refusal(ErrorCode.NO_LEADER)
        async with client_of(cluster) as client, aclosing(observe(client, timeout=0.05)) as told:
            with pytest.raises(AWAY):
                await anext(told)


@BOTH
async def test_what_waiting_cannot_help_is_raised(observe: Observe) -> None:
    async with watch_cluster(1) as cluster:
        cluster[1].script = refusal(ErrorCode.LIMIT_EXCEEDED)
        async with client_of(cluster) as client, aclosing(observe(client)) as told:
            with pytest.raises(LimitExceeded):
                await anext(told)


@BOTH
async def test_it_ends_with_the_client(observe: Observe) -> None:
    async with watch_cluster(1) as cluster:
        cluster[1].script = refusal(ErrorCode.NO_LEADER)
        client = client_of(cluster, timeout=0.05)
        async with aclosing(observe(client)) as told:
            first = asyncio.ensure_future(anext(told))
            with pytest.raises(AWAY):
                await client.get("k")
            await client.close()
            with pytest.raises(AWAY):
                await asyncio.wait_for(first, 60)


async def test_an_instance_is_told_once_however_often_the_watch_cannot_be_opened() -> None:
    """The store answered, and went away before the watch was open."""
    async with watch_cluster(1) as cluster:
        registered(cluster)
        cluster[1].refusal = ErrorCode.NO_LEADER
        async with client_of(cluster, timeout=0.05) as client, aclosing(watch_service(client)) as told:
            assert (await anext(told)).instance.id == "7"
            following = asyncio.ensure_future(anext(told))
            looks = len(cluster[1].ids("range"))
            await asyncio.wait_for(cluster[1].wait_for(lambda: len(cluster[1].ids("range")) > looks + 1), 60)
            assert not following.done()
            # It is looked for anew whenever the watch could not be opened.
            del cluster.store.pairs[b"raftkv.services/api/7"]
            async with asyncio.timeout(60):
                assert (await following).kind.value == "leave"


async def test_the_twins_take_the_timeout() -> None:
    async with watch_cluster(1) as cluster:
        cluster[1].script = refusal(ErrorCode.NO_LEADER)

        def blocking() -> None:
            with Client(cluster.addresses) as client:
                with pytest.raises(AWAY):
                    next(client.election("e").observe(timeout=0.05))
                with pytest.raises(AWAY):
                    next(client.service("api").watch(timeout=0.05))

        await asyncio.to_thread(blocking)
