"""The room that checkpoints leave on the disk: they may wait, the log may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.files import free_bytes


class CheckpointRoom:
    """What may be taken on the file system of `path`: all but `reserve_bytes`. 0: nobody looks."""

    def __init__(self, path: Path, reserve_bytes: int = 0, ask: Callable[[Path], int] = free_bytes) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._ask = ask

    def require(self, size: int, what: str) -> None:
        """Raise CheckpointRefused where `what`, which takes another `size` bytes, would touch the reserve. Blocks.

        Raises OSError when the file system cannot be asked.
        """
        if not self._reserve_bytes:
            return
        free = self._ask(self._path)
        if free - size < self._reserve_bytes:
            raise CheckpointRefused(
                f"no room for {what}: it takes {size} bytes, and of the {free} bytes that are free on the file system "
                f"of {self._path}, {self._reserve_bytes} are kept for the log (--disk-reserve-bytes). The way out: "
                "free or add space"
            )
