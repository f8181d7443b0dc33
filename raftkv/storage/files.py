"""The file operations that storage is built on: all that a disk can get wrong passes through here.

Production uses `OsFileSystem`; tests put a simulated disk in its place, which loses, tears and reorders what was not
synced, and fails on request. Every operation raises OSError as the kernel reports it; callers turn it into
StorageError where they know what it means.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

_ZEROS = bytes(1 << 20)


class File(Protocol):
    """An open file. Nothing written is durable before the next `fdatasync` returns."""

    def pread(self, size: int, offset: int) -> bytes:
        """Read up to `size` bytes at `offset`; fewer are returned at the end of the file only."""
        ...

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        """Write at `offset` and return how many bytes were taken, which may be fewer than given."""
        ...

    def fallocate(self, size: int) -> None:
        """Reserve the first `size` bytes; new ones read as zero. EOPNOTSUPP where the file system cannot."""
        ...

    def fdatasync(self) -> None:
        """Flush the contents, and the size that is needed to read them. After a failure nothing is known of them."""
        ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class FileSystem(Protocol):
    """Directories and names. A name created, replaced or removed is durable only after `fsync_dir` (raft-bugs 33)."""

    def open(self, path: Path) -> File:
        """Open an existing file for reading and writing."""
        ...

    def create(self, path: Path) -> File:
        """Create an empty file for reading and writing, or empty an existing one."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, atomically replacing what had it."""
        ...

    def unlink(self, path: Path) -> None: ...

    def mkdir(self, path: Path) -> None:
        """Create a directory whose parent exists; it may be there already."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Return the names in `directory`, sorted."""
        ...

    def fsync_dir(self, directory: Path) -> None: ...


class OsFile:
    """A file of the operating system. Its errors name it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pread(self, size: int, offset: int) -> bytes:
        parts = []
        try:
            while size:
                part = os.pread(self._fd, size, offset)
                if not part:
                    break
                parts.append(part)
                size -= len(part)
                offset += len(part)
        except OSError as error:
            raise self._named(error) from error
        return b"".join(parts)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        try:
            return os.pwrite(self._fd, data, offset)
        except OSError as error:
            raise self._named(error) from error

    def fallocate(self, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            raise self._named(error) from error

    def fdatasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._named(error) from error

    def drop_cache(self) -> None:
        """Let the kernel forget what it has read of the file; what is not on the disk yet stays."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _named(self, error: OSError) -> OSError:
        """Return the error with the file's name of now, where the kernel tells it (Linux)."""
        try:
            path = str(Path(f"/proc/self/fd/{self._fd}").readlink())
        except OSError:
            return error
        return OSError(error.errno, error.strerror, path)


class OsFileSystem:
    """The file system of the operating system."""

    def open(self, path: Path) -> File:
        return OsFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def create(self, path: Path) -> File:
        return OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        return sorted(entry.name for entry in directory.iterdir())

    def fsync_dir(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def read_file(files: FileSystem, path: Path) -> bytes:
    """Return what `path` holds. Raises OSError; FileNotFoundError where there is none."""
    file = files.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def drop_cache(file: File) -> None:
    """Make the next reads of `file` come from the disk, where that can be done."""
    if isinstance(file, OsFile):
        file.drop_cache()


def file_size(files: FileSystem, path: Path) -> int:
    """Return the size of `path`. Raises OSError."""
    file = files.open(path)
    try:
        return file.size()
    finally:
        file.close()


def write_all(file: File, data: bytes, offset: int) -> None:
    """Write all of `data`, going on after short writes."""
    written = file.pwrite(data, offset)
    while written < len(data):
        more = file.pwrite(memoryview(data)[written:], offset + written)
        if more == 0:
            raise OSError(errno.EIO, "the disk took no more bytes")
        written += more


def preallocate(file: File, size: int) -> None:
    """Reserve `size` zero bytes, so that appending changes no metadata and cannot run out of space.

    Writes the zeros where the file system cannot reserve them (NFS, some FUSE and overlay file systems).
    """
    try:
        file.fallocate(size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        write_zeros(file, 0, size)


def write_zeros(file: File, start: int, stop: int) -> None:
    """Overwrite [start, stop) with zeros."""
    for offset in range(start, stop, len(_ZEROS)):
        write_all(file, _ZEROS[: stop - offset], offset)


def free_bytes(path: Path) -> int:
    """Return how much room the file system of `path` has for whoever is not root."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


class FlushFailed(OSError):
    """A flush failed: nothing is known any more of what was to be flushed, whatever the reason (raft-bugs 39)."""


def is_full(error: OSError) -> bool:
    """Whether something did not happen for want of room, and may be tried again.

    A flush that failed is no such thing, whatever the reason: what was to be flushed may be gone (raft-bugs 39).
    """
    return error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, FlushFailed)


def flush(file: File) -> None:
    """Flush `file`. Raises FlushFailed, so that it is not taken for a write that did not happen."""
    try:
        file.fdatasync()
    except OSError as error:
        raise FlushFailed(error.errno, error.strerror, error.filename) from error


def flush_dir(files: FileSystem, directory: Path) -> None:
    """Flush the names in `directory`. Raises FlushFailed."""
    try:
        files.fsync_dir(directory)
    except OSError as error:
        raise FlushFailed(error.errno, error.strerror, error.filename) from error


def publish_file(files: FileSystem, path: Path, content: bytes, *, reserve_bytes: int = 0) -> File:
    """Create or replace `path` so that a crash leaves the old file or the whole new one; return it open.

    The order is the point: contents are durable before the name is, and the name before anybody relies on it
    (raft-bugs 33). `reserve_bytes` preallocates beyond `content`. Raises OSError: the old file is there, and perhaps a
    temporary one; FlushFailed: either may be.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    file = files.create(temporary)
    try:
        if reserve_bytes:
            preallocate(file, reserve_bytes)
        write_all(file, content, 0)
        flush(file)
        files.rename(temporary, path)
        flush_dir(files, path.parent)
    except OSError:
        file.close()
        raise
    return file


TEMPORARY_SUFFIX = ".tmp"
"""Marks a file that was never published; whoever opens the directory removes it."""
