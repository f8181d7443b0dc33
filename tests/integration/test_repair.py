"""A node whose disk is damaged is brought back with the very command that it names, while the cluster serves."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from raftkv.client import AsyncClient, MemberKind
from raftkv.storage.data_dir import IDENTITY_NAME
from raftkv.testing.cluster import LocalCluster, NodeProcess
from tests.integration.load import CounterLoad
from tests.integration.test_recovery import flip_a_bit, last_segment, read_segment, refused
from tests.integration.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


@pytest_asyncio.fixture(loop_scope="package")
async def three() -> AsyncIterator[LocalCluster]:
    """A cluster of its own: it does not come out as it went in."""
    async with LocalCluster(3) as cluster:
        yield cluster


async def raftkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftkv.cli", *arguments]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


def the_command_in(line: str) -> list[str]:
    found = re.search(r"`raftkv (repair [^`]*)`", line)
    assert found is not None, line
    return shlex.split(found.group(1))


def damage_mid_log(node: NodeProcess) -> None:
    path = last_segment(node)
    _, records = read_segment(path)
    flip_a_bit(path, records[len(records) // 2].end - 1)


def has_a_middle(node: NodeProcess) -> bool:
    """A follower may lag behind what the others have acknowledged, or have got all of it in one record."""
    return len(read_segment(last_segment(node))[1]) > 4


@pytest.mark.jepsen
async def test_a_damaged_node_is_repaired_by_the_command_that_it_names(three: LocalCluster) -> None:
    leader = await three.leader()
    victim = next(node for node in three.nodes if node.id != leader)
    async with AsyncClient(three.url, timeout=60.0) as client, CounterLoad(client, "repair/") as load:
        await load.progress(200)
        await until("a log that can be damaged in the middle", lambda: has_a_middle(victim))
        await victim.kill()
        damage_mid_log(victim)
        line = await refused(victim)
        assert "entries " in line
        assert "may include acknowledged writes" in line
        command = the_command_in(line)
        assert command[-1] == "--yes"
        await load.progress(50)

        # Without --yes it says the same and does nothing.
        before = (victim.data_dir / IDENTITY_NAME).read_bytes()
        dry = await raftkv(*command[:-1], "-o", "json")
        assert dry.returncode == 0, dry.stderr
        assert json.loads(dry.stdout)["done"] is False
        assert (victim.data_dir / IDENTITY_NAME).read_bytes() == before
        assert len(await client.members()) == 3

        done = await raftkv(*command)
        assert done.returncode == 0, done.stderr
        (aside,) = three.directory.glob(f"{victim.data_dir.name}.damaged-*")
        assert (aside / IDENTITY_NAME).read_bytes() == before
        await load.progress(50)

        await victim.start()  # with the flags of before
        async with asyncio.timeout(PATIENCE_S):
            while True:
                kinds = {member.id: member.kind for member in await client.members()}
                if kinds.get(4) is MemberKind.VOTER:
                    break
                await asyncio.sleep(0.05)
        assert victim.id not in kinds
        assert len(kinds) == 3
        await load.progress(50)
    assert "runs under another id" in victim.log()
    assert (await three.converged()).applied_index > 0
    async with AsyncClient([victim.client_address]) as own:
        assert (await own.status()).member_id == 4
    # Nobody ever waits for it again: it is a voter like the others, also after another start.
    await victim.restart()
    await three.converged()
    healthy = await raftkv("doctor", str(aside), "-o", "json")
    assert healthy.returncode == 1, "what was set aside is still what it was"


@pytest.mark.slow
async def test_a_lost_directory_comes_back_too_and_an_interrupted_repair_goes_on(three: LocalCluster) -> None:
    leader = await three.leader()
    victim = next(node for node in three.nodes if node.id != leader)
    async with AsyncClient(three.url, timeout=60.0) as client:
        for number in range(20):
            await client.put(f"key {number}", "value")
        await victim.stop()
        shutil.rmtree(victim.data_dir)
        arguments = ["repair", "--data-dir", str(victim.data_dir), "--endpoints", ",".join(three.endpoints), "--yes"]
        done = await raftkv(*arguments, "--id", str(victim.id))
        assert done.returncode == 0, done.stderr
        # As if it had died before the last step: the start refuses, and the same command goes on.
        identity = json.loads((victim.data_dir / IDENTITY_NAME).read_text())
        plan = {
            "format_version": 1,
            "cluster_id": identity["cluster_id"],
            "old": victim.id,
            "new": 4,
            "role": "voter",
            "peer_address": victim.peer_address,
            "replaces": [victim.id],
            "aside": str(Path(f"{victim.data_dir}.damaged-9")),
        }
        (victim.data_dir / "repair.json").write_text(json.dumps(plan))
        line = await refused(victim)
        assert "was interrupted" in line
        again = await raftkv(*the_command_in(line)[:-3], "--endpoints", ",".join(three.endpoints), "--yes")
        assert again.returncode == 0, again.stderr
        assert sorted(member.id for member in await client.members()) == sorted(
            {4} | {node.id for node in three.nodes if node is not victim}
        )
        await victim.start()
    await three.converged()
