"""Damage to the state store, met while the node runs: the node stops, and the next start rebuilds the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from raftkv.kv.hashing import StateHasher
from raftkv.server.cluster import founded_by
from raftkv.server.disk import Disk, inspect_state, open_disk
from raftkv.server.doctor import examine
from raftkv.storage.lmdb_store import DamagedStore
from raftkv.v1 import kv_pb2, kv_pb2_grpc
from tests.server.directories import LAST, Crash, apply, copied, made, put, settings
from tests.server.test_app import led, start
from tests.server.test_app import put as put_key
from tests.server.test_app import settings as node_settings

META_BYTES = 2 * 4096
"""Of LMDB's two meta pages, which alone are read when a store is opened."""


def wipe(data: Path) -> None:
    """Zero all pages of rows, as a misdirected write may: LMDB notices when it comes to such a page."""
    with data.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(META_BYTES)
        file.write(bytes(size - META_BYTES))


def no_configuration(index: int, term: int) -> bytes:
    return b""


async def read(disk: Disk) -> None:
    with disk.store.read() as reader:
        reader.get(b"any")


async def scan(disk: Disk) -> None:
    with disk.store.read() as reader:
        list(reader.scan(b"", None))


async def hash_in_a_thread(disk: Disk) -> None:
    with disk.store.read() as reader:
        await asyncio.to_thread(StateHasher, reader)


async def copy(disk: Disk) -> None:
    await disk.create(no_configuration)


async def copy_for_a_backup(disk: Disk) -> None:
    await disk.copy_aside()


async def apply_one(disk: Disk) -> None:
    await disk.log_store.append(disk.recovered.hard_state, (put(LAST + 1),))
    apply(disk, LAST + 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(made(tmp_path_factory.mktemp("whole") / "node", clean=False))


@pytest.mark.parametrize("meet", [read, scan, hash_in_a_thread, copy, copy_for_a_backup, apply_one])
@pytest.mark.parametrize("clean", [False, True])
async def test_whoever_meets_damage_marks_the_store(
    whole: Path, tmp_path: Path, meet: Callable[[Disk], Awaitable[None]], clean: bool
) -> None:
    path = copied(whole, tmp_path / "node")
    node, data = settings(path), path / "store" / "data.mdb"
    stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    with suppress(Crash):
        async with open_disk(node, founded_by(node)) as disk:
            disk.damage.stop_node = stopped.set_result
            assert disk.machine.applied_index == LAST
            before = data.read_bytes()
            wipe(data)
            with pytest.raises(DamagedStore, match=r"data\.mdb: .*a cache: the node stops, and its next start"):
                await meet(disk)
            assert isinstance(await asyncio.wait_for(stopped, 60), DamagedStore)
            # As if the damage were where no start looks: the mark alone tells of it.
            with data.open("r+b") as file:
                file.write(before)
            if not clean:
                raise Crash
    report = await examine(path)
    assert not report.start.refusal
    assert report.start.store == "restored from the checkpoint"
    assert [one for one in report.damage if "the state store is damaged" in one and "data.mdb" in one]
    async with open_disk(node, founded_by(node)) as disk:
        assert disk.checkpoint is not None
        assert disk.machine.applied_index == disk.checkpoint.index == 450
        apply(disk, LAST)
        with disk.store.read() as reader:
            assert inspect_state(reader).index == LAST
    assert (await examine(path)).healthy, "the mark outlived the store"


async def test_a_read_that_meets_damage_stops_the_node_and_the_next_start_has_everything(tmp_path: Path) -> None:
    node = node_settings(tmp_path)
    running = await start(node, asyncio.Event())
    get = kv_pb2.RangeRequest(key=b"k")
    async with grpc.aio.insecure_channel(node.listen) as channel:
        revision = (await put_key(channel)).revision
        wipe(node.data_dir / "store" / "data.mdb")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await kv_pb2_grpc.KVStub(channel).Range(get, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(DamagedStore, match=r"the state store is damaged: .*data\.mdb"):
        await asyncio.wait_for(running, 60)
    stop = asyncio.Event()
    running = await start(node, stop)
    async with grpc.aio.insecure_channel(node.listen) as channel:
        stub = kv_pb2_grpc.KVStub(channel)
        found = await led(lambda: stub.Range(get, timeout=20))
        assert [kv.mod_revision for kv in found.kvs] == [revision]
    stop.set()
    await asyncio.wait_for(running, 60)
