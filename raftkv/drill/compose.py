"""Nodes that are services of a docker compose file."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftkv.client.shielded import finished
from raftkv.drill.faults import Fault, NotOurs, is_loopback
from raftkv.drill.measure.record import How
from raftkv.errors import RaftKVError

COMMAND_S: Final = 60.0
DOCKER: Final = ("docker", "compose")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the file, as it runs."""

    name: str
    container: str
    ports: frozenset[int]
    """Where it can be reached on this machine."""


class ComposeNodes:
    """The services of one compose file. A node is the one that publishes the port of its client address."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def aim(self, how: How, node: int, endpoint: str) -> Fault:
        said = await _docker(self._file, "ps", "--format", "json")
        service = service_at(services_of(said), endpoint, node)
        return ComposeFault(self._file, service, node, how)


class ComposeFault:
    """`docker compose kill` or `pause` of one service."""

    def __init__(self, file: Path, service: Service, node: int, how: How) -> None:
        self._file = file
        self._service = service
        self._how = how
        self._struck = False
        verb = "kill" if how is How.KILL else "pause"
        self.text = f"docker compose {verb} {service.name} (node {node}, container {service.container})"

    async def begin(self) -> None:
        self._struck = True
        await _docker(self._file, "kill" if self._how is How.KILL else "pause", self._service.name)

    async def end(self) -> None:
        if self._struck:
            # Docker's own restart policies leave alone what was killed by command.
            await _docker(self._file, "start" if self._how is How.KILL else "unpause", self._service.name)
            self._struck = False


def services_of(text: str) -> list[Service]:
    """Return what `docker compose ps --format json` lists: an array, or one object a line, as its version has it."""
    try:
        lines = json.loads(text) if text.lstrip().startswith("[") else [json.loads(one) for one in text.splitlines()]
    except json.JSONDecodeError:
        raise RaftKVError(f"docker compose ps answered what is no JSON: {text[:200]}") from None
    return [_service(one) for one in lines]


def service_at(services: Sequence[Service], endpoint: str, node: int) -> Service:
    """Return the one service that publishes the port of `endpoint`. Raises NotOurs."""
    host, _, published = endpoint.rpartition(":")
    if not is_loopback(host.strip("[]")):
        # Ports say nothing of machines: another cluster's node, elsewhere, may well have the port of a service here.
        raise NotOurs(
            f"node {node} is at {endpoint}, which is no loopback address: nothing says that it is a service of the "
            "file, whatever port they publish. Run the drill where the containers are, and name their loopback "
            "addresses in --endpoints; or use --transfer, which works from anywhere"
        )
    port = int(published)
    found = [one for one in services if port in one.ports]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{one.name} ({', '.join(map(str, sorted(one.ports))) or 'no port'})" for one in services)
    which = "none" if not found else "more than one"
    raise NotOurs(f"node {node} is at {endpoint}; of the running services {which} publishes that port: {known or '-'}")


def _service(told: dict[str, Any]) -> Service:
    published = {int(one.get("PublishedPort") or 0) for one in told.get("Publishers") or ()}
    return Service(name=told["Service"], container=told["Name"], ports=frozenset(published - {0}))


async def _docker(file: Path, *arguments: str) -> str:
    """Run docker compose. Return what it wrote to stdout. Raises RaftKVError with what it said of its failure.

    Not to be interrupted: whoever puts things right must know that nothing is still on its way.
    """
    return await finished(asyncio.to_thread(_run, [*DOCKER, "--file", str(file), *arguments]))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_S,
            start_new_session=True,  # a Ctrl-C at the terminal is for us, who then put things right
        )
    except FileNotFoundError:
        raise NotOurs(
            "docker is not installed here: run the drill where the containers are, or use --transfer"
        ) from None
    except subprocess.TimeoutExpired:
        raise RaftKVError(f"{' '.join(command)} has not ended after {COMMAND_S:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RaftKVError(f"{' '.join(command)}: {said or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
