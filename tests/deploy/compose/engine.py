"""A Docker engine: the one that answers, or one of our own that ends with us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.compose.shell import CommandFailed, NotPossible, run, say

ANSWER_S = 20.0
START_S = 90.0
STOP_S = 60.0


@contextmanager
def docker_engine() -> Iterator[None]:
    """Make `docker` work while the block runs. Raises NotPossible."""
    if shutil.which("docker") is None:
        raise NotPossible("there is no `docker` command (Debian: apt-get install docker.io)")
    said = _answer()
    if said is None:
        say("using the Docker engine that is running")
        yield
        return
    if shutil.which("dockerd") is None:
        raise NotPossible(f"no Docker engine answers ({said}), and there is no `dockerd` to start one")
    if os.geteuid() != 0:
        raise NotPossible(f"no Docker engine answers ({said}), and only root can start one")
    with _own_engine():
        yield


def _answer() -> str | None:
    """Return why no engine answers, or None if one does."""
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], ANSWER_S)
    except CommandFailed as error:
        return str(error).splitlines()[-1].strip()
    return None


@contextmanager
def _own_engine() -> Iterator[None]:
    directory = Path(tempfile.mkdtemp(prefix="raftkv-docker-"))  # short: sockets have paths of 107 bytes at most
    log = directory / "log"
    socket = directory / "docker.sock"
    before = os.environ.get("DOCKER_HOST")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "dockerd",
                *("--data-root", directory / "data"),
                *("--exec-root", directory / "exec"),
                *("--pidfile", directory / "pid"),
                *("--host", f"unix://{socket}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        os.environ["DOCKER_HOST"] = f"unix://{socket}"
        deadline = time.monotonic() + START_S
        while (said := _answer()) is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                how = "ended" if process.poll() is not None else f"does not answer after {START_S:.0f} s: {said}"
                raise NotPossible(f"dockerd was started and {how}. The end of its log:\n{_tail(log)}")
            time.sleep(0.2)
        say(f"started a Docker engine of our own (process {process.pid}); it ends with this test")
        yield
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before
        _end(process)
        _remove(directory)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)  # it stops its containers, and its containerd
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _remove(directory: Path) -> None:
    """What it left mounted would make the removal fail, or worse, succeed inside a mount."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{directory}/")), reverse=True):
        run(["umount", "-l", mount], 30, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
