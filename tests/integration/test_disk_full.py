"""Real nodes on real file systems that are full: nothing acknowledged is lost, and they go on by themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from raftkv.client import AsyncClient
from raftkv.client.node_status import Alarm
from raftkv.errors import LeaderChanged, SpaceExceeded
from raftkv.testing.cluster import LocalCluster, NodeProcess
from tests.integration.load import CounterLoad
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

MIB = 1 << 20
ROOMY = 96 * MIB
RESERVE = 8 * MIB
ARGUMENTS = ("--wal-segment-bytes", str(MIB), "--disk-reserve-bytes", str(RESERVE))


class Volume:
    """A file system of its own for one data directory; its size may change while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def leave(self, free: int) -> None:
        """Change its size so that about so many bytes are free."""
        for _ in range(20):  # more may be written meanwhile, and it is never made smaller than what it holds
            found = os.statvfs(self.path)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            size = -(-(used + free) // found.f_frsize) * found.f_frsize
            if run("mount", "-o", f"remount,size={size}", str(self.path)).returncode == 0:
                return
        raise AssertionError("the file system cannot be made smaller")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def volume(path: Path) -> Iterator[Volume]:
    path.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={ROOMY},mode=700", "tmpfs", str(path))
    if mounted.returncode != 0:
        pytest.skip(f"DISK FULL IS NOT TESTED WITH REAL FILE SYSTEMS HERE: {mounted.stderr.strip()} (needs root)")
    try:
        yield Volume(path)
    finally:
        assert run("umount", "-l", str(path)).returncode == 0


async def alarms_of(client: AsyncClient, node: NodeProcess) -> dict[Alarm, str]:
    status = await client.status(node.client_address)
    return {raised.alarm: raised.message for raised in status.alarms}


async def until_full(client: AsyncClient, nodes: list[NodeProcess], *, full: bool) -> None:
    for node in nodes:
        async with asyncio.timeout(PATIENCE_S):
            while (Alarm.DISK_FULL in await alarms_of(client, node)) is not full:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)


async def refusal(client: AsyncClient) -> SpaceExceeded:
    """Write until that is refused."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.put("filler", bytes(20_000))
            except SpaceExceeded as error:
                return error


async def test_full_disks_refuse_writes_stop_nothing_else_and_lose_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = LocalCluster(3, directory=tmp_path, arguments=ARGUMENTS)
        volumes = {node.id: stack.enter_context(volume(node.data_dir)) for node in cluster.nodes}
        async with cluster, AsyncClient(cluster.url, timeout=60.0) as client:
            pids = [node.pid for node in cluster.nodes]

            # One follower is full: nobody else cares, and it catches up.
            leader = await cluster.leader()
            small = next(node for node in cluster.nodes if node.id != leader)
            async with CounterLoad(client, "one/", tasks=4, value_bytes=4_000) as load:
                await load.progress(50)
                volumes[small.id].leave(MIB)
                await until_full(client, [small], full=True)
                async with asyncio.timeout(PATIENCE_S):  # it may have met the end before it looked
                    while (before := await client.status(small.client_address)).disk.free_bytes > 2 * MIB:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert before.disk.reserve_bytes == RESERVE
                await load.progress(200)
                after = await client.status(small.client_address)
                newest = await client.status(cluster.node(await cluster.leader()).client_address)
                assert newest.last_index > after.last_index, "it takes none of them"
                volumes[small.id].leave(ROOMY)
                await until_full(client, [small], full=False)
                await load.progress(50)
            await load.verify_on_every_node(cluster, at_least=300)

            # The leader's disk has no room from one moment to the next: another one leads, and it comes back.
            leading = cluster.node(await cluster.leader())
            async with CounterLoad(client, "leader/", tasks=4, value_bytes=4_000) as load:
                await load.progress(50)
                volumes[leading.id].leave(0)
                await cluster.leader(other_than=leading.id)
                await load.progress(100)
                volumes[leading.id].leave(ROOMY)
                await until_full(client, [leading], full=False)
            await load.verify_on_every_node(cluster, at_least=150)

            # All of them are: writes are refused before anything is full, reads and elections go on.
            await client.put("kept", "value")
            for each in volumes.values():
                each.leave(RESERVE + MIB)
            refused = await refusal(client)
            assert "--disk-reserve-bytes" in refused.message
            assert "free or add space" in refused.message
            await until_full(client, cluster.nodes, full=True)
            assert all(each.free() > MIB for each in volumes.values())
            old = await cluster.leader()
            target = next(node for node in cluster.nodes if node.id != old)
            await client.transfer_leader(target.id)
            found = await client.get("kept")
            assert found is not None
            assert found.value == b"value"
            with pytest.raises(SpaceExceeded):
                await client.put("k", "v")
            for each in volumes.values():
                each.leave(ROOMY)
            await until_full(client, cluster.nodes, full=False)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        await client.put("after", "value")
                        break
                    except (SpaceExceeded, LeaderChanged):
                        await asyncio.sleep(0.05)
            await cluster.converged()
            assert [node.pid for node in cluster.nodes if node.running] == pids, "nobody has stopped"
