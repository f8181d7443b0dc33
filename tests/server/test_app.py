"""A node as a process: how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from unittest.mock import Mock

import grpc
import pytest

from raftkv.errors import CorruptLog, StorageError
from raftkv.raft import MembershipChange
from raftkv.server import app
from raftkv.server.app import serve, warn_when_removed
from raftkv.server.node import Node
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.data_dir import open_data_dir
from raftkv.storage.json_files import unseal
from raftkv.testing.processes import LOOPBACK, free_port
from raftkv.v1 import common_pb2, kv_pb2, kv_pb2_grpc, watch_pb2, watch_pb2_grpc
from tests.server.memory_cluster import MemoryCluster, until

T = TypeVar("T")


def settings(tmp_path: Path) -> ServerSettings:
    member = [f"1={LOOPBACK}:{free_port()}"]
    flags = {"id": 1, "data_dir": tmp_path / "node", "member": member, "listen": f"{LOOPBACK}:{free_port()}"}
    return load_settings({**flags, "wal_segment_bytes": 1 << 20, "shutdown_timeout_s": 1.0})


async def put(channel: grpc.aio.Channel) -> kv_pb2.PutResponse:
    stub = kv_pb2_grpc.KVStub(channel)
    return await led(lambda: stub.Put(kv_pb2.PutRequest(key=b"k", value=b"v"), timeout=20))


async def led(call: Callable[[], Awaitable[T]]) -> T:
    """Return what a node answers once it leads: it serves before that, and waits for no leader longer than a second."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if "no leader is known" not in (error.details() or ""):
                raise


async def start(node: ServerSettings, stop: asyncio.Event) -> asyncio.Task[None]:
    started = asyncio.Event()
    running = asyncio.create_task(serve(node, stop, started=started.set))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return running


def clean(node: ServerSettings) -> bool:
    members = dict(node.member.items())
    found = open_data_dir(node.data_dir, cluster_id=node.founded_cluster_id, node_id=1, members=members)  # type: ignore[arg-type]
    found.close()
    return found.clean_shutdown is not None


async def test_a_node_that_is_stopped_ends_cleanly_and_starts_again(tmp_path: Path) -> None:
    node = settings(tmp_path)
    for revision in (2, 3):
        stop = asyncio.Event()
        running = await start(node, stop)
        async with grpc.aio.insecure_channel(node.listen) as channel:
            assert (await put(channel)).revision == revision
        stop.set()
        await asyncio.wait_for(running, 60)
        assert clean(node)


async def test_a_node_keeps_to_the_limits_of_watches_that_it_was_told(tmp_path: Path) -> None:
    node = settings(tmp_path).model_copy(update={"max_watches": 3, "max_stream_watches": 1})
    stop = asyncio.Event()
    running = await start(node, stop)
    async with grpc.aio.insecure_channel(node.listen) as channel:
        await put(channel)
        call = watch_pb2_grpc.WatchStub(channel).Watch()
        codes = []
        for watch_id in (1, 2):
            await call.write(watch_pb2.WatchRequest(create=watch_pb2.WatchCreate(watch_id=watch_id, key=b"k")))
            response = await asyncio.wait_for(call.read(), 60)
            assert isinstance(response, watch_pb2.WatchResponse)
            codes.append(response.canceled.code)
        assert codes == [0, common_pb2.LIMIT_EXCEEDED]
        call.cancel()
    stop.set()
    await asyncio.wait_for(running, 60)


async def test_a_disk_that_fails_while_the_node_stops_is_no_clean_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = settings(tmp_path)
    stop = asyncio.Event()
    running = await start(node, stop)
    reached, go_on = threading.Event(), threading.Event()

    def fail(fd: int) -> None:
        reached.set()
        go_on.wait(20)
        raise OSError(5, "Input/output error")

    async with grpc.aio.insecure_channel(node.listen) as channel:
        await put(channel)
        monkeypatch.setattr(os, "fdatasync", fail)
        doomed = asyncio.ensure_future(put(channel))
        await asyncio.to_thread(reached.wait, 20)
        stop.set()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await doomed
        with pytest.raises(StorageError, match="Input/output error"):
            await asyncio.wait_for(running, 60)
    monkeypatch.undo()
    assert not clean(node)
    stop.clear()
    running = await start(node, stop)
    stop.set()
    await asyncio.wait_for(running, 60)


async def test_a_node_whose_log_is_gone_does_not_start(tmp_path: Path) -> None:
    node = settings(tmp_path)
    stop = asyncio.Event()
    running = await start(node, stop)
    stop.set()
    await asyncio.wait_for(running, 60)
    (node.data_dir / "wal").rename(tmp_path / "lost")
    boot = node.data_dir / "boot.json"
    boot.write_text(json.dumps({**unseal(boot.read_bytes()), "clean_tail": None}))  # as after a crash
    with pytest.raises(CorruptLog, match="no log"):
        await asyncio.wait_for(serve(node, stop), 60)


async def test_a_disk_that_fails_while_leadership_is_handed_over_is_what_the_node_ends_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` ended with "the node has failed" (exit code 1 as well, but no word of the disk)."""

    async def fail(node: Node, timeout_s: float) -> bool:
        node.on_failure(StorageError("Input/output error"))
        await node.leadership_changed()  # as the real one does while a transfer is under way
        return False

    monkeypatch.setattr(Node, "hand_over", fail)
    node = settings(tmp_path)
    stop = asyncio.Event()
    running = await start(node, stop)
    stop.set()
    with pytest.raises(StorageError, match="Input/output error"):
        await asyncio.wait_for(running, 60)
    assert not clean(node)


async def test_a_removed_node_says_so_at_once_and_at_its_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked for votes in vain and said nothing."""
    logged = Mock()
    monkeypatch.setattr(app, "log", logged)
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        member = cluster.follower(leader)
        running = asyncio.create_task(warn_when_removed(member.node))
        await asyncio.sleep(0)
        logged.warning.assert_not_called()
        leader.node.change_membership(MembershipChange(remove=frozenset({member.id})))
        await until(lambda: logged.warning.called)
        ((said,), values) = logged.warning.call_args
        assert "was removed from the cluster" in said
        assert "The way out" in said
        assert values == {"members": sorted(set(cluster.ids) - {member.id})}

        restarted = asyncio.create_task(warn_when_removed(member.node))
        await until(lambda: logged.warning.call_count == 2)
        await member.node.stop()
        await asyncio.gather(running, restarted)
        assert logged.warning.call_count == 2
