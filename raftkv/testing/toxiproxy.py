"""Run a Toxiproxy server of one's own, and change what its proxies do with certainty.

`ToxiproxyServer` runs the server program. `Toxiproxy` speaks to it through the toxiproxy-python library and reads the
state back after every change. The faults of a cluster, by name, are in `raftkv.testing.links`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import requests
import toxiproxy as library
from toxiproxy import api as library_api

from raftkv.errors import RaftKVError
from raftkv.testing.processes import LOOPBACK, bound_to_parent, free_port
from raftkv.testing.toxiproxy_install import ToxiproxyBinary, ToxiproxyImage, find_toxiproxy

API_TIMEOUT_S = 15.0  # the server itself may take 5 s to flush a connection from which a toxic is removed
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0

Stream = Literal["upstream", "downstream"]


class ToxiproxyError(RaftKVError):
    """The Toxiproxy server did not do what it was asked. The state of the network under test is unknown."""


class ToxiproxyServer:
    """One server process on a free loopback port: `with ToxiproxyServer() as server:`, or `async with`.

    It runs in a process group of its own and dies with this process, however that ends (Linux; a container started
    through Docker is removed at `stop` only). `start` and `stop` block; the asynchronous form runs them in a thread.
    """

    def __init__(self, program: ToxiproxyBinary | ToxiproxyImage | None = None) -> None:
        """Without `program`, `start` searches for one, which may raise ToxiproxyUnavailable."""
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._remove: Callable[[], None] = lambda: None
        self._api: Toxiproxy | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def api(self) -> Toxiproxy:
        if self._api is None:
            raise ToxiproxyError("the Toxiproxy server is not running")
        return self._api

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ToxiproxyError("the Toxiproxy server is not running")
        return self._process.pid

    def start(self) -> None:
        """Return when the server answers, and is known to be this one; raise ToxiproxyError in bounded time if not."""
        if self._process is not None:
            raise ToxiproxyError("the Toxiproxy server is running already")
        if self._program is None:
            self._program = find_toxiproxy()
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._start_on(free_port(), deadline)
            except _PortTaken:
                self.stop()
                if time.monotonic() > deadline:
                    raise ToxiproxyError("every port chosen for the Toxiproxy server was taken") from None
            except BaseException:
                self.stop()
                raise
            else:
                return

    def _start_on(self, port: int, deadline: float) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="raftkv-toxiproxy-")
        directory = Path(self._directory.name)
        # The server goes on without its API when the port is taken, and then another one may answer there: a proxy with
        # a name of its own, switched off, tells them apart.
        mark = f"raftkv-{secrets.token_hex(8)}"
        config = directory / "config.json"
        proxy = {"name": mark, "listen": f"{LOOPBACK}:0", "upstream": f"{LOOPBACK}:1", "enabled": False}
        config.write_text(json.dumps([proxy]))
        log = directory / "log"
        self._launch(port, config, log)
        api = Toxiproxy(LOOPBACK, port)
        try:
            while True:
                if self._ended.is_set():
                    raise ToxiproxyError(f"the Toxiproxy server ended at start: {_tail(log)}")
                if "Server finished with error" in log.read_text(errors="replace"):
                    raise _PortTaken
                with suppress(ToxiproxyError):
                    api.version()
                    if mark in api.names():
                        api.delete(mark)
                        break
                if time.monotonic() > deadline:
                    raise ToxiproxyError(f"the Toxiproxy server does not answer: {_tail(log)}")
                time.sleep(0.01)
        except BaseException:
            api.close()
            raise
        self._api = api

    def _launch(self, port: int, config: Path, log: Path) -> None:
        arguments = ["-host", LOOPBACK, "-port", str(port), "-config"]
        match self._program:
            case ToxiproxyBinary(path=path):
                command = [str(path), *arguments, str(config)]
            case ToxiproxyImage(docker=docker, image=image):
                name = config.parent.name
                mount = f"{config}:/config.json:ro"
                config.chmod(0o644)
                config.parent.chmod(0o755)
                command = [str(docker), "run", "--rm", "--name", name, "--network", "host", "-v", mount, image]
                command += [*arguments, "/config.json"]
                self._remove = lambda: _remove_container(docker, name)
            case None:
                raise ToxiproxyError("no program to start")
        launcher = bound_to_parent(command)
        started: list[subprocess.Popen[bytes] | OSError] = []
        ready = threading.Event()
        self._ended = ended = threading.Event()

        # The kernel takes the death of the *thread* that started a process for the death of its parent, so that thread
        # lives as long as the process.
        def own() -> None:
            try:
                with log.open("wb") as output:
                    process = subprocess.Popen(
                        launcher,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        process_group=0,
                        env={**os.environ, "LOG_LEVEL": "info"},
                    )
            except OSError as error:
                started.append(error)
                ready.set()
                return
            started.append(process)
            ready.set()
            process.wait()
            ended.set()

        threading.Thread(target=own, name="toxiproxy-server", daemon=True).start()
        ready.wait()
        if isinstance(started[0], OSError):
            raise ToxiproxyError(f"{command[0]} did not start: {started[0]}") from started[0]
        self._process = started[0]

    def stop(self) -> None:
        """End the server and all connections through it. Safe to repeat."""
        if self._api is not None:
            self._api.close()
            self._api = None
        if self._process is not None:
            self._remove()
            self._remove = lambda: None
            for how in (signal.SIGTERM, signal.SIGKILL):
                self._process.send_signal(how)  # does nothing when the process was waited for
                if self._ended.wait(STOP_TIMEOUT_S):
                    break
            else:
                raise ToxiproxyError(f"the Toxiproxy server, process {self._process.pid}, survives SIGKILL")
            self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))


class _PortTaken(Exception):
    """Another process took the port between its choice and its use."""


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:].strip() or "no output"


def _remove_container(docker: Path, name: str) -> None:
    with suppress(subprocess.TimeoutExpired):
        subprocess.run([str(docker), "rm", "--force", name], capture_output=True, timeout=STOP_TIMEOUT_S, check=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """One disturbance of one direction; `upstream` runs from the one who dialled."""

    kind: str
    stream: Stream
    attributes: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.stream}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyState:
    """All that can be wrong with one proxy."""

    enabled: bool = True
    toxics: frozenset[Toxic] = frozenset()


HEALTHY = ProxyState()


class _Transport:
    """Stands in for `requests` inside the library: a time-out on every call, and no answer but success is ignored."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy from the environment must not see calls to the loopback

    def get(self, **arguments: Any) -> requests.Response:
        return self._call("GET", **arguments)

    def post(self, **arguments: Any) -> requests.Response:
        return self._call("POST", **arguments)

    def delete(self, **arguments: Any) -> requests.Response:
        return self._call("DELETE", **arguments)

    def close(self) -> None:
        self._session.close()

    def _call(self, method: str, url: str, **arguments: Any) -> requests.Response:
        try:
            answer = self._session.request(method, url, timeout=API_TIMEOUT_S, **arguments)
        except requests.RequestException as error:
            raise ToxiproxyError(f"{method} {url}: {error}") from error
        if not answer.ok:
            raise ToxiproxyError(f"{method} {url}: status {answer.status_code}: {answer.text.strip()}")
        return answer


