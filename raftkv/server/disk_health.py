"""What a node's disk makes of the node: what it says of its fitness to lead, and which alarms it raises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from raftkv.errors import NoRoom
from raftkv.raft import Entry, Fitness, HardState, Index, Term
from raftkv.server.alarms import Alarms
from raftkv.server.clock import Clock
from raftkv.server.disk_pace import DiskPace
from raftkv.server.disk_room import DiskRoom
from raftkv.server.fitness import Objections
from raftkv.storage.files import free_bytes
from raftkv.storage.protocols import LogStore
from raftkv.storage.worker import Worker
from raftkv.v1 import cluster_pb2 as pb

PACE_S: Final = 0.05
"""How often the pace of the log is looked at."""


class DiskHealth:
    """The room and the pace of one node's disk."""

    def __init__(self, room: DiskRoom, pace: DiskPace) -> None:
        self.room = room
        self.pace = pace
        self._tell: Callable[[], None] = lambda: None

    def watched(self, log_store: LogStore) -> LogStore:
        """Return `log_store` with every write measured, and with patience where there is no room."""
        return _WatchedLog(log_store, self)

    def bind(self, objections: Objections, alarms: Alarms, set_full: Callable[[bool], None]) -> None:
        """Say from now on what there is to say, to these."""

        def tell() -> None:
            for alarm, reason, bad, part in (
                (pb.DISK_FULL, "full disk", self.room.low, self.room),
                (pb.SLOW_DISK, "slow disk", self.pace.slow, self.pace),
            ):
                if bad:
                    alarms.set(alarm, part.problem)
                else:
                    alarms.clear(alarm)
                objections.set(reason, Fitness.HINDERED if bad else Fitness.FIT)
            set_full(self.room.full)

        self._tell = tell

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what is to be run for as long as the node runs, by name."""
        return [("disk-room", self._watch_room()), ("disk-pace", self._watch_pace())]

    def starve(self, what: str, error: NoRoom) -> None:
        """See `DiskRoom.starve`."""
        self.room.starve(what, error.message)
        self._tell()

    def feed(self, what: str) -> None:
        """See `DiskRoom.feed`."""
        self.room.feed(what)
        self._tell()

    async def with_room(self, what: str, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `job`, again and again while it raises NoRoom. `what` says who waits."""
        starved = False
        while True:
            try:
                await job()
            except NoRoom as error:
                starved = True
                self.starve(what, error)
                await self.room.pause()
                continue
            if starved:
                self.feed(what)
            return

    def status(self) -> pb.DiskStatus:
        """Return what the node says of its disk."""
        return pb.DiskStatus(
            free_bytes=self.room.free_bytes,
            reserve_bytes=self.room.reserve_bytes,
            write_us=int(self.pace.average_s * 1e6),
            slowest_write_us=int(self.pace.longest_s * 1e6),
        )

    async def _watch_room(self) -> None:
        if self.room.is_watched:
            # A thread of its own, which nobody waits for in the end: on a disk that hangs it may never come back.
            worker = Worker("raftkv-room")
            try:
                await self.room.watch(worker, self._tell)
            finally:
                worker.dismiss()

    async def _watch_pace(self) -> None:
        was_slow = False
        while self.pace.slow_s:
            self.pace.look()
            if self.pace.slow or was_slow:
                self._tell()
            was_slow = self.pace.slow
            await asyncio.sleep(PACE_S)


def disk_health(data_dir: Path, clock: Clock, *, reserve_bytes: int, slow_s: float, election_s: float) -> DiskHealth:
    """Return the health of the disk under a data directory."""

    def now_s() -> float:
        return clock.now_ms() / 1000

    room = DiskRoom(lambda: free_bytes(data_dir), reserve_bytes, str(data_dir), now_s=now_s)
    return DiskHealth(room, DiskPace(now_s, slow_s, election_s))


def unwatched(clock: Clock) -> DiskHealth:
    """Return that of a disk that nobody looks at: what finds no room waits all the same."""

    def now_s() -> float:
        return clock.now_ms() / 1000

    return DiskHealth(DiskRoom(now_s=now_s), DiskPace(now_s))


class _WatchedLog:
    """See `DiskHealth.watched`."""

    def __init__(self, log_store: LogStore, health: DiskHealth) -> None:
        self._log_store = log_store
        self._health = health

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """See LogStore; it waits for room instead of raising NoRoom."""

        async def measured() -> None:
            self._health.pace.begin()
            try:
                await self._log_store.append(hard_state, entries)
            finally:
                self._health.pace.end()

        await self._health.with_room("the log", measured)

    async def compact(self, first_kept: Index) -> None:
        await self._health.with_room("the log's base", lambda: self._log_store.compact(first_kept))

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        await self._health.with_room("the log", lambda: self._log_store.restart(hard_state, index, term))

    def size_bytes(self) -> int:
        return self._log_store.size_bytes()

    def reserved_bytes(self) -> int:
        return self._log_store.reserved_bytes()

    async def close(self) -> None:
        await self._log_store.close()
