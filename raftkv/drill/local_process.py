"""Nodes that run on this machine: found by the port on which they listen, and started again as they were started."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from raftkv.client import AsyncClient
from raftkv.drill.faults import Fault, NotOurs, is_loopback
from raftkv.drill.measure.record import How
from raftkv.errors import RaftKVError

SUPERVISED_S: Final = 5.0
"""How long whoever may watch over the node (a shell loop) has to start it again before we do."""
SUPERVISOR_S: Final = 60.0
"""How long a known supervisor has. We do not start it then: its own start would fail, on a directory in use."""
SUPERVISORS: Final = frozenset({"supervisord", "runsv", "s6-supervise", "supervise", "circusd"})
"""Processes that start their children again."""
POLL_S: Final = 0.05
GONE_S: Final = 20.0
ANSWERS_S: Final = 60.0

# Lets the node go on when we are gone, however that came about: our end of its stdin is closed then.
_GUARD: Final = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGCONT)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node's process and how it was started."""

    process: psutil.Process
    endpoint: str
    command: Sequence[str]
    environment: dict[str, str]
    directory: str
    output: Path | None
    """The file to which it writes, if that is one."""
    supervisor: str = ""
    """Who starts it again, if that is known."""


Connect = Callable[[str], AsyncClient]
"""Makes a client of the node at an endpoint."""


