"""Finds rotten files of a running node, and heals them: all that they hold, the node has in memory and in its store.

A closed segment is dropped from the log, once a checkpoint has what is in it. A checkpoint is replaced by a new one.
Until then the alarm DAMAGED is on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import structlog

from raftkv.errors import ShuttingDown
from raftkv.invariant import InvariantViolation
from raftkv.server.alarms import Alarms
from raftkv.server.checkpoints import Checkpoints
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.files import FileSystem
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.scrub import DamagedChunks, DamagedSegment, Finding, scrub_checkpoint, scrub_log
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.worker import Runner, Worker
from raftkv.v1 import cluster_pb2 as pb

log = structlog.get_logger("raftkv.scrubber")

ROUND_S: Final = 600.0
"""From one round to the next, in seconds, or longer: a small directory need not be read all the time."""
HEAL_S: Final = 5.0
"""What could not be healed yet is tried again after so many seconds."""


class Scrubber:
    """Reads the cold files of one node again and again."""

    def __init__(
        self,
        *,
        wal: WriteAheadLog,
        store: CheckpointStore[LmdbStore],
        checkpoints: Checkpoints,
        alarms: Alarms,
        applied_index: Callable[[], int],
        files: FileSystem,
        bytes_per_s: int,
        round_s: float = ROUND_S,
        heal_s: float = HEAL_S,
        make_runner: Callable[[str], Runner] = Worker,
    ) -> None:
        """`applied_index` says up to which entry the state is applied; `bytes_per_s` 0: nothing is ever read."""
        self._wal = wal
        self._store = store
        self._checkpoints = checkpoints
        self._alarms = alarms
        self._applied_index = applied_index
        self._files = files
        self._bytes_per_s = bytes_per_s
        self._round_s = round_s
        self._heal_s = heal_s
        self._make_runner = make_runner
        self._status = pb.ScrubStatus()
        self._damaged: dict[str, Finding] = {}
        """By file: what was found and is not healed yet."""
        self._runner: Runner | None = None

    def status(self) -> pb.ScrubStatus:
        """Say what was read since the process started, and how many damaged files were found."""
        return self._status

    async def run(self) -> None:
        """Go round after round; ends with the task."""
        if not self._bytes_per_s:
            return
        self._runner = self._make_runner("raftkv-scrub")
        try:
            while True:
                began_s = asyncio.get_running_loop().time()
                await self._round()
                until_s = began_s + self._round_s
                while self._damaged or asyncio.get_running_loop().time() < until_s:
                    left_s = until_s - asyncio.get_running_loop().time()
                    await asyncio.sleep(min(self._heal_s, max(left_s, 0)) if not self._damaged else self._heal_s)
                    await self._heal_all()
        finally:
            await self._runner.stop()

    async def _round(self) -> None:
        await self._read(scrub_log(self._files, self._wal.directory, self._wal.extent))
        for manifest in self._store.valid:
            await self._read(scrub_checkpoint(self._files, self._store.path, manifest))
        self._status.rounds += 1
        self._status.finished_at_ms = int(time.time() * 1000)

    async def _read(self, reading: Iterator[int | Finding]) -> bool:
        """Read on at the pace that was asked for. Return whether nothing was found."""
        if self._runner is None:
            raise InvariantViolation("the scrubber does not run")
        clean = True
        while True:
            # In a thread: the disk may take its time, and the event loop waits for none.
            step = await self._runner.run(partial(next, reading, None))
            if step is None:
                return clean
            if isinstance(step, int):
                self._status.scrubbed_bytes += step
                await asyncio.sleep(step / self._bytes_per_s)
            else:
                clean = False
                await self._found(step)

    async def _found(self, finding: Finding) -> None:
        if str(finding.path) in self._damaged:
            return
        log.error("a damaged file was found", file=str(finding.path), problem=str(finding))
        self._status.damaged_files += 1
        self._damaged[str(finding.path)] = finding
        if isinstance(finding, DamagedChunks):
            self._store.condemn(finding.manifest, finding.problem)
        self._tell()
        await self._heal_all()

    def _tell(self) -> None:
        if not self._damaged:
            self._alarms.clear(pb.DAMAGED)
            return
        found = "; ".join(str(one) for one in self._damaged.values())
        self._alarms.set(
            pb.DAMAGED,
            f"damaged: {found}. Nothing is lost: the node has all of it, and a new checkpoint takes its place, as soon "
            "as one can be made. Have the disk looked at",
        )

    async def _heal_all(self) -> None:
        for path, finding in list(self._damaged.items()):
            try:
                healed = await (
                    self._heal_segment(finding) if isinstance(finding, DamagedSegment) else self._heal_chunks(finding)
                )
            except CheckpointRefused as error:
                log.warning("a damaged file is not replaced yet", file=path, reason=error.message)
                continue
            except ShuttingDown:
                return
            if healed:
                log.info("a damaged file was replaced", file=path)
                self._damaged.pop(path, None)
                self._tell()

    async def _heal_segment(self, found: DamagedSegment) -> bool:
        """Make a checkpoint that has what is in the segment, and drop the segment. Raises CheckpointRefused."""
        if self._wal.extent()[0] > found.sequence:
            return True
        cut = self._wal.cut_behind(found.sequence)
        if cut is None or self._applied_index() < cut - 1:
            return False
        await self._checkpoints.make_now()
        newest = self._store.newest
        # The log's front is given up for it: it must be what was written, as the disk has it.
        if newest is None or not await self._read(scrub_checkpoint(self._files, self._store.path, newest)):
            return False
        return await self._checkpoints.cut(cut) and self._wal.extent()[0] > found.sequence

    async def _heal_chunks(self, found: DamagedChunks) -> bool:
        """Have a checkpoint replaced that was condemned. Raises CheckpointRefused."""
        await self._checkpoints.make_now()
        await self._store.forget_damaged()
        now = next((one for one in self._store.valid if one.index == found.manifest.index), None)
        # Gone, or one of the same entry was made anew in its place.
        return now is not None or found.path.name not in self._files.names(found.path.parent)
