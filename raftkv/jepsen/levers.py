"""What can be done to a running node from outside: its clock, its disk, the machine's boot. Moved through files.

The other end is in `raftkv.jepsen.node`.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

from raftkv.errors import RaftKVError
from raftkv.testing import disk_faults

PROGRAM: Final = (sys.executable, "-m", "raftkv.jepsen.node")
"""A node that obeys; takes the flags of `raftkv serve`."""
LEVERS: Final = "RAFTKV_JEPSEN_LEVERS"
SABOTAGE: Final = "RAFTKV_JEPSEN_SABOTAGE"
LOSSY: Final = "RAFTKV_JEPSEN_LOSSY_DISK"

BOARD_NAME: Final = "board"
DIAL_NAME: Final = "dial"


class Field(IntEnum):
    """A number on the board. Each is one aligned word, so it is never seen half written."""

    JUMP_MS = 0
    """How far the clock was put forward, in all."""
    RATE_LESS_ONE = 1
    """How much faster than true time the clock runs: 0 true, -0.5 half as fast, -1 it stands still."""
    WALL_MS = 2
    """How far the wall clock is off."""
    LOOKS = 3
    """How often the node has read its clock."""
    AHEAD_MS = 4
    """How far its clock was ahead of true time when it did, since it started."""
    UNSYNCED_BYTES = 5
    """What is written and would be lost by a power loss."""
    STARTS = 6
    """How often the node was started."""


class Board:
    """A few numbers in a file, shared by two processes."""

    def __init__(self, directory: Path) -> None:
        path = directory / BOARD_NAME
        size = len(Field) * 8
        with path.open("a+b") as file:
            if file.seek(0, 2) < size:
                file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._words = memoryview(self._map).cast("d")

    def __getitem__(self, field: Field) -> float:
        return self._words[field]

    def __setitem__(self, field: Field, value: float) -> None:
        self._words[field] = value

    def close(self) -> None:
        self._words.release()
        with contextlib.suppress(BufferError):
            self._map.close()


class Levers:
    """Those of one node. `directory` is shared with the process of the node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.board = Board(directory)
        self._options: tuple[bool, bool, str] = (False, False, "")
        self._rules = disk_faults.Rules(directory / "faults")

    def environment(self, *, lossy: bool, failing: bool, sabotage: str) -> dict[str, str]:
        """Return what the node's process must find in its environment.

        Raises DiskFaultsUnavailable where disks are to fail and cannot.
        """
        self._options = lossy, failing, sabotage
        found = {LEVERS: str(self.directory)}
        if lossy:
            found[LOSSY] = "1"
        if failing:
            found |= disk_faults.environment(self._rules.path)
        if sabotage:
            found[SABOTAGE] = sabotage
        return found

    def for_another(self, node: int) -> tuple[Levers, dict[str, str]]:
        """Return the levers of a node that joins, and its environment: as this one's."""
        lossy, failing, sabotage = self._options
        levers = Levers(self.directory.with_name(str(node)))
        return levers, levers.environment(lossy=lossy, failing=failing, sabotage=sabotage)

    # --- the network ---

    def dial(self, addresses: Mapping[int, str]) -> None:
        """Let the node dial nodes at these addresses that it was not started with; those that join later."""
        temporary = self.directory / (DIAL_NAME + ".tmp")
        temporary.write_text("".join(f"{node}={address}\n" for node, address in addresses.items()))
        temporary.replace(self.directory / DIAL_NAME)

    # --- the clock ---

    def jump_clock(self, milliseconds: float) -> None:
        """Put the node's clock forward, in one step. It cannot be put back: see `raftkv.jepsen.node`."""
        if milliseconds < 0:
            raise ValueError("a clock of the kind that raftkv reads never goes back; `set_clock_rate(0)` stops it")
        self.board[Field.JUMP_MS] += milliseconds

    def set_clock_rate(self, rate: float) -> None:
        """Let the node's clock run `rate` times as fast as it should; 0: it stands still."""
        self.board[Field.RATE_LESS_ONE] = rate - 1

    def set_wall_clock(self, milliseconds: float) -> None:
        """Put the node's wall clock so far off, either way."""
        self.board[Field.WALL_MS] = milliseconds

    @property
    def clock_ahead_ms(self) -> float:
        """How far ahead the node's clock was of a true one when the node last read it; negative: behind."""
        return self.board[Field.AHEAD_MS]

    @property
    def clock_looks(self) -> int:
        """How often the node has read its clock, over all its lives."""
        return int(self.board[Field.LOOKS])

    # --- the disk ---

    @property
    def lossy(self) -> bool:
        """Whether the node's disk forgets, when the process is killed, what was not synced."""
        return self._options[0]

    @property
    def unsynced_bytes(self) -> int:
        """What the node has written and not synced; of a killed one, what it has lost."""
        return int(self.board[Field.UNSYNCED_BYTES])

    @property
    def starts(self) -> int:
        """How often the node was started; on a lossy disk, each is a boot of its machine."""
        return int(self.board[Field.STARTS])

    @property
    def disk(self) -> disk_faults.Rules:
        """The rules by which calls of the node fail. Raises RaftKVError where its disk is not one that fails."""
        if not self._options[1]:
            raise RaftKVError("this node's disk cannot be made to fail: the testbed was made without failing disks")
        return self._rules