class LocalNodes:
    """Nodes on the loopback addresses of this machine."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def aim(self, how: How, node: int, endpoint: str) -> Fault:
        return LocalFault(await asyncio.to_thread(find, endpoint, node), node, how, self._connect)


class LocalFault:
    """SIGKILL or SIGSTOP to a node on this machine."""

    def __init__(self, found: Node, node: int, how: How, connect: Connect) -> None:
        self._connect = connect
        self._found = found
        self._how = how
        self._guard: subprocess.Popen[bytes] | None = None
        self._struck = False
        what = "SIGKILL" if how is How.KILL else "SIGSTOP"
        self.text = f"{what} to node {node}, process {found.process.pid}: {shlex.join(found.command)}"

    async def begin(self) -> None:
        process = self._found.process
        try:
            if self._how is How.PAUSE:
                self._guard = _guard(process.pid)
                self._struck = True
                process.suspend()
            else:
                self._struck = True
                process.kill()
        except psutil.Error as error:
            raise RaftKVError(f"process {process.pid} could not be struck: {error}") from None

    async def end(self) -> None:
        if not self._struck:
            return
        if self._how is How.PAUSE:
            self._resume()
            return
        await _gone(self._found.process)
        supervisor = self._found.supervisor
        if not await _comes_back(self._found, SUPERVISOR_S if supervisor else SUPERVISED_S):
            if supervisor:
                raise RaftKVError(
                    f"{supervisor} has not started the node at {self._found.endpoint} again within {SUPERVISOR_S:g} s, "
                    f"and the drill does not in its place: start it through {supervisor}"
                )
            start(self._found)
        await _answers(self._connect, self._found.endpoint)
        self._struck = False

    def _resume(self) -> None:
        # At once, without giving way: nothing may come between.
        try:
            self._found.process.resume()
        except psutil.NoSuchProcess:
            raise RaftKVError(f"process {self._found.process.pid} ended while it was paused") from None
        finally:
            self._struck = False
            if self._guard is not None and self._guard.stdin is not None:
                self._guard.stdin.close()
                self._guard.wait()


def find(endpoint: str, node: int) -> Node:
    """Return the process that listens there. Raises NotOurs unless it is one `raftkv serve` of ours."""
    host, _, port = endpoint.rpartition(":")
    if not is_loopback(host.strip("[]")):
        raise NotOurs(
            f"node {node} is at {endpoint}, which is no loopback address of this machine: only what can be started "
            "again from here is killed or paused. Run the drill on that machine against its loopback address, name "
            "the --compose file, or use --transfer, which works from anywhere"
        )
    pids = _listening(int(port))
    if not pids:
        raise NotOurs(
            f"no process of this user listens on port {port}: node {node} is another user's, in a container "
            "(--compose FILE), or behind a proxy. --transfer works all the same"
        )
    if len(pids) > 1:
        raise NotOurs(f"several processes listen on port {port}: {', '.join(map(str, sorted(pids)))}")
    return _described(pids.pop(), endpoint, node)


def serves(command: Sequence[str], node: int) -> bool:
    """Whether a command line is that of `raftkv serve`, of this node where it says which."""
    for place, word in enumerate(command):
        if word != "serve" or place == 0:
            continue
        before = list(command[:place])
        named = Path(before[-1]).name == "raftkv" or before[-2:] in (["-m", "raftkv.cli"], ["-m", "raftkv"])
        return named and _names(command[place + 1 :], node)
    return False


def supervisor_of(process: psutil.Process) -> str:
    """Return the name of the process that will start it again; empty where none is known to."""
    parent = process.parent()
    if parent is None:
        return ""
    environment = process.environ()
    # Orphans become children of systemd too, with the environment of what started them: newer ones say who was meant.
    meant = environment.get("SYSTEMD_EXEC_PID", str(process.pid)) == str(process.pid)
    if "INVOCATION_ID" in environment and meant and (parent.pid == 1 or parent.name() == "systemd"):
        return "systemd"
    return parent.name() if parent.name() in SUPERVISORS else ""


started: Final[list[subprocess.Popen[bytes]]] = []
"""The nodes that were started again. They outlive us; kept, as a Popen complains that is forgotten while it runs."""


def start(found: Node) -> None:
    """Start a node as it was started before, so that it outlives us."""
    output = found.output.open("ab") if found.output is not None else None
    try:
        process = subprocess.Popen(
            list(found.command),
            env=found.environment,
            cwd=found.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=subprocess.DEVNULL if output is None else output,
            start_new_session=True,
        )
    except OSError as error:
        raise RaftKVError(f"could not start it again ({error}): {shlex.join(found.command)}") from None
    finally:
        if output is not None:
            output.close()
    started.append(process)


def _names(arguments: Sequence[str], node: int) -> bool:
    for place, word in enumerate(arguments):
        if word == "--id":
            return list(arguments[place + 1 : place + 2]) == [str(node)]
        if word.startswith("--id="):
            return word == f"--id={node}"
    return True  # it has its id from its environment, its configuration file or its data directory


def _listening(port: int) -> set[int]:
    return {
        one.pid
        for one in psutil.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN and one.pid is not None and one.laddr and one.laddr.port == port
    }


def _described(pid: int, endpoint: str, node: int) -> Node:
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
        if process.name() == "docker-proxy":
            raise NotOurs(f"node {node} at {endpoint} is in a container: name its --compose file, or use --transfer")
        if not serves(command, node):
            raise NotOurs(
                f"what listens on {endpoint} is no `raftkv serve` of node {node}, but process {pid}: "
                f"{shlex.join(command) or process.name()}. It is left alone"
            )
        if process.uids().real != os.getuid() and os.getuid() != 0:
            raise NotOurs(f"node {node} is process {pid} of user {process.username()}: run the drill as that user")
        if not _in_our_world(pid):
            raise NotOurs(f"node {node} is process {pid} in a container: name its --compose file, or use --transfer")
        return Node(
            process=process,
            endpoint=endpoint,
            command=command,
            environment=process.environ(),
            directory=process.cwd(),
            output=_output(pid),
            supervisor=supervisor_of(process),
        )
    except psutil.Error as error:
        raise NotOurs(f"process {pid}, which listens on {endpoint}, cannot be looked at: {error}") from None


def _in_our_world(pid: int) -> bool:
    """Whether it sees the files that we see: else the same command would start something else here."""
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
    except OSError:
        return False


def _output(pid: int) -> Path | None:
    try:
        found = Path(f"/proc/{pid}/fd/1").readlink()
    except OSError:
        return None
    return found if found.is_file() else None


def _guard(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is not for it
    )


async def _gone(process: psutil.Process) -> None:
    last = time.monotonic() + GONE_S
    while not _has_ended(process):
        if time.monotonic() > last:
            raise RaftKVError(f"process {process.pid} is still there {GONE_S:g} s after {signal.SIGKILL.name}")
        await asyncio.sleep(POLL_S)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _comes_back(found: Node, patience_s: float) -> bool:
    """Whether somebody else starts it again in time."""
    port = int(found.endpoint.rpartition(":")[2])
    last = time.monotonic() + patience_s
    while time.monotonic() < last:
        if await asyncio.to_thread(_listening, port):
            return True
        await asyncio.sleep(POLL_S)
    return False


async def _answers(connect: Connect, endpoint: str) -> None:
    last = time.monotonic() + ANSWERS_S
    async with connect(endpoint) as client:
        while True:
            try:
                await client.status(endpoint, timeout=1.0)
            except RaftKVError as error:
                if time.monotonic() > last:
                    raise RaftKVError(f"{endpoint} was started again and does not answer: {error.message}") from None
                await asyncio.sleep(POLL_S)
            else:
                return
