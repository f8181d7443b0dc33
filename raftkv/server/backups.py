"""Backups of one node's state, streamed to whoever asks: made from a copy, so that a slow reader holds up nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any, Final, Protocol

import grpc
import structlog

import raftkv
from raftkv.errors import Overloaded, RaftKVError, StorageError
from raftkv.kv.records import EMPTY_META, FORMAT, Meta, decode_meta
from raftkv.kv.rewind import rewind
from raftkv.kv.store import Reader
from raftkv.server import wire
from raftkv.server.node import Node
from raftkv.server.reads import Reads
from raftkv.server.services.status import abort
from raftkv.storage.backup_format import BackupEncoder, BackupHeader
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.checkpoint_directory import OpenCopy
from raftkv.storage.lmdb_store import DamagedStore
from raftkv.storage.worker import Worker
from raftkv.v1 import common_pb2
from raftkv.v1 import maintenance_pb2 as pb

log = structlog.get_logger("raftkv.backups")

MAX_BACKUPS: Final = 2
"""So many at a time: each takes the room of a copy of the state."""
CATCH_UP_S: Final = 10.0
PART_BYTES: Final = 1 << 20
BEAT_S: Final = 3.0
"""With nothing to send for so long, a part without data is sent: whoever waits does so for silence, not for work."""


class Copier(Protocol):
    """Who holds the state (`disk.Disk`)."""

    async def copy_aside(self) -> tuple[OpenCopy, int]:
        """Copy the state; return the copy and its rows, about. Raises CheckpointRefused."""
        ...


class Backups:
    """Streams them."""

    def __init__(
        self,
        node: Node,
        reads: Reads,
        copier: Copier,
        header: Callable[[], common_pb2.ResponseHeader],
        cluster_id: int,
        *,
        beat_s: float = BEAT_S,
    ) -> None:
        self._beat_s = beat_s
        self._node = node
        self._reads = reads
        self._copier = copier
        self._header = header
        self._cluster_id = cluster_id
        self._running = 0

    async def stream(
        self, request: pb.SnapshotRequest, context: grpc.aio.ServicerContext[pb.SnapshotRequest, pb.SnapshotPart]
    ) -> AsyncIterator[pb.SnapshotPart]:
        """Answer a call of Maintenance.Snapshot."""
        try:
            async for part in self.parts(request):
                yield part
        except CheckpointRefused as error:
            refusal = Overloaded(
                f"node {self._node.raft.node_id} makes no backup now: {error.message}. Ask another node, or later"
            )
            await abort(context, wire.to_error(refusal))
        except RaftKVError as error:
            await abort(context, wire.to_error(error))

    async def parts(self, request: pb.SnapshotRequest) -> AsyncIterator[pb.SnapshotPart]:
        """Yield the parts. Raises RaftKVError. A disk that fails under the copy stops the node."""
        if self._running >= MAX_BACKUPS:
            raise Overloaded(f"{MAX_BACKUPS} backups of this node are under way already")
        self._running += 1
        try:
            if request.stale:
                self._reads.require_state()
            else:
                await self._reads.catch_up(CATCH_UP_S)
            async with AsyncExitStack() as stack:
                copying = asyncio.ensure_future(self._copier.copy_aside())
                stack.push_async_callback(_give_back, copying)
                async for part in self._beats(copying, 0):
                    yield part
                try:
                    copy, rows = copying.result()
                except StorageError as error:
                    if not isinstance(error, DamagedStore):  # that is said of the copy, not of the disk
                        # The disk has failed, whoever noticed (raft-bugs 39).
                        self._node.on_failure(error)
                    raise
                stop = threading.Event()
                worker = Worker("raftkv-backup")
                stack.push_async_callback(worker.stop)
                stack.callback(stop.set)  # first of all: what goes on in the thread ends then
                beginning = worker.run(
                    lambda: _Backup(copy.reader(stop.is_set), request.revision, rows, self._describe)
                )
                async for part in self._beats(beginning, copy.size):
                    yield part
                backup = beginning.result()
                first: dict[str, Any] = {
                    "header": self._header(),
                    "index": backup.meta.applied_index,
                    "revision": backup.meta.revision,
                }
                sent = 0
                while True:
                    reading = worker.run(backup.next)
                    async for part in self._beats(reading, max(backup.estimate(copy.size) - sent, 0)):
                        yield part
                    data = reading.result()
                    if data is None:
                        break
                    for at in range(0, len(data), PART_BYTES):
                        self._node.require_sound()  # it may have been found wrong since
                        piece = data[at : at + PART_BYTES]
                        sent += len(piece)
                        yield pb.SnapshotPart(
                            data=piece, remaining_bytes=max(backup.estimate(copy.size) - sent, 0), **first
                        )
                        first = {}
                self._node.require_sound()
                log.info("sent a backup", index=backup.meta.applied_index, revision=backup.meta.revision, bytes=sent)
        finally:
            self._running -= 1

    async def _beats(self, job: asyncio.Future[Any], remaining_bytes: int) -> AsyncIterator[pb.SnapshotPart]:
        """Wait until `job` is done; yield a part without data now and then meanwhile."""
        while not (await asyncio.wait({job}, timeout=self._beat_s))[0]:
            yield pb.SnapshotPart(remaining_bytes=remaining_bytes)

    def _describe(self, meta: Meta, as_of: int) -> BackupHeader:
        return BackupHeader(
            state_format=FORMAT,
            cluster_id=self._cluster_id,
            node_id=self._node.raft.node_id,
            index=meta.applied_index,
            term=meta.applied_term,
            revision=meta.revision,
            compacted_revision=meta.compacted_revision,
            as_of=as_of,
            time_ms=meta.time_ms,
            last_token=meta.last_token,
            made_at_ms=int(time.time() * 1000),
            software=raftkv.__version__,
        )


async def _give_back(copying: asyncio.Future[tuple[OpenCopy, int]]) -> None:
    """Close the copy, or see to it that none is made."""
    copying.cancel()
    await asyncio.wait({copying})
    if not copying.cancelled() and copying.exception() is None:
        copying.result()[0].close()


class _Backup:
    """One backup in the making. Used by one thread."""

    def __init__(
        self, reader: Reader, as_of: int, rows_expected: int, describe: Callable[[Meta, int], BackupHeader]
    ) -> None:
        """Raises Compacted, FutureRevision, CheckpointRefused: nothing was ever applied."""
        rows = rewind(reader, as_of) if as_of else reader.scan(b"\0", None)
        meta_row = next(rows, None)
        self.meta = EMPTY_META if meta_row is None else decode_meta(meta_row[1])
        if meta_row is None or not self.meta.applied_index:
            raise CheckpointRefused("nothing has been applied yet")
        self._encoder = BackupEncoder(describe(self.meta, as_of))
        self._pieces = self._encoder.encode(chain((meta_row,), rows))
        self._rows_expected = rows_expected

    def next(self) -> bytes | None:
        """Return the next bytes; None: that was all."""
        return next(self._pieces, None)

    def estimate(self, unknown: int) -> int:
        """Return how many bytes it will have, judging by the rows so far; `unknown`: while there are none."""
        rows = self._encoder.rows
        return self._encoder.row_bytes * max(self._rows_expected, rows) // rows if rows else unknown
