"""What a node makes of its data directory after an unclean end: rebuilt, cut, or refused, and never quietly wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from raftkv.client import AsyncClient, KeyValue
from raftkv.raft.types import HardState, Index, Term
from raftkv.storage.data_dir import BOOT_NAME, STORE_NAME, WAL_NAME
from raftkv.storage.json_files import unseal
from raftkv.storage.wal_format import (
    SEGMENT_HEADER_BYTES,
    Record,
    RecordType,
    Segment,
    decode_record,
    decode_segment,
    encode_batch,
    encode_record,
)
from raftkv.testing.cluster import ClusterError, LocalCluster, NodeProcess
from tests.integration.load import CounterLoad
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def written_then_killed(cluster: LocalCluster, client: AsyncClient, prefix: str) -> NodeProcess:
    """Fill the cluster with some data, let every node apply it, and SIGKILL a follower."""
    async with CounterLoad(client, prefix) as load:
        await load.progress(300)
    await load.verify_on_every_node(cluster, at_least=300)
    leader = await cluster.leader()
    victim = next(node for node in cluster.nodes if node.id != leader)
    await victim.kill()
    return victim


async def restarted(node: NodeProcess) -> str:
    """Start it and return what it says about that."""
    mark = len(node.log())
    await node.start()
    return node.log()[mark:]


async def refused(node: NodeProcess) -> str:
    """Start it in vain, and return the one line in which it says why."""
    mark = len(node.log())
    with pytest.raises(ClusterError):
        await node.start()
    assert await asyncio.wait_for(node.wait_ended(), PATIENCE_S) == 1
    (line,) = (line for line in node.log()[mark:].splitlines() if line.startswith("raftkv: "))
    assert "Traceback" not in node.log()[mark:]
    return line


async def assert_rebuilt(cluster: LocalCluster, node: NodeProcess, before: dict[bytes, KeyValue]) -> None:
    """The node holds what all others hold (equal state hashes), and that is not less than before."""
    state = await cluster.converged()
    assert state.applied_index > 0
    assert before
    assert before.items() <= (await cluster.contents(node.id)).items()


async def test_under_another_boot_id_the_store_is_rebuilt_from_the_log(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    """As after a power loss: the store was never synced, so it is not trusted. The log was."""
    victim = await written_then_killed(cluster, client, prefix)
    before = await cluster.contents(await cluster.leader(), prefix)
    boot = victim.data_dir / BOOT_NAME
    recorded = unseal(boot.read_bytes())
    boot.write_text(json.dumps(recorded | {"boot_id": "00000000-0000-4000-8000-000000000000"}))
    said = await restarted(victim)
    assert "the state store is rebuilt from checkpoint and log" in said
    assert "applied=0 " in said
    await assert_rebuilt(cluster, victim, before)
    assert json.loads(boot.read_text())["boot_id"] == recorded["boot_id"]


async def test_under_the_same_boot_id_the_store_is_kept(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    victim = await written_then_killed(cluster, client, prefix)
    before = await cluster.contents(await cluster.leader(), prefix)
    said = await restarted(victim)
    assert "rebuilt" not in said
    assert "applied=0 " not in said
    await assert_rebuilt(cluster, victim, before)


async def test_a_wiped_store_is_rebuilt_from_the_log(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    victim = await written_then_killed(cluster, client, prefix)
    before = await cluster.contents(await cluster.leader(), prefix)
    shutil.rmtree(victim.data_dir / STORE_NAME)
    assert "applied=0 " in await restarted(victim)
    await assert_rebuilt(cluster, victim, before)


async def test_a_corrupt_record_in_mid_log_is_refused(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    """raft-bugs 38: cutting the log there would lose what was acknowledged. Repaired, the node goes on."""
    victim = await written_then_killed(cluster, client, prefix)
    before = await cluster.contents(await cluster.leader(), prefix)
    path = last_segment(victim)
    _, records = read_segment(path)
    record = records[len(records) // 2]
    flip_a_bit(path, record.end - 1)
    line = await refused(victim)
    assert f"{path}, byte offset {record.start}: checksum mismatch" in line
    assert await refused(victim) == line, "the first attempt has changed something"
    flip_a_bit(path, record.end - 1)
    await restarted(victim)
    await assert_rebuilt(cluster, victim, before)


async def test_a_torn_tail_is_cut(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    """A write that the crash interrupted: nobody was told that it was done."""
    victim = await written_then_killed(cluster, client, prefix)
    before = await cluster.contents(await cluster.leader(), prefix)
    path = last_segment(victim)
    segment, records = read_segment(path)
    last = records[-1]
    torn, _ = encode_record(
        segment,
        last.end,
        last.crc,
        RecordType.BATCH,
        encode_batch(HardState(term=Term(1_000_000), vote=None, commit=Index(0)), ()).ljust(4096, b"x"),
    )
    with path.open("r+b") as file:
        file.seek(last.end)
        file.write(torn[: len(torn) // 2])
    said = await restarted(victim)
    assert "cut a torn write off the log" in said
    assert path.name in said
    await assert_rebuilt(cluster, victim, before)
    assert (await victim.answers()).term < 1_000_000, "it took over what was never written"


def last_segment(node: NodeProcess) -> Path:
    return max((node.data_dir / WAL_NAME).glob("*.wal"), key=lambda path: (len(read_segment(path)[1]) > 0, path.name))


def read_segment(path: Path) -> tuple[Segment, list[Record]]:
    image = path.read_bytes()
    segment = decode_segment(image)
    records: list[Record] = []
    offset = SEGMENT_HEADER_BYTES
    while isinstance(record := decode_record(image, offset, segment), Record):
        records.append(record)
        offset = record.end
    return segment, records


def flip_a_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes((byte ^ 1,)), offset)
