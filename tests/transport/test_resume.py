"""A real connection breaks in the middle of a checkpoint; the next one goes on where it ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.raft import NodeId
from raftkv.storage.checkpoint import CHUNK_BYTES, Chunk, decode_manifest
from raftkv.storage.checkpoint_store import CheckpointStore, Receiving, Sending
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.worker import Inline
from raftkv.testing.processes import free_port
from raftkv.transport import checkpoints
from raftkv.transport.channel import CHANNEL_OPTIONS, SERVER_OPTIONS
from raftkv.transport.grpc_peer import GrpcTransport, Identity
from raftkv.transport.pace import Pace
from raftkv.transport.protocols import CheckpointNotSent, Incoming
from raftkv.v1 import peer_pb2_grpc
from tests.storage.states import apply_entry, configuration_at, inspect, large_rows, whole_copy
from tests.transport.test_contract import Recorder, Streams

CLUSTER = 42
SENDER = Identity(cluster_id=CLUSTER, node_id=NodeId(1), client_address="")


def store_of(files: MemoryFileSystem) -> CheckpointStore[Any]:
    return CheckpointStore.open(
        Path("/data/checkpoints"),
        engine=MemoryEngine(files),
        inspect=inspect,
        files=files,
        make_runner=lambda _: Inline(),
    )


class Receiver(Recorder):
    """A driver that takes checkpoints, and the connection breaks when so much is there."""

    def __init__(self, store: CheckpointStore[Any]) -> None:
        super().__init__()
        self.store = store
        self.break_at = 0
        self.broken = asyncio.Event()
        self.begun_at: list[int] = []

    async def begin_checkpoint(self, manifest: bytes) -> Incoming:
        receiving = await self.store.begin(decode_manifest(manifest))
        self.begun_at.append(receiving.offset)
        return Breaking(receiving, self)


class Breaking:
    """What comes in."""

    def __init__(self, receiving: Receiving, receiver: Receiver) -> None:
        self._receiving = receiving
        self._receiver = receiver

    @property
    def offset(self) -> int:
        return self._receiving.offset

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        reached = await self._receiving.write_chunk(offset, data, crc)
        if 0 < self._receiver.break_at <= reached:
            self._receiver.break_at = 0
            self._receiver.broken.set()
            await asyncio.Event().wait()  # until the call is cancelled
        return reached

    async def finish(self) -> object:
        return await self._receiving.finish()

    def close(self) -> None:
        pass


class Reading:
    """What is sent, and which parts of it were read for that."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self.read_at: list[int] = []

    def encoded_manifest(self) -> bytes:
        return self._sending.encoded_manifest()

    def size_bytes(self) -> int:
        return self._sending.size_bytes()

    async def read_chunk(self, offset: int, size: int) -> Chunk:
        self.read_at.append(offset)
        return await self._sending.read_chunk(offset, size)


async def serve(transport: GrpcTransport, address: str) -> grpc.aio.Server:
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    server.add_insecure_port(address)
    peer_pb2_grpc.add_PeerServicer_to_server(Streams(transport), server)  # type: ignore[abstract]
    await server.start()
    return server


async def test_a_transfer_goes_on_at_the_last_whole_chunk_after_its_connection_broke() -> None:
    source, target = store_of(MemoryFileSystem()), store_of(MemoryFileSystem())
    store = MemoryOrderedStore()
    apply_entry(store, 7, 3, large_rows(1, 3.5))
    manifest = await source.create(store, configuration_at)
    receiver = Receiver(target)
    transport = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=NodeId(2), client_address=""), {})
    await transport.start(receiver)
    address = f"127.0.0.1:{free_port()}"
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: Any = peer_pb2_grpc.PeerStub(channel)
        for break_at, goes_on_at in ((CHUNK_BYTES + 1, 0), (3 * CHUNK_BYTES, CHUNK_BYTES), (0, 3 * CHUNK_BYTES)):
            server = await serve(transport, address)
            receiver.break_at = break_at
            receiver.broken.clear()
            reading = Reading(source.send())
            sending = asyncio.create_task(checkpoints.send(stub, SENDER, reading, Pace(0)))
            if break_at:
                await receiver.broken.wait()
                await server.stop(None)
                with pytest.raises(CheckpointNotSent):
                    await sending
                assert target.newest is None
            else:
                await sending
                await server.stop(None)
            assert receiver.begun_at[-1] == min(reading.read_at) == goes_on_at
    await transport.close()
    assert target.newest is not None
    assert target.newest.same_bytes(manifest)
    assert (await whole_copy(target))[1] == (await whole_copy(source))[1]
