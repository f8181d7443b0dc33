"""A simulated disk: what was synced, what was only written, and faults on request (notes/testing.md, "Disk model")."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from raftkv.storage.files import File

SECTOR = 512

_NO_FAULT = OSError()
"""Stands for an operation that goes well."""


class PowerLoss(Exception):
    """Raised at the chosen operation: nothing of the process goes on."""


@dataclass
class Inode:
    cached: bytearray = field(default_factory=bytearray)
    """What a running process reads."""
    durable: bytearray = field(default_factory=bytearray)
    """What the platter holds."""
    dirty: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes since the last sync, in order. Growing a file counts as writing zeros."""

    def apply(self, image: bytearray, offset: int, data: bytes) -> None:
        if len(image) < offset + len(data):
            image.extend(bytes(offset + len(data) - len(image)))
        image[offset : offset + len(data)] = data

    def write(self, offset: int, data: bytes) -> None:
        self.apply(self.cached, offset, data)
        self.dirty.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.dirty:
            self.apply(self.durable, offset, data)
        self.dirty.clear()

    def lose_power(self, random: Random) -> None:
        mode = random.choice(("nothing", "everything", "prefix", "sectors", "sectors"))
        cut = random.randint(0, sum(len(data) for _, data in self.dirty))
        for offset, data in self.dirty:
            if mode == "everything":
                self.apply(self.durable, offset, data)
            elif mode == "prefix":
                self.apply(self.durable, offset, data[:cut])
                cut = max(0, cut - len(data))
            elif mode == "sectors":
                for start, piece in sectors(offset, data):
                    if random.random() < 0.5:
                        self.apply(self.durable, start, piece)
        self.dirty.clear()
        self.cached = bytearray(self.durable)


def sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """Cut a write at the boundaries that a disk may tear it at."""
    pieces = []
    while data:
        room = SECTOR - offset % SECTOR
        pieces.append((offset, data[:room]))
        offset, data = offset + len(data[:room]), data[room:]
    return pieces


class SimFile:
    def __init__(self, disk: SimDisk, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode
        self.closed = False

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.cached[offset : offset + size])

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        taken = bytes(data[: self._disk.write_limit])
        self._disk.fault("pwrite")
        self._inode.write(offset, taken)
        self._disk.step("pwrite")
        return len(taken)

    def fallocate(self, size: int) -> None:
        self._disk.fault("fallocate")
        if not self._disk.can_fallocate:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        grown = size - len(self._inode.cached)
        if grown > 0:
            self._inode.write(len(self._inode.cached), bytes(grown))
        self._disk.step("fallocate")

    def fdatasync(self) -> None:
        self._disk.step("fdatasync")
        if self._disk.fault_due("fdatasync"):
            # As Linux does: the error is told once, and the pages count as clean from then on.
            self._inode.dirty.clear()
        self._disk.fault("fdatasync")
        self._inode.sync()

    def size(self) -> int:
        return len(self._inode.cached)

    def close(self) -> None:
        self.closed = True


