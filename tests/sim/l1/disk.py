"""A node's disk under virtual time: the log's files on a SimDisk, the state store in memory, and who does the work.

Everything that is kept here outlives the process. What survives its end depends on how it ended: a process that is
killed loses nothing that it wrote; a machine that loses power loses what was not synced, in whole or in part.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeVar

from raftkv.errors import NoRoom, RaftKVError
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from tests.crash.files import calling_place
from tests.storage.simdisk import PowerLoss, SimDisk, sectors

T = TypeVar("T")

ROW_BYTES = 60
"""What a row of the store takes besides its value, roughly."""
MEASURE_ROWS = 32

COPY_BLOCK_BYTES = 4096
"""A copy of a store is written in blocks of this size, or of a row."""

TORN = 0.5
"""How often a power loss tears the last unsynced write of a file, instead of what `SimDisk` draws."""

OPERATIONS_BEFORE_A_CRASH = (0, 0, 1, 1, 1, 2, 2, 2, 3, 5, 9)
"""How many disk operations of a job happen when a crash interrupts it. An append takes two or three, a new segment
eight."""


RECOVER = "recover"
WORK = {
    "SegmentWriter._append_record": "append",
    "SegmentWriter._zero_ahead": "append",
    "SegmentWriter._create < SegmentWriter._roll": "rotate",
    "SegmentWriter._create < SegmentWriter.prepare_next": "rotate",
    "SegmentWriter._rebase < SegmentWriter.compact": "compact",
    "SegmentWriter.delete_one": "compact",
    "_write_chunks": "checkpoint",
    "CheckpointDirectory.copy_state": "checkpoint",
    "CheckpointDirectory.publish < CheckpointStore._publish_created": "checkpoint",
    "CheckpointDirectory._delete": "prune checkpoints",
    "Incoming.": "install: receive",
    "CheckpointDirectory.begin_incoming": "install: receive",
    "CheckpointDirectory.drop_incoming": "install: receive",
    "CheckpointDirectory.publish < Incoming.finish": "install: publish",
    "SegmentWriter._rebase < SegmentWriter.restart": "install: restart the log",
    "SegmentWriter._create < SegmentWriter.restart": "install: restart the log",
    "SegmentWriter.resume": RECOVER,
    "SegmentWriter._create < SegmentWriter.start": RECOVER,
    "open_segments": RECOVER,
    "_clean_up": RECOVER,
    "CheckpointDirectory.load": RECOVER,
    "DataDir._write_boot": RECOVER,
}
"""What a disk was at, by where the product's code called it."""
TRUNCATE = "truncate"
"""An append of entries that take the place of others."""


class AimedPowerLoss(PowerLoss):
    """See `NodeDisk.aim`."""


class NodeDisk(SimDisk):
    """A SimDisk that counts the faults that really happened, and what its power losses have interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.fired: Counter[str] = Counter()
        """Faults that an operation has met, by the operation's name."""
        self.truncating = False
        """Whether the append that is under way replaces entries."""
        self.interrupted: list[str] = []
        """What this death has interrupted (`WORK`)."""
        self.lost: Counter[str] = Counter()
        """Power losses in the middle of some work, and of writes and names that nobody had synced."""
        self.aim: dict[str, int] = {}
        """Lose power at such work, after so many operations of it (`aimed`)."""
        self.power_fails: Callable[[], object] | None = None
        """Called when it does."""

    @property
    def faults_fired(self) -> int:
        return self.fired.total()

    def fault(self, operation: str) -> None:
        before = len(self.faults)
        try:
            super().fault(operation)
        finally:
            if len(self.faults) < before:
                self.fired[operation] += 1

    def step(self, operation: str) -> None:
        try:
            super().step(operation)
        except PowerLoss:
            self.interrupted.append(self._work())
            raise
        if self.aim and (work := self._work()) in self.aim:
            self.aim[work] -= 1
            if self.aim[work] < 0:
                self.aim = {}
                self.interrupted.append(work)
                raise AimedPowerLoss

    def _work(self) -> str:
        place = calling_place()
        work = next((work for start, work in WORK.items() if place.startswith(start)), place)
        return TRUNCATE if work == "append" and self.truncating else work

    def lose_power(self, random: Random) -> None:
        """As SimDisk does; and often the last write of each file, most of all a record, is torn."""
        self.lost.update(f"power lost: {work}" for work in self.interrupted)
        self.interrupted.clear()
        self.lost["power lost: unsynced writes"] += any(inode.dirty for inode in self._names.values())
        before = dict(self._names)
        for path in sorted(self._names):
            inode = self._names[path]
            if inode.dirty and random.random() < TORN:
                *earlier, (offset, data) = inode.dirty
                for start, piece in earlier:
                    inode.apply(inode.durable, start, piece)
                for start, piece in sectors(offset, data):
                    if random.random() < 0.5:
                        inode.apply(inode.durable, start, piece[: random.randint(1, len(piece))])
                inode.dirty.clear()
        super().lose_power(random)
        self.lost["power lost: names"] += before.keys() != self._names.keys()


