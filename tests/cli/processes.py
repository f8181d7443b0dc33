"""The command line as a process of its own, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that keeps its temporary files in `directory`, killed at the end if it still runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
    environment.pop("PYTHONUNBUFFERED", None)  # with it, output that nobody flushes would be seen at once, too
    process = subprocess.Popen(
        [sys.executable, "-m", "raftkv.cli", *arguments],
        env={**environment, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that has run to its end."""
    with started(directory, *arguments) as process:
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def processes_naming(directory: Path) -> list[int]:
    """Processes with `directory` on their command line, as nodes have that keep their data in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if str(directory).encode() in command:
            found.append(int(entry.name))
    return found


@contextmanager
def interruptible() -> Iterator[None]:
    """Let children react to SIGINT and SIGHUP, also where a shell that runs us in the background, or nohup, has made us
    ignore them."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGHUP, hang_up)