class SimDisk:
    """Implements FileSystem, with directories as far as a log needs them."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        """Every operation that changes something, with its name."""
        self.crash_at: int | None = None
        """Lose power at this position of `trace`."""
        self.write_limit: int | None = None
        """Bytes that one pwrite takes at most."""
        self.can_fallocate = True
        self.faults: list[tuple[str, OSError]] = []
        """The next operation of this name fails once."""
        self._names: dict[Path, Inode] = {}
        self._durable_names: dict[Path, Inode] = {}
        self._moves: list[tuple[Path | None, Path, Inode | None]] = []
        """Changes of names since the last directory sync: (name to go, name to set, its inode)."""
        self._durable_directories: set[Path] = set()
        self._new_directories: set[Path] = set()

    # FileSystem

    def open(self, path: Path) -> File:
        return SimFile(self, self._find(path))

    def create(self, path: Path) -> File:
        self.fault("create")
        inode = Inode()
        self._move(None, path, inode)
        self.step(f"create {path.suffix}")
        return SimFile(self, inode)

    def rename(self, source: Path, target: Path) -> None:
        self.fault("rename")
        self._move(source, target, self._find(source))
        self.step("rename")

    def unlink(self, path: Path) -> None:
        self.fault("unlink")
        self._find(path)
        self._move(None, path, None)
        self.step("unlink")

    def mkdir(self, path: Path) -> None:
        if path not in self._durable_directories:
            self._new_directories.add(path)

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self._names if path.parent == directory)

    def fsync_dir(self, directory: Path) -> None:
        self.step("fsync_dir")
        self.fault("fsync_dir")
        for move in self._moves:
            if move[1].parent == directory:
                self._apply_move(self._durable_names, move)
        self._moves = [move for move in self._moves if move[1].parent != directory]
        synced = {path for path in self._new_directories if path.parent == directory}
        self._durable_directories |= synced
        self._new_directories -= synced

    # Faults

    def lose_power(self, random: Random) -> None:
        """Restart the machine: of what was not synced, whatever the seed says remains."""
        for move in self._moves[: random.randint(0, len(self._moves))]:
            self._apply_move(self._durable_names, move)
        self._moves.clear()
        for path in list(self._durable_names):
            if path.parent in self._new_directories:
                del self._durable_names[path]
        self._new_directories.clear()
        self._names = dict(self._durable_names)
        for inode in self._names.values():
            inode.lose_power(random)
        self.crash_at = None

    def fail_next(self, operation: str, number: int) -> None:
        self.faults.append((operation, OSError(number, errno.errorcode[number])))

    def fail_after(self, operation: str, times: int, number: int) -> None:
        """The operation of this name fails once, after it has gone well so many times."""
        self.faults += [(operation, _NO_FAULT)] * times
        self.fail_next(operation, number)

    def crashed(self) -> SimDisk:
        """What a restarted process would find: names and page cache as they are. A copy."""
        disk = SimDisk()
        for path, inode in self._names.items():
            copied = Inode(bytearray(inode.cached), bytearray(inode.cached))
            disk._names[path] = disk._durable_names[path] = copied
        return disk

    def flip_bit(self, path: Path, offset: int, bit: int = 0) -> None:
        inode = self._find(path)
        inode.durable[offset] ^= 1 << bit
        inode.cached[offset] ^= 1 << bit

    def overwrite(self, path: Path, offset: int, data: bytes) -> None:
        inode = self._find(path)
        inode.write(offset, data)
        inode.sync()

    def truncate(self, path: Path, size: int) -> None:
        inode = self._find(path)
        del inode.durable[size:]
        del inode.cached[size:]

    def remove(self, path: Path) -> None:
        del self._names[path]
        del self._durable_names[path]

    def content(self, path: Path) -> bytes:
        return bytes(self._find(path).cached)

    def image(self) -> dict[str, bytes]:
        """All files and what they hold."""
        return {path.name: bytes(inode.cached) for path, inode in self._names.items()}

    def unsynced(self) -> list[str]:
        """Names of the files with writes that a power loss would take."""
        return [path.name for path, inode in self._names.items() if inode.dirty]

    def unsynced_names(self) -> list[str]:
        """Names that were set or removed since their directory was synced."""
        return [target.name for _, target, _ in self._moves]

    def step(self, operation: str) -> None:
        self.trace.append(operation)
        if self.crash_at is not None and len(self.trace) >= self.crash_at:
            raise PowerLoss

    def fault_due(self, operation: str) -> bool:
        return any(name == operation for name, _ in self.faults)

    def fault(self, operation: str) -> None:
        for position, (name, error) in enumerate(self.faults):
            if name == operation:
                del self.faults[position]
                if error is not _NO_FAULT:
                    raise error
                return

    def _find(self, path: Path) -> Inode:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._names[path]

    def _move(self, source: Path | None, target: Path, inode: Inode | None) -> None:
        move = (source, target, inode)
        self._moves.append(move)
        self._apply_move(self._names, move)

    @staticmethod
    def _apply_move(names: dict[Path, Inode], move: tuple[Path | None, Path, Inode | None]) -> None:
        source, target, inode = move
        if source is not None:
            names.pop(source, None)
        if inode is None:
            names.pop(target, None)
        else:
            names[target] = inode
