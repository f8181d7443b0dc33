"""Backups of a running cluster, and the cluster that is restored from one: what clients and operators rely on."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from raftkv.client import AsyncClient, AtLeast, KeyValue
from raftkv.errors import ClusterMismatch, RaftKVError
from raftkv.kv.epoch import EPOCH_BITS, LEASE_GAP_BITS
from raftkv.kv.keys import META, VERSIONS, VERSIONS_END, is_place, revision_of, user_key
from raftkv.kv.records import Meta, decode_meta
from raftkv.raft import NodeId
from raftkv.server.restore import Plan, Restored, restore
from raftkv.storage.backup_file import BackupReader
from raftkv.storage.backup_format import BackupDecoder
from raftkv.testing.cluster import LocalCluster
from tests.cli.processes import finished
from tests.integration.load import CounterLoad
from tests.integration.waiting import PATIENCE_S

pytestmark = pytest.mark.processes


def rows_of(path: Path) -> dict[bytes, bytes]:
    with BackupReader(path) as backup:
        return dict(backup.rows())


async def rows_at(client: AsyncClient, endpoint: str) -> dict[bytes, bytes]:
    """The state of one node, as it is."""
    file = io.BytesIO()
    await client.save_snapshot(file, stale=True, endpoint=endpoint)
    decoder = BackupDecoder()
    rows = {key: value for frame in decoder.feed(file.getvalue()) for key, value in frame}
    decoder.finish()
    return rows


def newest_values(rows: dict[bytes, bytes]) -> dict[bytes, int]:
    """The newest revision of each key."""
    found: dict[bytes, int] = {}
    for key in rows:
        if VERSIONS <= key < VERSIONS_END and not is_place(key[:-8]):
            found.setdefault(user_key(key[:-8]), revision_of(key))
    return found


async def grants(client: AsyncClient, count: int) -> int:
    """Have locks granted; return the newest token."""
    token = 0
    for number in range(count):
        async with client.lock(f"lock {number % 3}", ttl=60.0) as held:
            assert held.token > token
            token = held.token
    return token


@asynccontextmanager
async def held(client: AsyncClient) -> AsyncIterator[int]:
    """Somebody holds a lock all the while, and loses it in the end, as he must. Yields his token."""
    tokens: asyncio.Queue[int] = asyncio.Queue()

    async def hold() -> None:
        async with client.lock("held", ttl=3600.0) as lock:
            tokens.put_nowait(lock.token)
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    try:
        yield await tokens.get()
    finally:
        holder.cancel()
        with contextlib.suppress(RaftKVError, asyncio.CancelledError):
            await holder


def make(backup: Path, cluster: LocalCluster, base: Path, epoch: int | None = None) -> Restored:
    """Restore, for the addresses of `cluster`, whose nodes are down, and have them start there next."""
    members = {NodeId(node.id): node.peer_address for node in cluster.nodes}
    directories = {node: base / str(node) for node in members}
    made = restore(backup, Plan(members, directories, "raftkv", epoch), progress=lambda phase, done, total: None)
    for node in cluster.nodes:
        node.data_dir = directories[NodeId(node.id)]
    return made


async def stop(cluster: LocalCluster) -> None:
    await asyncio.gather(*(node.kill() for node in cluster.nodes))


async def start(cluster: LocalCluster) -> None:
    await asyncio.gather(*(node.start() for node in cluster.nodes))
    await cluster.converged()


@pytest.mark.jepsen
async def test_a_cluster_is_restored_from_a_backup_of_any_node_taken_under_load(tmp_path: Path) -> None:
    async with LocalCluster(3) as cluster:
        old, owner = AsyncClient(cluster.url, timeout=PATIENCE_S), AsyncClient(cluster.url, timeout=2.0)
        async with owner, held(owner) as held_token:
            for number in range(30):
                await old.put(f"history/{number % 5}", f"{number}")
            lease = await old.grant_lease(3600.0)
            await old.put("leased", "x", lease=lease)
            before = await grants(old, 5)
            acknowledged: dict[Path, KeyValue] = {}
            async with CounterLoad(old, "load", value_bytes=50) as load:
                for node in cluster.nodes:
                    await load.progress()
                    await old.put("last", f"before {node.id}")
                    pair = await old.get("last")
                    assert pair is not None
                    path = tmp_path / f"backup {node.id}"
                    saved = await asyncio.to_thread(
                        finished, tmp_path, "snapshot", "save", str(path), "--endpoints", node.client_address
                    )
                    assert saved.returncode == 0, saved.stderr
                    acknowledged[path] = pair
            # What was acknowledged before is in it, whichever node made it.
            for path, pair in acknowledged.items():
                assert newest_values(rows_of(path))[b"last"] == pair.mod_revision
            after = await grants(old, 20)
            await old.put("after the backup", "lost by the restore")
            token = old.token
            assert token is not None
            await stop(cluster)

        path, pair = list(acknowledged.items())[1]
        backup = rows_of(path)
        made = make(path, cluster, tmp_path / "new")
        await start(cluster)
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as new:
            # The same on all three (`converged`), and row by row what the backup has, but for where the log stands and
            # the numbers that a new epoch raises.
            for node in cluster.nodes:
                rows = await rows_at(new, node.client_address)
                meta, saved_meta = decode_meta(rows.pop(META)), decode_meta(backup[META])
                assert rows == {key: value for key, value in backup.items() if key != META}
                check_meta(meta, saved_meta, made.epoch)
                status = await new.status(node.client_address)
                assert status.cluster_id == made.cluster_id
            with pytest.raises(ClusterMismatch):
                await new.get("last", level=AtLeast(token))
            # The clients of the old cluster are turned away, and do nothing in this one.
            with pytest.raises(ClusterMismatch, match="restored from a backup"):
                await old.put("last", "of the old cluster")
            with pytest.raises(ClusterMismatch):
                await old.get("last")
            found = await new.get("last")
            assert found is not None
            assert (found.value, found.mod_revision) == (pair.value, pair.mod_revision)
            assert await new.get("after the backup") is None
            # Who held a lock holds it still; the next tokens are above all that the old cluster ever gave.
            state = await new.lock_state("held")
            assert [one.token for one in state.contenders] == [held_token]
            assert before < after < 1 << EPOCH_BITS
            newer = await grants(new, 5)
            assert newer > made.epoch << EPOCH_BITS > after
            assert (await new.grant_lease(60.0)).id > lease.id
            await cluster.converged()

        # A restore of a restore, within the same second, almost.
        second = tmp_path / "second"
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as new:
            with second.open("xb") as file:
                await new.save_snapshot(file)
        await stop(cluster)
        again = make(second, cluster, tmp_path / "newer")
        assert again.epoch > made.epoch
        assert again.cluster_id != made.cluster_id
        await start(cluster)
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as newest:
            assert await grants(newest, 1) > again.epoch << EPOCH_BITS > newer
            await newest.put("and it", "goes on")
        with contextlib.suppress(RaftKVError):
            await old.close()


def check_meta(meta: Meta, saved: Meta, epoch: int) -> None:
    assert meta.applied_index > saved.applied_index
    assert meta.applied_term > saved.applied_term
    assert meta.last_token == meta.last_session == epoch << EPOCH_BITS
    assert meta.last_lease == max(saved.last_lease + (1 << LEASE_GAP_BITS), epoch << EPOCH_BITS)
    same = {"revision", "compacted_revision", "time_ms"}
    assert {name: getattr(meta, name) for name in same} == {name: getattr(saved, name) for name in same}
