"""Nodes that are services of a docker compose file."""

from __future__ import annotations

import asyncio
import json
import re
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
COMPOSE: Final = (("docker", "compose"), ("docker-compose",))
"""The plugin, and the same thing as a program of its own, where there is no plugin."""
_NOTHING: Final = "nothing runs of this project (which one, COMPOSE_PROJECT_NAME says)"


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
        self._compose: Compose | None = None

    async def aim(self, how: How, node: int, endpoint: str) -> Fault:
        if self._compose is None:
            self._compose = Compose(await found(), self._file)
        services = services_of(await self._compose("ps", "--format", "json"))
        return ComposeFault(self._compose, service_at(services, endpoint, node), node, how)


class Compose:
    """Docker Compose, of one file; COMPOSE_PROJECT_NAME of our environment, if set, says which project of it."""

    def __init__(self, command: Sequence[str], file: Path) -> None:
        self.shown = " ".join(command)
        self._command = [*command, "--file", str(file)]

    async def __call__(self, *arguments: str) -> str:
        """Run it. Return what it wrote to stdout. Raises RaftKVError with what it said of its failure.

        Not to be interrupted: whoever puts things right must know that nothing is still on its way.
        """
        return await finished(asyncio.to_thread(_run, [*self._command, *arguments]))


class ComposeFault:
    """`docker compose kill` or `pause` of one service."""

    def __init__(self, compose: Compose, service: Service, node: int, how: How) -> None:
        self._compose = compose
        self._service = service
        self._how = how
        self._struck = False
        verb = "kill" if how is How.KILL else "pause"
        self.text = f"{compose.shown} {verb} {service.name} (node {node}, container {service.container})"

    async def begin(self) -> None:
        self._struck = True
        await self._compose("kill" if self._how is How.KILL else "pause", self._service.name)

    async def end(self) -> None:
        if self._struck:
            # Docker's own restart policies leave alone what was killed by command.
            await self._compose("start" if self._how is How.KILL else "unpause", self._service.name)
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
    raise NotOurs(
        f"node {node} is at {endpoint}; of the running services {which} publishes that port: {known or _NOTHING}"
    )


def _service(told: dict[str, Any]) -> Service:
    published = {int(one.get("PublishedPort") or 0) for one in told.get("Publishers") or ()}
    return Service(name=told["Service"], container=told["Name"], ports=frozenset(published - {0}))


async def found() -> Sequence[str]:
    """Return the command that is Docker Compose here, version 2 or newer. Raises NotOurs."""
    refusals: list[str] = []
    for command in COMPOSE:
        shown = " ".join(command)
        try:
            version = (await finished(asyncio.to_thread(_run, [*command, "version", "--short"]))).strip()
        except RaftKVError as error:
            refusals.append(error.message)
            continue
        # One that was built from its source may not know its version; the old one, in Python, knew it always.
        if not re.match(r"v?1\.", version):
            return command
        refusals.append(f"{shown} is version {version}, too old")
    raise NotOurs(
        f"Docker Compose does not work here ({'; '.join(refusals)}): run the drill where the containers are, "
        "or use --transfer"
    )


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
        raise NotOurs(f"{command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise RaftKVError(f"{' '.join(command)} has not ended after {COMMAND_S:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RaftKVError(f"{' '.join(command)}: {said or f'exit code {done.returncode}'}")
    return done.stdout.decode(errors="replace")