class CrashableStore(MemoryOrderedStore):
    """The ordered store with LMDB's semantics when commits are not synced.

    Every commit survives the death of the process. A power loss leaves a mixture of what was flushed and what was
    written since, row by row: worthless, and no one can tell by looking at it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._flushed: dict[bytes, bytes] = {}
        self._measured = 0, 0
        """How many rows there were when their values were last added up, and what these took."""

    def flush(self) -> None:
        """Make everything durable, as a clean shutdown does."""
        self._flushed = dict(self._values)

    def lose_power(self, random: Random) -> None:
        """Leave of what was not flushed whatever the seed says."""
        kept = {}
        for key in sorted(self._values.keys() | self._flushed.keys()):
            value = random.choice((self._values, self._flushed)).get(key)
            if value is not None:
                kept[key] = value
        self._replace(kept)

    def size_bytes(self) -> int:
        rows = len(self._values)
        if abs(rows - self._measured[0]) >= MEASURE_ROWS:
            self._measured = rows, sum(len(value) for value in self._values.values())
        return rows * ROW_BYTES + self._measured[1]

    @contextlib.contextmanager
    def copy(self) -> Iterator[Iterator[bytes]]:
        """As `MemoryOrderedStore` does, in blocks as a disk takes them, not row by row."""
        with MemoryOrderedStore.copy(self) as rows:
            yield _blocks(rows)

    def discard(self) -> bool:
        """Throw the store away; return whether there was anything in it."""
        found = bool(self._values)
        self._replace({})
        return found

    def _replace(self, values: dict[bytes, bytes]) -> None:
        self._values, self._keys, self._snapshots = values, sorted(values), 0
        self._flushed = dict(values)


def _blocks(rows: Iterator[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for row in rows:
        block += row
        if len(block) >= COPY_BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


class CrashableEngine(MemoryEngine):
    """The `StateEngine` of CrashableStores. What is swapped in is durable, as LMDB's copy is."""

    def __init__(self, disk: NodeDisk, swapped: Callable[[CrashableStore], None]) -> None:
        super().__init__(disk)
        self._swapped = swapped

    def prepare(self, blocks: Iterator[bytes]) -> None:
        self._prepared = store = CrashableStore.of_copy(b"".join(blocks))
        store.flush()

    def swap(self, store: MemoryOrderedStore | None) -> MemoryOrderedStore:
        swapped = super().swap(store)
        if not isinstance(swapped, CrashableStore):
            raise TypeError("this engine prepares nothing else")
        self._swapped(swapped)
        return swapped


class SimRunner:
    """What stands in for a thread of the storage: does each job at the end of the time that the disk takes for it.

    Implements `raftkv.storage.worker.Runner`.
    """

    def __init__(self, disk: NodeDisk, latency_s: Callable[[], float]) -> None:
        self._disk = disk
        self._latency_s = latency_s
        self._jobs: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._crashed = False
        self.faults = 0
        """Injected faults that its jobs have met, but for want of room."""
        self.on_begin: Callable[[], object] | None = None
        """Called once, when the next job is taken up: for faults that are to hit the disk at work."""

    def run(self, job: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, future))
        if self._timer is None:
            self._begin()
        return future

    async def stop(self) -> None:
        if self._jobs:
            await asyncio.wait([self._jobs[-1][1]])

    def crash(self, random: Random) -> bool:
        """The process dies: the job under way gets part of the way, the others are never begun.

        Return whether there was one.
        """
        self._crashed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._jobs:
            return False
        operations = random.choice(OPERATIONS_BEFORE_A_CRASH)
        if operations:
            self._disk.crash_at = len(self._disk.trace) + operations
            # A job may also fail by itself: nobody is left who could hear of it.
            with contextlib.suppress(PowerLoss, RaftKVError):
                self._jobs[0][0]()
            self._disk.crash_at = None
        return True

    def _begin(self) -> None:
        strike, self.on_begin = self.on_begin, None
        if strike is not None:
            strike()
        self._timer = asyncio.get_running_loop().call_later(self._latency_s(), self._finish)

    def _finish(self) -> None:
        self._timer = None
        if self._crashed:
            return
        job, future = self._jobs[0]
        result, error = None, None
        before = self._disk.faults_fired
        try:
            result = job()
        except AimedPowerLoss:
            self._jobs.clear()
            self._crashed = True
            if self._disk.power_fails is not None:
                self._disk.power_fails()
            return
        except Exception as raised:  # noqa: BLE001 - handed to the caller, as the thread does
            error = raised
        if not isinstance(error, NoRoom):  # it has changed nothing, and is made again
            self.faults += self._disk.faults_fired - before
        self._jobs.popleft()
        if self._jobs:
            self._begin()
        if future.done():
            return  # whoever waited was cancelled; the work is done all the same
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
