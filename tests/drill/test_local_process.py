"""Nodes on this machine: which process is one, what is done to it, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from raftkv.client import AsyncClient
from raftkv.drill import local_process
from raftkv.drill.faults import NotOurs
from raftkv.drill.local_process import LocalFault, LocalNodes, Node, find, serves, supervisor_of
from raftkv.drill.measure.record import How
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster
from tests.integration.waiting import until


@contextmanager
def process(*command: str) -> Iterator[psutil.Process]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            started.kill()


def connect(endpoint: str) -> AsyncClient:
    return AsyncClient([endpoint])


def sleeper() -> tuple[str, ...]:
    return sys.executable, "-c", "import sys; sys.stdin.read()"


def node_of(found: psutil.Process) -> Node:
    return Node(
        process=found, endpoint="127.0.0.1:1", command=["raftkv", "serve"], environment={}, directory="/", output=None
    )


@pytest.mark.parametrize(
    "command",
    [
        "/usr/bin/python3 -m raftkv.cli serve --id 2 --data-dir d",
        "/usr/bin/python3 /venv/bin/raftkv serve --id=2",
        "raftkv serve --config node.toml",
        "raftkv serve",
    ],
)
def test_a_node_is_known_by_its_command(command: str) -> None:
    assert serves(command.split(), 2)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "serve",
        "nginx",
        "raftkv drill --pause",
        "python3 -m http.server serve",
        "/usr/bin/other-raftkv-tool serve --id 2",
        "raftkv serve --id 3",
        "raftkv serve --id=22",
    ],
)
def test_what_is_no_node_or_another_one(command: str) -> None:
    assert not serves(command.split(), 2)


@pytest.mark.parametrize("endpoint", ["10.0.0.7:7001", "db.example.org:7001", "[fd00::1]:7001", "0.0.0.0:7001"])
def test_a_node_elsewhere_is_left_alone(endpoint: str) -> None:
    with pytest.raises(NotOurs, match=r"no loopback address of this machine.*--compose file, or use --transfer"):
        find(endpoint, 2)


def test_another_program_on_the_port_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(NotOurs, match=rf"is no `raftkv serve` of node 2, but process {os.getpid()}: .*left alone"):
            find(f"127.0.0.1:{port}", 2)


def test_a_port_on_which_nobody_of_ours_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(NotOurs, match="no process of this user listens on port"):
            find(f"127.0.0.1:{bound.getsockname()[1]}", 2)


async def test_a_pause_is_undone() -> None:
    with process(*sleeper()) as found:
        fault = LocalFault(node_of(found), 2, How.PAUSE, connect)
        await fault.begin()
        await until("the stop", lambda: found.status() == psutil.STATUS_STOPPED)
        await fault.end()
        await until("the end of the stop", lambda: found.status() != psutil.STATUS_STOPPED)
        await fault.end()  # again: nothing


async def test_what_was_not_struck_is_not_put_right() -> None:
    with process(*sleeper()) as found:
        found.suspend()  # by somebody else
        await until("the stop", lambda: found.status() == psutil.STATUS_STOPPED)
        await LocalFault(node_of(found), 2, How.PAUSE, connect).end()
        assert found.status() == psutil.STATUS_STOPPED


async def test_the_node_goes_on_although_the_drill_is_killed_in_a_pause() -> None:
    drill = (
        "import asyncio, sys, psutil\n"
        "from raftkv.client import AsyncClient\n"
        "from raftkv.drill.local_process import LocalFault, Node\n"
        "from raftkv.drill.measure.record import How\n"
        "found = psutil.Process(int(sys.argv[1]))\n"
        "node = Node(process=found, endpoint='h:1', command=[], environment={}, directory='/', output=None)\n"
        "asyncio.run(LocalFault(node, 2, How.PAUSE, AsyncClient).begin())\n"
        "sys.stdin.read()\n"
    )
    with process(*sleeper()) as found, process(sys.executable, "-c", drill, str(found.pid)) as driller:
        await until("the stop", lambda: found.status() == psutil.STATUS_STOPPED)
        driller.send_signal(signal.SIGKILL)
        await until("the end of the stop", lambda: found.status() != psutil.STATUS_STOPPED)


async def test_a_process_that_is_gone_already_cannot_be_struck() -> None:
    with process(*sleeper()) as found:
        fault = LocalFault(node_of(found), 2, How.KILL, connect)
        found.kill()
        found.wait()
        with pytest.raises(RaftKVError, match="could not be struck"):
            await fault.begin()


async def test_a_supervisor_that_starts_it_again_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = Node(
            process=psutil.Process(),
            endpoint=f"127.0.0.1:{server.getsockname()[1]}",
            command=[],
            environment={},
            directory="/",
            output=None,
        )
        assert await local_process._comes_back(there, 5.0)


INVOKED = {"INVOCATION_ID": "0af3"}


@pytest.mark.parametrize(
    ("parent", "environment", "supervisor"),
    [
        ((1, "systemd"), INVOKED, "systemd"),
        ((1, "systemd"), INVOKED | {"SYSTEMD_EXEC_PID": "70"}, "systemd"),
        ((900, "systemd"), INVOKED, "systemd"),  # that of a user
        ((1, "systemd"), {}, ""),  # an orphan
        ((900, "systemd"), INVOKED | {"SYSTEMD_EXEC_PID": "69"}, ""),  # an orphan of a terminal of a desktop
        ((60, "supervisord"), {}, "supervisord"),
        ((60, "bash"), INVOKED, ""),
        ((60, "python3"), {}, ""),
        (None, INVOKED, ""),
    ],
)
def test_who_starts_it_again(parent: tuple[int, str] | None, environment: dict[str, str], supervisor: str) -> None:
    above = None if parent is None else SimpleNamespace(pid=parent[0], name=lambda: parent[1])
    process: Any = SimpleNamespace(pid=70, parent=lambda: above, environ=lambda: environment)
    assert supervisor_of(process) == supervisor


async def test_no_second_copy_is_started_beside_a_slow_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_process, "SUPERVISED_S", 0.0)
    monkeypatch.setattr(local_process, "SUPERVISOR_S", 0.1)
    monkeypatch.setattr(local_process, "start", lambda _: pytest.fail("a second copy"))
    with process(*sleeper()) as found:
        fault = LocalFault(replace(node_of(found), supervisor="systemd"), 2, How.KILL, connect)
        await fault.begin()
        with pytest.raises(RaftKVError, match="systemd has not started the node at 127"):
            await fault.end()


@pytest.mark.processes
async def test_a_killed_node_is_started_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_process, "SUPERVISED_S", 0.1)
    async with LocalCluster(1) as cluster:
        (node,) = cluster.nodes
        fault = await LocalNodes(connect).aim(How.KILL, 1, node.client_address)
        assert f"SIGKILL to node 1, process {node.pid}" in fault.text
        before = psutil.Process(node.pid)
        command, directory, token = before.cmdline(), Path(before.cwd()), before.environ().get("PATH")
        await fault.begin()
        try:
            await fault.end()
            again = find(node.client_address, 1)
            assert again.process.pid != node.pid
            assert (again.command, Path(again.directory), again.environment.get("PATH")) == (command, directory, token)
            assert again.output == node.log_path
            async with AsyncClient(cluster.url) as client:
                await client.put("k", "v")
        finally:
            for one in local_process.started:
                one.kill()
                await asyncio.to_thread(one.wait)
            local_process.started.clear()
