"""A leader that is asked for more than it can hold refuses the rest at once, and keeps what it took."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from raftkv.client import AsyncClient
from raftkv.server.node import NodeLimits
from raftkv.testing.cluster import LocalCluster
from raftkv.v1 import common_pb2, kv_pb2
from tests.integration.promotion import hand_over
from tests.integration.stubs import Stubs, detail_of, stubs
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

VALUE_BYTES = 1 << 20


async def test_what_exceeds_the_queue_is_refused_and_has_no_effect(tmp_path: Path) -> None:
    """Its followers sleep, so nothing that it takes is ever done; its election timeout keeps it in office meanwhile."""
    room = NodeLimits().max_proposal_bytes // VALUE_BYTES
    keys = [f"k{number}".encode() for number in range(room + 16)]
    cluster = LocalCluster(3, directory=tmp_path)
    for node in cluster.nodes[1:]:
        node.extra_arguments += ["--election-ms", "5000"]
    async with cluster:
        # The first node is elected soon, by its own short timeout, and gives way to one with a long one.
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            await cluster.leader()
            await hand_over(client, 2)
        leader = cluster.node(await cluster.leader())
        assert leader.id == 2
        followers = [node for node in cluster.nodes if node is not leader]
        async with stubs(leader.client_address) as asked:
            await asked.kv.Range(kv_pb2.RangeRequest(key=b"k"), timeout=PATIENCE_S)
            for node in followers:
                node.pause()
            puts = [asyncio.create_task(outcome(asked, key)) for key in keys]
            await asyncio.wait(puts, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            for node in followers:
                node.resume()
            outcomes = dict(zip(keys, await asyncio.gather(*puts), strict=True))
        await cluster.converged()
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            held = {pair.key async for pair in client.scan(keys_only=True)}

    overloaded = {
        key: error
        for key, error in outcomes.items()
        if error
        and error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        and detail(error).code == common_pb2.OVERLOADED
    }
    assert len(overloaded) >= 1, outcomes
    for error in overloaded.values():
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (detail(error).retryable, detail(error).ambiguous) == (True, False)
    assert not overloaded.keys() & held, "refused, and took effect"
    acknowledged = {key for key, error in outcomes.items() if error is None}
    assert acknowledged <= held


async def outcome(asked: Stubs, key: bytes) -> grpc.aio.AioRpcError | None:
    """Return how a large put failed; None for success."""
    try:
        await asked.kv.Put(kv_pb2.PutRequest(key=key, value=bytes(VALUE_BYTES)), timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return error
    return None


def detail(error: grpc.aio.AioRpcError) -> common_pb2.Error:
    found = detail_of(error)
    assert found is not None, error
    return found
