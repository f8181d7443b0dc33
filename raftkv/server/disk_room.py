"""How much room the data directory's file system has, and what a node does when there is little of it.

There are two floors, so that a cluster whose disks fill up at the same pace never comes to the second one:

- Below the reserve, a node does not want to lead. If it leads on all the same, because no other node is any better, it
  refuses what clients write. Its log still takes what is in flight, and the entries that elections and upkeep need:
  that is what the reserve is for.
- Below half of it, or where something has found no room at all, a follower says that it is full. It is sent entries
  only where no quorum is to be had without it, and then the leader refuses what clients write. What is sent all the
  same it takes into the room that its log has reserved already, and drops when that ends, as if it were lost: a little
  of it is kept for votes.

Votes, reads and what is committed already go on in any case.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from raftkv.errors import ConfigurationError, SpaceExceeded
from raftkv.kv.commands import Command, Compact, Expire, KeepAlive, Release, RevokeLease, Sweep
from raftkv.storage.worker import Runner

LOOK_S: Final = 0.25
"""How often the file system is asked: it takes microseconds, and a fast writer fills a lot in a second."""

GRACE_S: Final = 0.25
"""A leader that has just run out of room takes writes for so long, in seconds: it is handing over, if it can, and what
comes in meanwhile goes to the next leader."""

CLEAR_SHARE: Final = 4
"""The alarm ends when there is a quarter more than the reserve: a node should not change its mind by the page."""

VOTES_BYTES: Final = 16 << 10
"""So much of what the log has reserved is kept for votes and terms: each takes less than 100 bytes."""

PATIENT_LOOKS: Final = 20
"""What found no room is tried again after so many looks at the latest; earlier when there is more of it."""


class DiskRoom:
    """The room of one node. A node that knows nothing of it has DiskRoom()."""

    def __init__(
        self,
        free_bytes: Callable[[], int] | None = None,
        reserve_bytes: int = 0,
        where: str = "the data directory",
        *,
        look_s: float = LOOK_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`free_bytes` asks the file system, and may block; None: nobody looks. `reserve_bytes` 0: no reserve.

        `now_s` gives seconds of a clock that never goes back.
        """
        self._ask = free_bytes
        self.reserve_bytes = reserve_bytes
        self._where = where
        self._look_s = look_s
        self._now_s = now_s
        self.free_bytes = 0
        """As of the last look."""
        self.starved_count = 0
        """How often something has found no room."""
        self._low = False
        self._exhausted = False
        self._low_since_s: float | None = None
        self._starving: dict[str, str] = {}
        """What waits for room, and what it was told."""

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def low(self) -> bool:
        """Whether this node should not lead for want of room."""
        return self._low or bool(self._starving)

    @property
    def refuses_writes(self) -> bool:
        """Whether a leader refuses what clients write."""
        return self._low_since_s is not None and self._now_s() - self._low_since_s >= GRACE_S

    @property
    def full(self) -> bool:
        """Whether a follower should get no commands that others can commit without it."""
        return self._exhausted or bool(self._starving)

    def takes(self, size_bytes: int, reserved_bytes: int) -> bool:
        """Whether a follower takes commands in, or drops them: with them its log is to write `size_bytes`, and has
        `reserved_bytes` for whatever is free.
        """
        return not self.full or (not self._starving and size_bytes + VOTES_BYTES <= reserved_bytes)

    @property
    def problem(self) -> str:
        """Say what is wrong, and the way out, while it is `low`."""
        if self._starving:
            told = "; ".join(dict.fromkeys(self._starving.values()))
            return f"{told}. The node waits, takes no further writes, and goes on by itself once there is room"
        return (
            f"{self.free_bytes} bytes are free on the file system of {self._where}, less than the reserve of "
            f"{self.reserve_bytes} bytes (--disk-reserve-bytes): no further writes are taken until {self.clears_at} "
            "bytes are free. The way out: free or add space; the node goes on by itself"
        )

    @property
    def clears_at(self) -> int:
        return self.reserve_bytes + self.reserve_bytes // CLEAR_SHARE

    def refusal(self) -> SpaceExceeded:
        """Return the error for what clients write."""
        return SpaceExceeded(f"the disk of the leader is full: {self.problem}")

    # --- what happens -------------------------------------------------------------------------------------------------

    def note(self, free_bytes: int) -> None:
        """Take in what a look at the file system has shown."""
        self.free_bytes = free_bytes
        self._low = free_bytes < (self.clears_at if self._low else self.reserve_bytes)
        floor = self.reserve_bytes if self._exhausted else self.reserve_bytes // 2
        self._exhausted = free_bytes < floor
        self._changed()

    def starve(self, what: str, problem: str) -> None:
        """`what` (the log, the state) has found no room, and waits."""
        self.starved_count += 1
        self._starving[what] = problem
        self._changed()

    def feed(self, what: str) -> None:
        """`what` has found room."""
        self._starving.pop(what, None)
        self._changed()

    def _changed(self) -> None:
        if not self.low:
            self._low_since_s = None
        elif self._low_since_s is None:
            self._low_since_s = self._now_s()

    async def pause(self) -> None:
        """Return when it is worth trying again."""
        began_with = self.free_bytes
        for _ in range(PATIENT_LOOKS if self._ask is not None else 1):
            await asyncio.sleep(self._look_s)
            if self.free_bytes > began_with:
                return

    @property
    def is_watched(self) -> bool:
        """Whether there is anything to look at."""
        return self._ask is not None

    async def watch(self, runner: Runner, tell: Callable[[], None]) -> None:
        """Look, in `runner`, for as long as the node runs, and call `tell` after each look."""
        if self._ask is None:
            return
        while True:
            self.note(await runner.run(self._ask))
            tell()
            await asyncio.sleep(self._look_s)


def voters_full(nodes: Sequence[int]) -> SpaceExceeded:
    """Return the error for what clients write where a leader has room, and too few others have."""
    named = ", ".join(str(node) for node in nodes)
    return SpaceExceeded(
        f"the disks of too many voters are full (of those that answer: nodes {named}): less than half of "
        "--disk-reserve-bytes is free there, or something has found no room. The way out: free or add space there; the "
        "nodes go on by themselves"
    )


def require_fits(reserve_bytes: int, data_dir: Path) -> None:
    """Raise ConfigurationError for a reserve that the file system of `data_dir` can never have free."""
    there = next(one for one in (data_dir.absolute(), *data_dir.absolute().parents) if one.exists())
    size_bytes = shutil.disk_usage(there).total
    if reserve_bytes > size_bytes:
        raise ConfigurationError(
            f"--disk-reserve-bytes ({reserve_bytes}) exceeds the size of the disk of {data_dir}, {size_bytes} bytes: "
            "the node would never take a write"
        )


def must_go_on(command: Command) -> bool:
    """Whether a command is taken all the same: who holds something must not lose it, and what frees is welcome.

    They are small, and the reserve has room for very many of them.
    """
    return isinstance(command, KeepAlive | Release | RevokeLease | Expire | Compact | Sweep)
