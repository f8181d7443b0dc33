"""A file system that knows each of its steps by name, writes down which it has taken, and dies at the one it is told.

A step is an operation, on a kind of file, called from a place in the code:

    fdatasync wal/N.wal in SegmentWriter._append_record < SegmentWriter.append

Runs in a node's process (`tests.crash.node`); the test gives its orders through a directory (`Control`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from raftkv.storage.files import File, OsFileSystem

When = Literal["before", "short", "after"]
"""Before the operation; after a write of half of what was given; after the operation."""

ORDER: Final = "order.json"
STEPS: Final = "steps"
STRUCK: Final = "struck"

_LAYERS: Final = ("/raftkv/storage/", "/raftkv/server/")
_HELPERS: Final = ("/storage/files.py", "/storage/worker.py", "/metrics/timed_files.py")
_COMMON: Final = frozenset({"write_json", "CheckpointStore._guarded", "CheckpointDirectory._remove"})
"""What many places call: whoever calls these is meant."""


@dataclass(frozen=True, slots=True)
class Order:
    """Die at the `nth` time that a step begins with `step`, counted from when the order was given or the start."""

    step: str
    when: When = "before"
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.step}" + (f", the {self.nth}. time" if self.nth > 1 else "")


class Control:
    """How a test talks to a node's file system: through a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._noted: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)

    # the test's side

    def give(self, order: Order) -> None:
        self.withdraw()
        temporary = self._directory / "order.tmp"
        temporary.write_text(json.dumps(asdict(order)))
        temporary.rename(self._directory / ORDER)

    def withdraw(self) -> None:
        for name in (ORDER, STRUCK):
            (self._directory / name).unlink(missing_ok=True)

    def struck(self) -> str | None:
        """Return the step at which the node has died by order."""
        path = self._directory / STRUCK
        return path.read_text() if path.exists() else None

    def take_steps(self) -> list[str]:
        """Return the steps that were taken since the last call, in the order of their first time."""
        path = self._directory / STEPS
        steps = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return list(dict.fromkeys(steps))

    # the node's side

    def order(self) -> tuple[int, Order] | None:
        """Return the order that stands, and what tells it from others."""
        path = self._directory / ORDER
        try:
            return path.stat().st_mtime_ns, Order(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None

    def note(self, step: str) -> None:
        path = self._directory / STEPS
        if not path.exists():
            self._noted.clear()
        if step not in self._noted:
            self._noted.add(step)
            with path.open("a") as file:
                file.write(step + "\n")

    def strike(self, step: str) -> None:
        """Die. What was written is the kernel's; nothing else of this process is left."""
        (self._directory / STRUCK).write_text(step)
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyFileSystem(OsFileSystem):
    """See the module's docstring. Used from several threads: counting is only exact for steps of one of them."""

    def __init__(self, data_dir: Path, control: Control) -> None:
        self._data_dir = data_dir.absolute()
        self._control = control
        self._files: weakref.WeakSet[_DeadlyFile] = weakref.WeakSet()
        self._order_id = 0
        self._count = 0

    def open(self, path: Path) -> File:
        return self._opened(path, super().open(path))

    def create(self, path: Path) -> File:
        step = self.begin("create", path)
        file = self._opened(path, super().create(path))
        self.end(step)
        return file

    def rename(self, source: Path, target: Path) -> None:
        step = self.begin("rename", source)
        super().rename(source, target)
        for file in tuple(self._files):
            if file.path == source:
                file.path = target
        self.end(step)

    def unlink(self, path: Path) -> None:
        step = self.begin("unlink", path)
        super().unlink(path)
        self.end(step)

    def mkdir(self, path: Path) -> None:
        if path.exists():
            return
        step = self.begin("mkdir", path)
        super().mkdir(path)
        self.end(step)

    def fsync_dir(self, directory: Path) -> None:
        step = self.begin("fsync_dir", directory)
        super().fsync_dir(directory)
        self.end(step)

    def begin(self, operation: str, path: Path) -> str:
        """Name a step, note it, and die in front of it if that is the order."""
        step = f"{operation} {self._kind(path)} in {calling_place()}"
        self._control.note(step)
        if self.due(step):
            self._count += 1
            if self._when("before"):
                self._control.strike(step)
        return step

    def due(self, step: str) -> bool:
        standing = self._control.order()
        if standing is None:
            return False
        if standing[0] != self._order_id:
            self._order_id, self._order = standing
            self._count = 0
        return step == self._order.step or step.startswith((self._order.step + " in ", self._order.step + " < "))

    def end(self, step: str, when: When = "after") -> None:
        """Die behind a step if that is the order."""
        if self.due(step) and self._when(when):
            self._control.strike(step)

    def is_short(self, step: str) -> bool:
        """Whether half of a write is to be its end."""
        return self.due(step) and self._when("short")

    def _when(self, when: When) -> bool:
        return self._order.when == when and self._count >= self._order.nth

    def _opened(self, path: Path, file: File) -> File:
        opened = _DeadlyFile(self, path, file)
        self._files.add(opened)
        return opened

    def _kind(self, path: Path) -> str:
        relative = os.path.relpath(path.absolute(), self._data_dir)
        return re.sub(r"\d+", "N", relative)


class _DeadlyFile:
    def __init__(self, files: DeadlyFileSystem, path: Path, file: File) -> None:
        self.path = path
        self._files = files
        self._file = file

    def pread(self, size: int, offset: int) -> bytes:
        return self._file.pread(size, offset)

    def pwrite(self, data: bytes | memoryview, offset: int) -> int:
        step = self._files.begin("write", self.path)
        if self._files.is_short(step):
            self._file.pwrite(data[: len(data) // 2], offset)
            self._files.end(step, "short")
        taken = self._file.pwrite(data, offset)
        self._files.end(step)
        return taken

    def fallocate(self, size: int) -> None:
        step = self._files.begin("fallocate", self.path)
        self._file.fallocate(size)
        self._files.end(step)

    def fdatasync(self) -> None:
        step = self._files.begin("fdatasync", self.path)
        self._file.fdatasync()
        self._files.end(step)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


def calling_place() -> str:
    """Return the two innermost places that mean something: "SegmentWriter._create < SegmentWriter._roll"."""
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < 2:
        name = frame.f_code.co_filename
        if any(layer in name for layer in _LAYERS) and not name.endswith(_HELPERS):
            called = frame.f_code.co_qualname
            if called not in _COMMON and "<" not in called:
                found.append(called)
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(found) or "?"
