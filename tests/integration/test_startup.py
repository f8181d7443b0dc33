"""What a node refuses to start on: one line that says why, an exit code, no stack trace, nothing changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftkv.storage.data_dir import IDENTITY_NAME
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.processes import LOOPBACK, bound_to_parent, free_port
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    stdout: str
    lines: list[str]


async def serve(*arguments: str) -> Ended:
    """Run `raftkv serve` until it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent([sys.executable, "-m", "raftkv.cli", "serve", *arguments]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")},
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode().splitlines())


def refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.stdout == ""
    (line,) = ended.lines
    assert line.startswith("raftkv: ")
    for word in words:
        assert word in line
    assert ended.code == code


def as_node(cluster: LocalCluster, node_id: int, data_dir: Path) -> list[str]:
    """The flags of a node of this cluster, on ports that are free."""
    members = [f"{node.id}={node.peer_address}" for node in cluster.nodes]
    flags = ["--id", str(node_id), "--data-dir", str(data_dir)]
    flags += ["--listen", f"{LOOPBACK}:{free_port()}", "--peer-listen", f"{LOOPBACK}:{free_port()}"]
    return [*flags, *(part for member in members for part in ("--member", member))]


def copied_identity(cluster: LocalCluster, node_id: int, tmp_path: Path) -> Path:
    tmp_path.mkdir(exist_ok=True)
    shutil.copy(cluster.node(node_id).data_dir / IDENTITY_NAME, tmp_path)
    return tmp_path


async def test_a_data_directory_that_a_running_node_holds(cluster: LocalCluster) -> None:
    node = cluster.node(1)
    ended = await serve(*as_node(cluster, 1, node.data_dir))
    refused(ended, 1, str(node.data_dir), f"held by process {node.pid}")
    assert (await node.answers()).member_id == 1


async def test_a_data_directory_of_another_node(cluster: LocalCluster, tmp_path: Path) -> None:
    of_node_1 = copied_identity(cluster, 1, tmp_path)
    refused(await serve(*as_node(cluster, 2, of_node_1)), 1, str(of_node_1), "belongs to node 1", "this is node 2")


async def test_a_data_directory_of_another_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    of_this_one = copied_identity(cluster, 1, tmp_path)
    ended = await serve(*as_node(cluster, 1, of_this_one), "--cluster-name", "another")
    refused(ended, 1, str(of_this_one), "belongs to node 1 of cluster 0x")


@pytest.mark.parametrize(("flag", "purpose"), [("--listen", "clients"), ("--peer-listen", "peers")])
async def test_a_port_in_use(cluster: LocalCluster, tmp_path: Path, flag: str, purpose: str) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        ended = await serve(*as_node(cluster, 1, tmp_path / "new"), flag, address)
    refused(ended, 2, address, purpose, "in use")
    assert not (tmp_path / "new").exists(), "a node that never ran has left something behind"
