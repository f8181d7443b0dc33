"""A file system that reads what is there, and keeps to itself whatever is written: to try things out.

`raftkv doctor` lets the code of a start run on it, and `raftkv repair` what it is about to do: so neither can come to
another verdict than the start itself, and the directory may be a copy that is mounted read-only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from raftkv.storage.files import File
from raftkv.storage.memory_files import MemoryFile


class ReadOnlyFile:
    """A file of the operating system that nobody writes through this."""

    __slots__ = ("_fd", "_progress")

    def __init__(self, path: Path, progress: Callable[[int], object]) -> None:
        self._progress = progress
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, size: int, offset: int) -> bytes:
        parts = []
        while size:
            part = os.pread(self._fd, size, offset)
            if not part:
                break
            parts.append(part)
            self._progress(len(part))
            size -= len(part)
            offset += len(part)
        return b"".join(parts)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class _OverlayFile:
    """Reads through to the disk, until the first write."""

    def __init__(self, overlay: Overlay, path: Path) -> None:
        self._overlay = overlay
        self._path = path
        self._below: ReadOnlyFile | None = ReadOnlyFile(path, overlay.progress)
        self._above: MemoryFile | None = None

    def pread(self, size: int, offset: int) -> bytes:
        return self._file().pread(size, offset)

    def size(self) -> int:
        return self._file().size()

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        return self._changed().pwrite(data, offset)

    def fallocate(self, size: int) -> None:
        self._changed().fallocate(size)

    def fdatasync(self) -> None: ...

    def close(self) -> None:
        if self._below is not None:
            self._below.close()
            self._below = None

    def _file(self) -> ReadOnlyFile | MemoryFile:
        file = self._above or self._below
        if file is None:
            raise OSError(errno.EBADF, "the file is closed", str(self._path))
        return file

    def _changed(self) -> MemoryFile:
        if self._above is None:
            below = self._file()
            content = bytearray(below.pread(below.size(), 0))
            self.close()
            self._overlay.contents[self._path] = content
            self._above = MemoryFile(content)
        return self._above


class Overlay:
    """The `FileSystem` over a directory that is left as it is."""

    def __init__(self, progress: Callable[[int], object] = lambda size: None) -> None:
        """`progress` is told how many bytes were read of the disk."""
        self.progress = progress
        self.contents: dict[Path, bytearray] = {}
        """Files that were written."""
        self._hidden: set[Path] = set()
        """Files and directories that were deleted or renamed."""
        self._directories: set[Path] = set()

    def fork(self) -> Overlay:
        """Return another one that begins with what was written to this one."""
        other = Overlay()
        other.contents = {path: bytearray(content) for path, content in self.contents.items()}
        other._hidden = set(self._hidden)
        other._directories = set(self._directories)
        return other

    def open(self, path: Path) -> File:
        if path in self.contents:
            return MemoryFile(self.contents[path])
        if self._is_hidden(path):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return _OverlayFile(self, path)

    def create(self, path: Path) -> File:
        self.contents[path] = bytearray()
        return MemoryFile(self.contents[path])

    def rename(self, source: Path, target: Path) -> None:
        if source in self._directories or (source.is_dir() and not self._is_hidden(source)):
            self._rename_directory(source, target)
            return
        file = self.open(source)
        try:
            content = self.contents.get(source)
            self.contents[target] = content if content is not None else bytearray(file.pread(file.size(), 0))
        finally:
            file.close()
        self.unlink(source)

    def _rename_directory(self, source: Path, target: Path) -> None:
        for name in self.names(source):
            self.rename(source / name, target / name)
        self._hidden.add(source)
        self._directories.discard(source)
        self._directories.add(target)

    def unlink(self, path: Path) -> None:
        self.open(path).close()
        self.contents.pop(path, None)
        self._hidden.add(path)

    def mkdir(self, path: Path) -> None:
        if path in self.contents or (self.on_disk(path) and not path.is_dir()):
            raise FileExistsError(errno.EEXIST, "a file is in the place of a directory", str(path))
        self._directories.add(path)

    def names(self, directory: Path) -> list[str]:
        found = {path.name for path in (*self.contents, *self._directories) if path.parent == directory}
        if not self._is_hidden(directory) and directory.is_dir():
            found |= {entry.name for entry in directory.iterdir() if entry not in self._hidden}
        elif not found and directory not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(directory))
        return sorted(found)

    def fsync_dir(self, directory: Path) -> None: ...

    def on_disk(self, path: Path) -> bool:
        """Whether `path` is what it is on the disk, untouched: whoever opens it by itself sees the same."""
        return path not in self.contents and not self._is_hidden(path) and path.exists()

    def _is_hidden(self, path: Path) -> bool:
        return path in self._hidden or any(parent in self._hidden for parent in path.parents)
