"""A file system in memory, without faults, for nodes that run without a disk."""

from __future__ import annotations

import errno
from pathlib import Path

from raftkv.storage.files import File


class MemoryFile:
    """An open file. It outlives its name, as on a real disk."""

    __slots__ = ("_content",)

    def __init__(self, content: bytearray) -> None:
        self._content = content

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._content[offset : offset + size])

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        self.fallocate(offset)
        self._content[offset : offset + len(data)] = data
        return len(data)

    def fallocate(self, size: int) -> None:
        if len(self._content) < size:
            self._content.extend(bytes(size - len(self._content)))

    def fdatasync(self) -> None: ...

    def size(self) -> int:
        return len(self._content)

    def close(self) -> None: ...


class MemoryFileSystem:
    """The `FileSystem` of one node; whoever keeps it keeps what the node has stored."""

    def __init__(self) -> None:
        self._contents: dict[Path, bytearray] = {}

    def open(self, path: Path) -> File:
        return MemoryFile(self._find(path))

    def create(self, path: Path) -> File:
        self._contents[path] = bytearray()
        return MemoryFile(self._contents[path])

    def rename(self, source: Path, target: Path) -> None:
        self._contents[target] = self._find(source)
        del self._contents[source]

    def unlink(self, path: Path) -> None:
        self._find(path)
        del self._contents[path]

    def mkdir(self, path: Path) -> None: ...

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self._contents if path.parent == directory)

    def fsync_dir(self, directory: Path) -> None: ...

    def _find(self, path: Path) -> bytearray:
        if path not in self._contents:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._contents[path]