_library_in_use = threading.Lock()


class Toxiproxy:
    """The API of one server, through the toxiproxy-python library. Every change is read back.

    The library keeps the server's address in class variables, knows no time-outs and ignores failures; so each call
    here lends it the address and a transport of ours, under a lock, for its own length. Thread-safe, and blocking.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._transport = _Transport()
        self._library = library.Toxiproxy()

    def close(self) -> None:
        self._transport.close()

    def version(self) -> str:
        with self._lent():
            said = library_api.APIConsumer.get("/version").text
        return str(said)

    def names(self) -> frozenset[str]:
        with self._lent():
            return frozenset(self._library.proxies())

    def create(self, name: str, *, listen: str, upstream: str) -> None:
        """Add a proxy; it takes connections when this returns."""
        with self._lent():
            self._library.create(upstream=upstream, name=name, listen=listen, enabled=True)
            found = self._library.get_proxy(name)
            if found is None or (found.listen, found.upstream, found.enabled) != (listen, upstream, True):
                raise ToxiproxyError(f"proxy {name} was not made as asked: {found and vars(found)}")

    def delete(self, name: str) -> None:
        with self._lent():
            self._proxy(name).destroy()
            if self._library.get_proxy(name) is not None:
                raise ToxiproxyError(f"proxy {name} is still there")

    def state(self, name: str) -> ProxyState:
        with self._lent():
            return self._state(self._proxy(name))

    def apply(self, name: str, wanted: ProxyState) -> None:
        """Bring a proxy into the state wanted, from whichever it is in; raise ToxiproxyError if it does not get there.

        Toxics that stay are not touched, so the connections they act on go on.
        """
        with self._lent():
            proxy = self._proxy(name)
            found = self._state(proxy)
            # In the order of the chain: a toxic that drops must be the last to leave, or the one before it blocks.
            for toxic in self._toxics(proxy):
                if toxic not in wanted.toxics:
                    proxy.destroy_toxic(toxic.name)
            for toxic in sorted(wanted.toxics - found.toxics, key=lambda toxic: toxic.name):
                proxy.add_toxic(
                    type=toxic.kind, stream=toxic.stream, name=toxic.name, attributes=dict(toxic.attributes)
                )
            if wanted.enabled != proxy.enabled:
                (proxy.enable if wanted.enabled else proxy.disable)()
            reached = self._state(self._proxy(name))
        if reached != wanted:
            raise ToxiproxyError(f"proxy {name} is {reached}, wanted {wanted}")

    @contextmanager
    def _lent(self) -> Iterator[None]:
        consumer = library_api.APIConsumer
        with _library_in_use:
            before = consumer.host, consumer.port, library_api.requests
            consumer.host, consumer.port, library_api.requests = self.host, self.port, self._transport
            try:
                yield
            finally:
                consumer.host, consumer.port, library_api.requests = before

    def _proxy(self, name: str) -> Any:
        found = self._library.get_proxy(name)
        if found is None:
            raise ToxiproxyError(f"no proxy {name}")
        return found

    def _toxics(self, proxy: Any) -> list[Toxic]:
        toxics = []
        for name, found in proxy.toxics().items():
            toxic = Toxic(kind=found.type, stream=found.stream, attributes=tuple(sorted(found.attributes.items())))
            if name != toxic.name or found.toxicity != 1:
                raise ToxiproxyError(f"proxy {proxy.name} has a toxic of somebody else: {vars(found)}")
            toxics.append(toxic)
        return toxics

    def _state(self, proxy: Any) -> ProxyState:
        return ProxyState(enabled=proxy.enabled, toxics=frozenset(self._toxics(proxy)))
