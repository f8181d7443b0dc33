"""A file system whose flushes are timed: under the log, to tell how long the disk takes."""

from __future__ import annotations

import time
from pathlib import Path

from raftkv.server.tallies import Durations
from raftkv.storage.files import File, FileSystem


class _TimedFile:
    def __init__(self, file: File, flushes: Durations) -> None:
        self._file = file
        self._flushes = flushes
        self.pread = file.pread
        self.pwrite = file.pwrite
        self.fallocate = file.fallocate
        self.size = file.size
        self.close = file.close

    def fdatasync(self) -> None:
        began_s = time.perf_counter()
        self._file.fdatasync()
        self._flushes.observe(time.perf_counter() - began_s)


class TimedFiles:
    """Does what `files` does, and observes every fdatasync that succeeds in `flushes`."""

    def __init__(self, files: FileSystem, flushes: Durations) -> None:
        self._files = files
        self._flushes = flushes
        self.rename = files.rename
        self.unlink = files.unlink
        self.mkdir = files.mkdir
        self.names = files.names
        self.fsync_dir = files.fsync_dir

    def open(self, path: Path) -> File:
        return _TimedFile(self._files.open(path), self._flushes)

    def create(self, path: Path) -> File:
        return _TimedFile(self._files.create(path), self._flushes)
