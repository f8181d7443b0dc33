"""Backups as files: written aside and put in place whole, and read with everything checked. Blocks."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from raftkv.errors import ConfigurationError, StorageError
from raftkv.storage.backup_format import BackupDecoder, BackupHeader, BackupSummary, DamagedBackup, Row
from raftkv.storage.files import OsFileSystem
from raftkv.storage.wal_segments import describe_os_error

PART_SUFFIX: Final = ".part"
READ_BYTES: Final = 1 << 20
SYNC_BYTES: Final = 32 << 20


class BackupWriter:
    """Writes PATH.part, checks what it is given, and puts it in place once it is whole and durable.

    Left in any other way than by `finish`, it removes PATH.part, and nothing has changed. Methods raise StorageError.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        """Raises ConfigurationError: there is something at `path` (unless it may be replaced), or no directory for it;
        somebody else is writing there.
        """
        if not path.name:
            raise ConfigurationError(f"{str(path)!r} is no name of a file: name the file of the backup")
        self.path = path
        self._part = path.with_name(path.name + PART_SUFFIX)
        self._replace = replace
        self._decoder = BackupDecoder()
        self._size = 0
        self._fd = -1
        self._require_free()
        try:
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)  # what a process left that was killed
        except BlockingIOError:
            os.close(self._fd)
            raise ConfigurationError(f"{self._part} is being written by another process") from None
        except OSError as error:
            if self._fd >= 0:
                os.close(self._fd)
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Take the next bytes of the backup. Raises DamagedBackup: what comes is none."""
        self._decoder.feed(data)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            # As it grows: the dirty pages of a large file at once would hold up everybody's flushes.
            if (self._size + len(data)) // SYNC_BYTES > self._size // SYNC_BYTES:
                os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        self._size += len(data)

    def finish(self) -> BackupSummary:
        """Put the backup in place, durably. Raises DamagedBackup: it is not whole; ConfigurationError, as at first."""
        summary = self._decoder.finish()
        try:
            os.fdatasync(self._fd)
            self._publish()
            OsFileSystem().fsync_dir(self.path.parent)
        except OSError as error:
            raise self._failed(error) from error
        return summary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            # First the name, then the lock: nobody else's file is removed.
            self._part.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def _publish(self) -> None:
        if self._replace:
            self._part.rename(self.path)
            return
        try:
            os.link(self._part, self.path)  # unlike a rename, it replaces nothing that has come meanwhile
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            self._require_free()  # a file system without links
            self._part.rename(self.path)
        else:
            self._part.unlink()

    def _require_free(self) -> None:
        if self.path.is_dir():
            raise ConfigurationError(f"{self.path} is a directory: name the file of the backup")
        if not self._replace and os.path.lexists(self.path):
            raise self._taken()

    def _taken(self) -> ConfigurationError:
        return ConfigurationError(f"{self.path} exists: name another file, or give --force to replace it")

    def _failed(self, error: OSError) -> StorageError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(
                f"no room for the backup after {self._size} bytes: {self._part}: {error.strerror}. Nothing of it is "
                "kept. The way out: make room, or name a file on another disk"
            )
        return StorageError(describe_os_error(self._part, error))


class BackupReader:
    """Reads one file, from its beginning to its end."""

    def __init__(self, path: Path, progress: Callable[[int], object] = lambda size: None) -> None:
        """Read the header. `progress` is told, as the file is read, how many bytes came. Raises StorageError."""
        self.path = path
        self._progress = progress
        self._decoder = BackupDecoder()
        self._found: list[list[Row]] = []
        self._summary: BackupSummary | None = None
        try:
            self._file = path.open("rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        try:
            while self._decoder.header is None and self._read():
                pass
            if self._decoder.header is None:
                with self._named():
                    self._decoder.finish()
            assert self._decoder.header is not None
            self.header: BackupHeader = self._decoder.header
        except BaseException:
            self.close()
            raise

    def rows(self) -> Iterator[Row]:
        """Yield all rows. They are worth something once it has come to its end. Raises DamagedBackup."""
        while True:
            for frame in self._found:
                yield from frame
            self._found = []
            if not self._read():
                break
        with self._named():
            self._summary = self._decoder.finish()

    @property
    def summary(self) -> BackupSummary:
        """What it is, once `rows` has come to its end."""
        assert self._summary is not None
        return self._summary

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> bool:
        try:
            data = self._file.read(READ_BYTES)
        except OSError as error:
            raise StorageError(describe_os_error(self.path, error)) from error
        with self._named():
            self._found += self._decoder.feed(data)
        self._progress(len(data))
        return bool(data)

    def _named(self) -> _Named:
        return _Named(self.path)


class _Named:
    """Puts the file's name before what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DamagedBackup):
            raise DamagedBackup(f"{self._path}: {error.message}") from error.__cause__
