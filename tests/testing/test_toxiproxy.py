"""The server process and the wrapper of its API, against a real Toxiproxy."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from toxiproxy import api as library_api

from raftkv.testing import toxiproxy
from raftkv.testing.processes import free_port
from raftkv.testing.toxiproxy import HEALTHY, ProxyState, Toxic, Toxiproxy, ToxiproxyError, ToxiproxyServer
from raftkv.testing.toxiproxy_install import Origin, ToxiproxyBinary, find_toxiproxy
from tests.testing.test_toxiproxy_install import ended

pytestmark = pytest.mark.toxiproxy

DROP = Toxic(kind="timeout", stream="upstream", attributes=(("timeout", 0),))
DELAY = Toxic(kind="latency", stream="downstream", attributes=(("jitter", 0), ("latency", 5)))


@pytest.fixture
def proxy(toxiproxy_server: ToxiproxyServer) -> Iterator[str]:
    toxiproxy_server.api.create("one", listen=f"127.0.0.1:{free_port()}", upstream="127.0.0.1:1")
    yield "one"
    toxiproxy_server.api.delete("one")


def test_the_server_answers_and_ends(toxiproxy_server: ToxiproxyServer) -> None:
    with ToxiproxyServer(find_toxiproxy()) as server:
        pid, api = server.pid, server.api
        assert "version" in api.version()
        assert api.names() == frozenset()
        assert pid != toxiproxy_server.pid
        assert os.getpgid(pid) == pid
    assert ended(pid)
    with pytest.raises(ToxiproxyError, match="not running"):
        _ = server.api
    server.stop()
    with pytest.raises(ToxiproxyError, match="GET"):
        Toxiproxy(api.host, api.port).version()


async def test_the_server_outlives_the_loop_that_started_it(toxiproxy_server: ToxiproxyServer) -> None:
    server = ToxiproxyServer(find_toxiproxy())

    def start() -> None:
        async def enter() -> None:
            await server.__aenter__()

        asyncio.run(enter())  # ends the loop's threads

    await asyncio.to_thread(start)
    assert server.api.names() == frozenset()
    async with asyncio.timeout(60):
        await server.__aexit__(None, None, None)


@pytest.mark.usefixtures("toxiproxy_server")
def test_the_server_dies_with_its_parent_even_if_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from raftkv.testing.toxiproxy import ToxiproxyServer\n"
        "server = ToxiproxyServer(); server.start(); print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a killed process leaves its files behind
    )
    assert done.returncode == -9
    assert ended(int(done.stdout))


def test_a_port_that_another_server_holds_is_not_mistaken(
    toxiproxy_server: ToxiproxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [toxiproxy_server.api.port, free_port()]
    monkeypatch.setattr(toxiproxy, "free_port", lambda: ports.pop(0))
    with ToxiproxyServer(find_toxiproxy()) as server:
        assert server.api.port != toxiproxy_server.api.port
    assert ports == []
    assert toxiproxy_server.api.names() == frozenset()


def test_a_program_that_ends_at_once_is_an_error_with_its_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho cannot work\nexit 1\n")
    broken.chmod(0o755)
    server = ToxiproxyServer(ToxiproxyBinary(path=broken, origin=Origin.PATH))
    with pytest.raises(ToxiproxyError, match="cannot work"):
        server.start()
    with pytest.raises(ToxiproxyError, match="not running"):
        _ = server.pid


def test_apply_reaches_any_state_from_any_other(toxiproxy_server: ToxiproxyServer, proxy: str) -> None:
    api = toxiproxy_server.api
    states = [
        HEALTHY,
        ProxyState(toxics=frozenset({DROP})),
        ProxyState(toxics=frozenset({DROP, DELAY})),
        ProxyState(enabled=False, toxics=frozenset({DELAY})),
        ProxyState(enabled=False),
    ]
    for start in states:
        for goal in states:
            api.apply(proxy, start)
            api.apply(proxy, goal)
            assert api.state(proxy) == goal


def test_a_changed_attribute_is_applied(toxiproxy_server: ToxiproxyServer, proxy: str) -> None:
    slower = Toxic(kind="latency", stream="downstream", attributes=(("jitter", 0), ("latency", 50)))
    for toxic in (DELAY, slower):
        toxiproxy_server.api.apply(proxy, ProxyState(toxics=frozenset({toxic})))
        assert toxiproxy_server.api.state(proxy).toxics == {toxic}


def test_what_the_server_refuses_is_an_error(toxiproxy_server: ToxiproxyServer, proxy: str) -> None:
    api = toxiproxy_server.api
    with pytest.raises(ToxiproxyError, match="400"):
        api.apply(proxy, ProxyState(toxics=frozenset({Toxic(kind="no-such-kind", stream="upstream")})))
    with pytest.raises(ToxiproxyError, match="no proxy absent"):
        api.apply("absent", HEALTHY)
    with pytest.raises(ToxiproxyError, match="address already in use"):  # the library alone dies with a KeyError
        api.create("two", listen=f"{api.host}:{api.port}", upstream="127.0.0.1:1")
    assert api.names() == {"one"}


def test_a_toxic_of_somebody_else_is_noticed(toxiproxy_server: ToxiproxyServer, proxy: str) -> None:
    api = toxiproxy_server.api
    address = f"http://{api.host}:{api.port}/proxies/{proxy}/toxics"
    half = {"name": "timeout_upstream", "type": "timeout", "toxicity": 0.5, "stream": "upstream", "attributes": {}}
    requests.post(address, json=half, timeout=5).raise_for_status()
    with pytest.raises(ToxiproxyError, match="somebody else"):
        api.state(proxy)


class Liar(BaseHTTPRequestHandler):
    """A server that says yes to everything and does nothing."""

    def do_GET(self) -> None:
        one = {"name": "one", "listen": "127.0.0.1:9", "upstream": "127.0.0.1:1", "enabled": True}
        self._answer([] if self.path.endswith("/toxics") else {"one": one})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_DELETE(self) -> None:
        self._answer({})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


def test_a_change_that_did_not_happen_is_an_error() -> None:
    server = HTTPServer(("127.0.0.1", 0), Liar)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api = Toxiproxy("127.0.0.1", server.server_port)
    try:
        for wanted in (ProxyState(enabled=False), ProxyState(toxics=frozenset({DROP}))):
            with pytest.raises(ToxiproxyError, match="wanted"):
                api.apply("one", wanted)
        with pytest.raises(ToxiproxyError, match="still there"):
            api.delete("one")
    finally:
        api.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_two_servers_in_one_process_do_not_mix(toxiproxy_server: ToxiproxyServer, proxy: str) -> None:
    before = library_api.APIConsumer.host, library_api.APIConsumer.port, library_api.requests
    with ToxiproxyServer(find_toxiproxy()) as other:
        names: dict[ToxiproxyServer, set[frozenset[str]]] = {toxiproxy_server: set(), other: set()}

        def look(server: ToxiproxyServer) -> None:
            for _ in range(50):
                names[server].add(server.api.names())

        threads = [threading.Thread(target=look, args=(server,)) for server in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names == {toxiproxy_server: {frozenset({"one"})}, other: {frozenset()}}
    assert (library_api.APIConsumer.host, library_api.APIConsumer.port, library_api.requests) == before


def test_free_ports_lie_below_those_of_clients() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port() < lowest for _ in range(20))


def test_the_library_imports_without_warnings() -> None:
    program = "import raftkv.testing.toxiproxy"
    subprocess.run([sys.executable, "-W", "error", "-c", program], timeout=60, check=True)
