"""A disk that forgets what was not synced when the process is killed, as a real one does when the power fails.

What is written stays in this process until the file is synced; what is created, renamed or removed is known to this
process alone until the directory is synced. A SIGKILL loses the rest. Kinder than a real power loss in one respect: all
that was not synced is lost, where a disk may keep any part of it (the simulator draws that: tests/sim/l1/disk.py). Of a
sync under way the beginning is kept. Directories are made at once.

A new file lives in a directory beside, under a name that nobody looks for, until its own name is durable. Only copies
of the state store have theirs at once, as may happen on a disk too: LMDB opens them before anybody relies on them.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raftkv.storage.checkpoint_directory import DATA_SUFFIX, MANIFEST_SUFFIX
from raftkv.storage.data_dir import CHECKPOINTS_NAME, DISCARDED_NAME, STORE_NAME
from raftkv.storage.files import TEMPORARY_SUFFIX, File, FileSystem, OsFileSystem, preallocate, write_all

UNNAMED: Final = ".unnamed"
"""Added to the name of the data directory: where files are whose names are not durable."""


class _Inode:
    """A file, whatever it is called."""

    def __init__(self, files: FileSystem, backing: Path, noted: Callable[[int], None], *, new: bool) -> None:
        self.backing = backing
        """Where it really is."""
        self._files = files
        self._noted = noted
        real = files.create(backing) if new else files.open(backing)
        self._size = real.size()
        real.close()
        self._real: File | None = None
        """Open as long as somebody has it open, or there is something to sync."""
        self._unsynced: list[tuple[int, bytes]] = []
        self._reserve = 0
        self._handles = 0
        self._doomed = False
        self._lock = threading.Lock()

    def acquire(self) -> None:
        with self._lock:
            self._handles += 1
            self._opened()

    def release(self) -> None:
        with self._lock:
            self._handles -= 1
            self._close_if_idle()

    def doom(self) -> None:
        """Nobody can find it any more: it goes with its last handle."""
        with self._lock:
            self._doomed = True
            self._close_if_idle()

    def pread(self, size: int, offset: int) -> bytes:
        with self._lock:
            stop = max(min(offset + size, self._size), offset)
            found = bytearray(self._opened().pread(stop - offset, offset))
            found.extend(bytes(stop - offset - len(found)))
            for start, data in self._unsynced:
                first, last = max(start, offset), min(start + len(data), stop)
                if first < last:
                    found[first - offset : last - offset] = data[first - start : last - start]
            return bytes(found)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        with self._lock:
            self._require_room()
            self._unsynced.append((offset, bytes(data)))
            self._size = max(self._size, offset + len(data))
            self._noted(len(data))
            return len(data)

    def fallocate(self, size: int) -> None:
        with self._lock:
            self._require_room()
            if size > self._size:
                self._size = self._reserve = size

    def fdatasync(self) -> None:
        with self._lock:
            real = self._opened()
            if self._reserve:
                preallocate(real, self._reserve)
                self._reserve = 0
            for start, data in self._unsynced:
                write_all(real, data, start)
            real.fdatasync()
            self._forget()

    def size(self) -> int:
        return self._size

    def _require_room(self) -> None:
        """Raise what a write would: a disk says at once that it is full, not when it is to sync."""
        self._opened().pwrite(b"", 0)

    def _opened(self) -> File:
        if self._real is None:
            self._real = self._files.open(self.backing)
        return self._real

    def _close_if_idle(self) -> None:
        if self._handles > 0:
            return
        if self._doomed:
            self._forget()
        elif self._unsynced or self._reserve:
            return
        if self._real is not None:
            self._real.close()
            self._real = None

    def _forget(self) -> None:
        self._noted(-sum(len(data) for _, data in self._unsynced))
        self._unsynced.clear()


class _Handle:
    """An inode opened by somebody. Nothing is lost by closing it, and nothing gained."""

    def __init__(self, inode: _Inode) -> None:
        inode.acquire()
        self._inode: _Inode | None = inode
        self.pread, self.pwrite, self.fallocate = inode.pread, inode.pwrite, inode.fallocate
        self.fdatasync, self.size = inode.fdatasync, inode.size

    def close(self) -> None:
        if self._inode is not None:
            inode, self._inode = self._inode, None
            inode.release()


class VolatileFileSystem:
    """The files of one data directory. LMDB's own are left alone: after a power loss they are thrown away."""

    def __init__(
        self, data_dir: Path, *, unsynced: Callable[[int], None] = lambda _: None, files: FileSystem | None = None
    ) -> None:
        """Lose what the last process has left unnamed. `unsynced` is told how many bytes more wait for a sync."""
        self._data_dir = data_dir.absolute()
        self._real = files or OsFileSystem()
        self._noted = unsynced
        self._unnamed = self._data_dir.with_name(self._data_dir.name + UNNAMED)
        shutil.rmtree(self._unnamed, ignore_errors=True)
        self._created = 0
        self._known: dict[Path, _Inode | None] = {}
        """What this process knows of names: None is one that it has removed."""
        self._pending: dict[Path, list[Callable[[], None]]] = {}
        """By directory, in order: what is to be done to names there when it is synced."""
        self._lock = threading.RLock()

    def open(self, path: Path) -> File:
        path = path.absolute()
        if self._is_stores(path):
            return self._real.open(path)
        with self._lock:
            return _Handle(self._inode(path))

    def create(self, path: Path) -> File:
        path = path.absolute()
        if self._is_stores(path):
            return self._real.create(path)
        with self._lock:
            if path.suffix == DATA_SUFFIX:
                replaced = self._known.get(path)
                if replaced is not None:
                    replaced.doom()
                inode = self._known[path] = _Inode(self._real, path, self._noted, new=True)
                return _Handle(inode)
            self._created += 1
            unnamed = self._unnamed / path.parent.relative_to(self._data_dir) / f"{self._created}-{path.name}"
            unnamed.parent.mkdir(parents=True, exist_ok=True)
            inode = _Inode(self._real, unnamed, self._noted, new=True)
            self._name(inode, path)
            return _Handle(inode)

    def rename(self, source: Path, target: Path) -> None:
        source, target = source.absolute(), target.absolute()
        if self._is_stores(source):
            self._real.rename(source, target)
            return
        with self._lock:
            inode = self._inode(source)
            self._known[source] = None
            self._name(inode, target)

    def unlink(self, path: Path) -> None:
        path = path.absolute()
        if self._is_stores(path):
            self._real.unlink(path)
            return
        with self._lock:
            self._inode(path).doom()
            self._known[path] = None
            self._later(path.parent, lambda: self._real.unlink(path))

    def mkdir(self, path: Path) -> None:
        self._real.mkdir(path)

    def names(self, directory: Path) -> list[str]:
        with self._lock:
            found = set(self._real.names(directory))
            for path, inode in self._known.items():
                if path.parent == directory.absolute():
                    (found.discard if inode is None else found.add)(path.name)
            return sorted(found)

    def fsync_dir(self, directory: Path) -> None:
        directory = directory.absolute()
        with self._lock:
            pending = self._pending.get(directory, [])
            while pending:
                pending[0]()
                del pending[0]
            for path in [path for path, inode in self._known.items() if path.parent == directory and inode is None]:
                del self._known[path]
        self._real.fsync_dir(directory)

    def _name(self, inode: _Inode, path: Path) -> None:
        replaced = self._known.get(path)
        if replaced is not None and replaced is not inode:
            replaced.doom()
        self._known[path] = inode

        def move() -> None:
            self._real.rename(inode.backing, path)
            inode.backing = path

        self._later(path.parent, move)

    def _later(self, directory: Path, what: Callable[[], None]) -> None:
        self._pending.setdefault(directory, []).append(what)

    def _inode(self, path: Path) -> _Inode:
        found = self._known.get(path)
        if found is not None:
            return found
        if path in self._known:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        inode = self._known[path] = _Inode(self._real, path, self._noted, new=False)
        return inode

    def _is_stores(self, path: Path) -> bool:
        """Whether a file is LMDB's own: the state store, or a copy of it for a backup, which nobody syncs."""
        parts = path.relative_to(self._data_dir).parts
        if parts[0] == CHECKPOINTS_NAME and path.suffix == TEMPORARY_SUFFIX:
            return not path.stem.endswith(MANIFEST_SUFFIX)
        return parts[0] in (STORE_NAME, DISCARDED_NAME)
