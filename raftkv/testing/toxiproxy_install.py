"""Find a Toxiproxy server on this machine, or get one.

`find_toxiproxy()` tries, in this order:

1. RAFTKV_TOXIPROXY=/path/to/toxiproxy-server. When it is set, nothing else is tried.
2. `toxiproxy-server` on PATH.
3. The cache: `.cache/toxiproxy` of a source tree, `$XDG_CACHE_HOME/raftkv` of an installed package.
4. `go install` of the pinned version into the cache.
5. The pinned release from GitHub into the cache. Its checksum is compared with the release's own list.
6. The pinned Docker image, when a Docker daemon answers.

Every way is bounded in time. Processes that search at once build once: the cache is held under a file lock.
`python -m raftkv.testing.toxiproxy_install` does the search and says how it ended, so that no test pays for a build.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from raftkv.errors import RaftKVError

VERSION = "2.12.0"
GO_PACKAGE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
RELEASE_URL = f"https://github.com/Shopify/toxiproxy/releases/download/v{VERSION}"
IMAGE = f"ghcr.io/shopify/toxiproxy:{VERSION}"

GO_INSTALL_TIMEOUT_S = 300.0
DOWNLOAD_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 10.0
DOCKER_PULL_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 15.0


class Origin(Enum):
    """How a server was found."""

    ENVIRONMENT = "RAFTKV_TOXIPROXY"
    PATH = "PATH"
    CACHE = "cache"
    GO_INSTALL = "go install"
    RELEASE = "release download"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToxiproxyBinary:
    """A server program that answered `-version`."""

    path: Path
    origin: Origin

    def __str__(self) -> str:
        return f"{self.path} ({self.origin.value})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToxiproxyImage:
    """An image that is present on a Docker daemon that answers."""

    docker: Path
    image: str
    origin: Origin = Origin.DOCKER

    def __str__(self) -> str:
        return f"{self.image} ({self.origin.value})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way that did not work, and why."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin.value}: {self.reason}"


class ToxiproxyUnavailable(RaftKVError):
    """No way leads to a Toxiproxy server. The message has one line for each way tried."""

    def __init__(self, attempts: tuple[Attempt, ...]) -> None:
        super().__init__("\n".join(["no Toxiproxy server", *(f"  {attempt}" for attempt in attempts)]))
        self.attempts = attempts


class _NotThisWay(Exception):
    """This way does not lead to a server; the message is one line."""


def toxiproxy_required() -> bool:
    """Whether a missing server is a failure (RAFTKV_REQUIRE_TOXIPROXY=1) and not a reason to skip."""
    return os.environ.get("RAFTKV_REQUIRE_TOXIPROXY", "") not in {"", "0"}


def default_cache() -> Path:
    """Where servers that were built or downloaded are kept."""
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file() and (root / "proto" / "raftkv").is_dir():
        return root / ".cache" / "toxiproxy"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "raftkv"


def find_toxiproxy(cache: Path | None = None) -> ToxiproxyBinary | ToxiproxyImage:
    """Return the first server that a way of this module's docstring leads to, or raise ToxiproxyUnavailable.

    Blocks, for minutes when it has to build: call it off an event loop.
    """
    explicit = os.environ.get("RAFTKV_TOXIPROXY")
    cache = cache or default_cache()
    ways: list[tuple[Origin, Callable[[], ToxiproxyBinary | ToxiproxyImage]]]
    if explicit:
        ways = [(Origin.ENVIRONMENT, lambda: _working(Path(explicit), Origin.ENVIRONMENT))]
    else:
        ways = [
            (Origin.PATH, _on_path),
            (Origin.CACHE, lambda: _working(_cached(cache), Origin.CACHE)),
            (Origin.GO_INSTALL, lambda: _into_cache(cache, Origin.GO_INSTALL, _go_install)),
            (Origin.RELEASE, lambda: _into_cache(cache, Origin.RELEASE, _download)),
            (Origin.DOCKER, _docker_image),
        ]
    attempts: list[Attempt] = []
    for origin, way in ways:
        try:
            return way()
        except (_NotThisWay, OSError) as error:
            attempts.append(Attempt(origin=origin, reason=str(error).splitlines()[0] if str(error) else repr(error)))
    raise ToxiproxyUnavailable(tuple(attempts))


def _working(path: Path, origin: Origin) -> ToxiproxyBinary:
    if not path.is_file():
        raise _NotThisWay(f"{path} is no file")
    said = _run([str(path), "-version"], COMMAND_TIMEOUT_S)
    if "toxiproxy" not in said.lower():
        raise _NotThisWay(f"{path} -version says {said.strip()!r}: not a Toxiproxy server")
    return ToxiproxyBinary(path=path.resolve(), origin=origin)


def _on_path() -> ToxiproxyBinary:
    return _working(_program("toxiproxy-server"), Origin.PATH)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise _NotThisWay(f"no {name} on PATH")
    return Path(found)


def _cached(cache: Path) -> Path:
    return cache / f"toxiproxy-server-{VERSION}"


def _into_cache(cache: Path, origin: Origin, fetch: Callable[[Path], Path]) -> ToxiproxyBinary:
    """Run `fetch` on a directory of its own and move the program it returns into the cache, whole or not at all."""
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock", GO_INSTALL_TIMEOUT_S + DOWNLOAD_TIMEOUT_S):
        with suppress(_NotThisWay):  # another process may have filled it while this one waited
            return _working(_cached(cache), Origin.CACHE)
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as scratch:
            program = fetch(Path(scratch))
            program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            _working(program, origin)
            program.replace(_cached(cache))
    return ToxiproxyBinary(path=_cached(cache).resolve(), origin=origin)


@contextmanager
def _locked(path: Path, timeout_s: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_s
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _NotThisWay(f"another process has held {path} for {timeout_s:.0f} s") from None
                time.sleep(0.05)
            else:
                break
        yield  # closing the file lets the lock go


def _go_install(scratch: Path) -> Path:
    go = _program("go")
    _run([str(go), "install", GO_PACKAGE], GO_INSTALL_TIMEOUT_S, environment={"GOBIN": str(scratch)})
    return scratch / "server"


def _download(scratch: Path) -> Path:
    systems = {"Linux": "linux", "Darwin": "darwin"}
    machines = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    system, machine = systems.get(platform.system()), machines.get(platform.machine().lower())
    if system is None or machine is None:
        raise _NotThisWay(f"no release for {platform.system()} {platform.machine()}")
    asset = f"toxiproxy-server-{system}-{machine}"
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    listed = _fetch("checksums.txt", deadline).decode(errors="replace").split()  # digest, name, digest, name ...
    if asset not in listed[1::2]:
        raise _NotThisWay(f"checksums.txt of the release does not name {asset}")
    content = _fetch(asset, deadline)
    if hashlib.sha256(content).hexdigest() != listed[listed.index(asset) - 1]:
        raise _NotThisWay(f"{asset} does not match its checksum")
    program = scratch / asset
    program.write_bytes(content)
    return program


def _fetch(name: str, deadline: float) -> bytes:
    url = f"{RELEASE_URL}/{name}"
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:
            while chunk := response.read(1 << 16):
                content += chunk
                if time.monotonic() > deadline:
                    raise _NotThisWay(f"{url}: not complete after {DOWNLOAD_TIMEOUT_S:.0f} s")
    except (OSError, http.client.HTTPException) as error:
        raise _NotThisWay(f"{url}: {error}") from error
    return bytes(content)


def _docker_image() -> ToxiproxyImage:
    docker = _program("docker")
    _run([str(docker), "info", "--format", "{{.ServerVersion}}"], COMMAND_TIMEOUT_S)
    try:
        _run([str(docker), "image", "inspect", IMAGE], COMMAND_TIMEOUT_S)
    except _NotThisWay:
        _run([str(docker), "pull", "--quiet", IMAGE], DOCKER_PULL_TIMEOUT_S)
    return ToxiproxyImage(docker=docker, image=IMAGE)


def _run(command: list[str], timeout_s: float, *, environment: Mapping[str, str] | None = None) -> str:
    """Return what a command wrote to both its outputs. At the time-out it is killed, its children with it."""
    shown = " ".join([Path(command[0]).name, *command[1:]])
    with tempfile.TemporaryFile() as output:  # a file, since a grandchild that keeps a pipe open would block the reader
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise _NotThisWay(f"{shown}: not done after {timeout_s:.0f} s") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if status != 0:
        last = said.strip().splitlines()[-1] if said.strip() else "no output"
        raise _NotThisWay(f"{shown}: status {status}: {last}")
    return said


def main() -> int:
    """Search, and tell on standard output. 1 when there is no server although one is required, else 0."""
    try:
        found = find_toxiproxy()
    except ToxiproxyUnavailable as error:
        skipped = "" if toxiproxy_required() else "\nTHE PARTITION TESTS WILL BE SKIPPED"
        sys.stdout.write(f"{error}{skipped}\n")
        return 1 if toxiproxy_required() else 0
    sys.stdout.write(f"Toxiproxy server: {found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
