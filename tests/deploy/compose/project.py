"""One compose project: a cluster in containers, its ports, and what can be done to it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from raftkv.client import AsyncClient, Tls
from raftkv.testing.cluster import _agreed_leader, _ask
from raftkv.testing.processes import free_port
from tests.deploy.compose.images import NODE_IMAGE, ROOT, TOXIPROXY_IMAGE
from tests.deploy.compose.shell import CommandFailed, run, say

UP_S: Final = 360.0
STEP_S: Final = 120.0
DRILL_S: Final = 300.0
POLL_S: Final = 0.2


class Project:
    """`down` removes all of it; call it whatever happened."""

    def __init__(self, compose: Sequence[str], name: str, nodes: int, *options: str, certs: Path | None = None) -> None:
        """`options`: of `docker compose`, such as --profile. `certs`: a directory that `raftkv certs init` made."""
        self.tls: Tls | None = None
        if certs is not None:
            self.tls = Tls(ca=certs / "ca.crt", cert=certs / "operator.crt", key=certs / "operator.key")
        self.nodes = tuple(range(1, nodes + 1))
        self.name = f"raftkv-test-{name}-{os.getpid()}"
        self._client_ports = {node: free_port() for node in range(1, 6)}
        self._http_ports = {node: free_port() for node in range(1, 6)}
        self.toxiproxy_port = free_port()
        self._environment = {
            "RAFTKV_IMAGE": NODE_IMAGE,
            "TOXIPROXY_IMAGE": TOXIPROXY_IMAGE,
            "TOXIPROXY_PORT": str(self.toxiproxy_port),
            **({"CERTS": str(certs), "TLS_CLIENT_AUTH": "true"} if certs else {}),
            **{f"NODE{node}_PORT": str(port) for node, port in self._client_ports.items()},
            **{f"NODE{node}_HTTP_PORT": str(port) for node, port in self._http_ports.items()},
        }
        self._compose = compose
        self._command = [*compose, "--project-name", self.name, *options]

    def endpoint(self, node: int) -> str:
        """Where a client outside reaches a node."""
        return f"127.0.0.1:{self._client_ports[node]}"

    @property
    def endpoints(self) -> list[str]:
        return [self.endpoint(node) for node in self.nodes]

    def client(self, *nodes: int, timeout_s: float = 30.0, dial_learned: bool = True) -> AsyncClient:
        """A client outside, of these nodes or of all."""
        endpoints = [self.endpoint(node) for node in nodes] or self.endpoints
        return AsyncClient(endpoints, timeout=timeout_s, dial_learned=dial_learned, tls=self.tls)

    def compose(self, *arguments: str, timeout_s: float = STEP_S) -> str:
        """Run `docker compose`; return what it says. Raises CommandFailed."""
        return run([*self._command, *arguments], timeout_s, cwd=ROOT, environment=self._environment).stdout

    async def do(self, *arguments: str, timeout_s: float = STEP_S) -> str:
        """`compose`, while the tasks of this loop go on."""
        return await asyncio.to_thread(self.compose, *arguments, timeout_s=timeout_s)

    async def docker(self, *arguments: str) -> str:
        done = await asyncio.to_thread(run, ["docker", *arguments], STEP_S)
        return done.stdout.strip()

    async def up(self) -> None:
        """Start what the options name, and wait until every node is ready by its own health check."""
        await self.do("up", "--detach", "--no-build", "--pull", "never", timeout_s=UP_S)
        await self.ready(*self.nodes)

    async def ready(self, *nodes: int) -> None:
        """Wait until the engine calls these nodes healthy, which is: they can serve linearizable reads."""
        await self.until(
            lambda: all(self._health(node) == "healthy" for node in nodes), f"nodes {nodes} to be healthy", UP_S
        )

    async def until(self, holds: Any, what: str, timeout_s: float = STEP_S) -> None:
        """Poll in a thread. Raises CommandFailed, with the logs' ends."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it is another process that is waited for
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise CommandFailed(f"waited {timeout_s:.0f} s in vain for {what}\n{self.state()}") from None

    def container(self, node: int) -> str:
        return f"{self.name}-node{node}-1"

    def _health(self, node: int) -> str:
        shown = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
        return run(["docker", "inspect", "-f", shown, self.container(node)], 30, check=False).stdout.strip()

    def inspect(self, node: int) -> Mapping[str, Any]:
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", self.container(node)], 30).stdout)
        return found[0]

    def log(self, node: int, lines: int = 1000) -> str:
        return run(["docker", "logs", "--tail", str(lines), self.container(node)], 30, check=False).stdout

    def state(self) -> str:
        """What to look at when something went wrong."""
        shown = [run([*self._command, "ps", "-a"], 30, cwd=ROOT, environment=self._environment, check=False).stdout]
        shown += [f"--- node {node}\n{self.log(node, 15)}" for node in self.nodes]
        return "\n".join(shown)

    async def execute(self, node: int, *command: str) -> str:
        return await self.docker("exec", self.container(node), *command)

    async def leader(self, *, other_than: int = 0) -> int:
        """Wait for a leader that a majority of the nodes follows."""
        async with self.client() as client:
            try:
                async with asyncio.timeout(STEP_S):
                    while True:
                        statuses = await asyncio.gather(*(_ask(client, endpoint) for endpoint in self.endpoints))
                        found = _agreed_leader(statuses)
                        if found not in (None, other_than):
                            assert found is not None
                            return found
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                raise CommandFailed(f"no leader\n{self.state()}") from None

    async def run_client(self, *arguments: str) -> str:
        """Run a command of raftkv in a client container; return what it says."""
        return await self.do("run", "--rm", "--no-deps", "-T", "--entrypoint", "raftkv", "client", *arguments)

    async def drill(self, how: str) -> Mapping[str, Any]:
        """Run `raftkv drill` outside, as an operator would; return what it measured. Raises CommandFailed."""
        return await asyncio.to_thread(self._drill, how)

    def _drill(self, how: str) -> Mapping[str, Any]:
        raftkv = [sys.executable, "-m", "raftkv.cli", "drill", f"--{how}", "--yes", "--output", "json"]
        aimed = ["--compose", "docker-compose.yml", "--endpoints", ",".join(self.endpoints)]
        with tempfile.TemporaryDirectory(prefix="raftkv-path-") as directory:
            environment = {**self._environment, "COMPOSE_PROJECT_NAME": self.name}
            if len(self._compose) == 1:
                # A program of its own, of whatever name: the drill takes what is called docker-compose.
                found = shutil.which(self._compose[0])
                assert found is not None
                (Path(directory) / "docker-compose").symlink_to(Path(found).absolute())
                environment["PATH"] = f"{directory}:{os.environ['PATH']}"
            done = run([*raftkv, *aimed], DRILL_S, cwd=ROOT, environment=environment)
        # What it says of its progress comes before, line by line.
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return told

    async def events(self, node: int, since: float, *actions: str) -> list[str]:
        """Return which of these things happened to a node's container since a time (`time.time`), as the engine has it.

        It remembers its last 256 events, and every health check makes three: ask within a minute or two.
        """
        filters = [f"--filter=event={action}" for action in actions]
        window = [f"--since={since:.6f}", f"--until={time.time():.6f}", f"--filter=container={self.container(node)}"]
        return (await self.docker("events", *window, *filters, "--format", "{{.Action}}")).split()

    async def cut(self, *nodes: int) -> None:
        """Take nodes off the network between nodes; their clients still reach them."""
        for node in nodes:
            await self.docker("network", "disconnect", f"{self.name}_peers", self.container(node))

    async def mend(self, *nodes: int) -> None:
        for node in nodes:
            await self.docker(
                "network", "connect", "--alias", f"peer{node}", f"{self.name}_peers", self.container(node)
            )

    async def http(self, node: int, path: str) -> tuple[int, str]:
        """GET; return status and body."""
        scheme = "https" if self.tls else "http"
        return await asyncio.to_thread(self._http, f"{scheme}://127.0.0.1:{self._http_ports[node]}{path}")

    def _http(self, url: str) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=self.tls.ca) if self.tls else None
        try:
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def down(self) -> None:
        """Remove containers, networks and volumes, and prove it."""
        command = [*self._command, "--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "15"]
        run(command, 180, cwd=ROOT, environment=self._environment, check=False)
        label = f"label=com.docker.compose.project={self.name}"
        for kind in (("container", "ls", "-a"), ("network", "ls"), ("volume", "ls")):
            left = run(["docker", *kind, "--filter", label, "-q"], 30).stdout.split()
            for one in left:
                run(["docker", kind[0], "rm", "-f", one], 60, check=False)
            if left:
                say(f"{self.name}: compose left {kind[0]} {', '.join(left)}; removed")


def voters(members: str) -> set[int]:
    """Return the ids of the voters in what `member list` shows."""
    return {int(node) for node in re.findall(r"(?m)^\s*(\d+)\s+voter\b(?! \(leaving)", members)}
