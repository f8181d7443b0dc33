"""A row that changes in the store behind its node: found, out of service, not forgotten; real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from raftkv.client import Alarm, AsyncClient, ReadLevel
from raftkv.errors import CorruptState
from raftkv.kv.keys import VERSIONS, VERSIONS_END
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.testing.cluster import LocalCluster, NodeProcess

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


def change_a_row(data_dir: Path) -> None:
    """As a flipped bit in memory, or a bug, would; the pages are sound."""
    store = LmdbStore.open(data_dir / "store", map_size=1 << 30)
    with store.write() as writer:
        key, row = next(iter(writer.scan(VERSIONS, VERSIONS_END)))
        writer.put(key, row[:-1] + bytes([row[-1] ^ 1]))
    store.close()


async def kv_health(node: NodeProcess) -> int:
    async with grpc.aio.insecure_channel(node.client_address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        return (await check(health_pb2.HealthCheckRequest(service="raftkv.v1.KV"), timeout=10)).status


async def compare(cluster: LocalCluster) -> tuple[int, dict[str, list[int]], str]:
    """Run `raftkv endpoint compare`; return its exit code, what it found, and what it said about that."""
    arguments = ["endpoint", "compare", "--endpoints", ",".join(cluster.endpoints), "-o", "json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "raftkv.cli", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out, err
    found: dict[str, list[int]] = json.loads(out)
    return process.returncode or 0, found, err.decode()


@pytest.mark.jepsen
async def test_a_changed_row_takes_its_node_out_of_service() -> None:
    async with LocalCluster(3) as cluster, AsyncClient(cluster.url, timeout=60.0) as client:
        for number in range(50):
            await client.put(f"k{number:02}", b"value")
        assert (await compare(cluster))[0] == 0
        leader = await cluster.leader()
        odd = cluster.node(next(number for number in (1, 2, 3) if number != leader))
        await odd.kill()
        # Of the same boot: LMDB's file is taken as it is.
        change_a_row(odd.data_dir)
        await odd.start()
        # Until the leader hears it again it is not asked.
        while (found := await client.compare_states(timeout=20)).silent:  # noqa: ASYNC110 - a node is asked
            await asyncio.sleep(0.05)
        assert (found.differ, len(found.agreed), found.silent) == ((odd.id,), 2, ())
        for restarts in range(2):
            (alarm,) = (await odd.answers()).alarms
            assert alarm.alarm is Alarm.CORRUPT
            assert f"raftkv repair --data-dir {odd.data_dir}" in alarm.message
            # A client of its own: `client` may be in back-off, as the node was away.
            async with AsyncClient([odd.client_address], dial_learned=False) as asker:
                for level in (ReadLevel.LINEARIZABLE, ReadLevel.LOCAL):
                    with pytest.raises(CorruptState, match="out of service"):
                        await asker.get("k00", level=level, endpoint=odd.client_address, timeout=20.0)
            assert await kv_health(odd) == health_pb2.HealthCheckResponse.NOT_SERVING
            # A client that begins there goes elsewhere by itself.
            others = [odd.client_address, *(one for one in cluster.endpoints if one != odd.client_address)]
            async with AsyncClient(f"raftkv://{','.join(others)}", timeout=60.0) as stranger:
                for level in (ReadLevel.LINEARIZABLE, ReadLevel.LOCAL):
                    pair = await stranger.get("k00", level=level)
                    assert pair is not None
                    assert pair.value == b"value"
                await stranger.put("new", b"value")
            code, compared, said = await compare(cluster)
            while odd.id in compared["silent"]:
                code, compared, said = await compare(cluster)
            assert (code, compared["differ"]) == (1, [odd.id])
            assert "raftkv repair" in said
            if not restarts:
                await odd.restart()
