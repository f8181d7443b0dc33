"""`python -m tests.crash.node`: takes the flags of `raftkv serve` and runs that node, on a `DeadlyFileSystem`.

With FORGETS in its environment it keeps the end of its log in memory: what a test must notice.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import Final

from raftkv.cli import main, node
from raftkv.storage.files import File, write_all
from raftkv.storage.wal_format import SEGMENT_HEADER_BYTES
from tests.crash.files import Control, DeadlyFileSystem

CONTROL: Final = "CRASH_CONTROL"
"""The variable of the environment that names the directory of `Control`."""

FORGETS: Final = "CRASH_FORGETS"
UNWRITTEN: Final = 4
"""Writes that it has said are done, and has not done."""


class ForgetfulFileSystem(DeadlyFileSystem):
    """Says of the last writes to a log that they are done, and does them some writes later."""

    def open(self, path: Path) -> File:
        return _forgetful(path, super().open(path))

    def create(self, path: Path) -> File:
        return _forgetful(path, super().create(path))


def _forgetful(path: Path, file: File) -> File:
    return ForgetfulFile(file) if ".wal" in path.name else file


class ForgetfulFile:
    def __init__(self, file: File) -> None:
        self._file = file
        self._unwritten: deque[tuple[int, bytes]] = deque()

    def pread(self, size: int, offset: int) -> bytes:
        return self._file.pread(size, offset)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        if offset < SEGMENT_HEADER_BYTES:
            return self._file.pwrite(data, offset)
        self._unwritten.append((offset, bytes(data)))
        if len(self._unwritten) > UNWRITTEN:
            self._write_one()
        return len(data)

    def fallocate(self, size: int) -> None:
        self._file.fallocate(size)

    def fdatasync(self) -> None:
        self._file.fdatasync()

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        while self._unwritten:
            self._write_one()
        self._file.close()

    def _write_one(self) -> None:
        offset, data = self._unwritten.popleft()
        write_all(self._file, data, offset)


def run() -> None:
    data_dir = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    kind = ForgetfulFileSystem if FORGETS in os.environ else DeadlyFileSystem
    files = kind(data_dir, Control(Path(os.environ[CONTROL])))
    # The command line of production, with another file system below.
    setattr(node, "run_node", partial(node.run_node, files=files))  # noqa: B010 - it is no variable to mypy
    sys.argv[1:1] = ["serve"]
    main()


if __name__ == "__main__":
    run()
