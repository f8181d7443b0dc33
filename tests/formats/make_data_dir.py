"""Makes data_dir_N.tar.xz: the data directory of a small node, as one release writes it.

    python tests/formats/make_data_dir.py TARGET.tar.xz      (with the raftkv of that release importable)

Run once for a format, by the raftkv that introduces it or the last that writes the one before, and never again: what
is checked in is what nodes out there have. It has all that a state can hold, a checkpoint, and a log that goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from raftkv.client import AsyncClient, FencingToken
from raftkv.testing.cluster import LocalCluster

YEAR_S = 31_536_000.0
ARGUMENTS = ("--wal-segment-bytes", "65536", "--checkpoint-log-bytes", "65536", "--store-map-size", "16777216")


_HOLDERS: list[asyncio.Task[None]] = []


async def held(client: AsyncClient) -> FencingToken:
    """Take the lock, and keep it when this process is gone."""
    fences: asyncio.Queue[FencingToken] = asyncio.Queue()

    async def hold() -> None:
        # In a task of its own: it is cancelled when the node, and so the lock, is gone.
        async with client.lock("lock", ttl=YEAR_S) as lock:
            fences.put_nowait(lock.fence())
            await asyncio.Event().wait()

    _HOLDERS.append(asyncio.create_task(hold()))
    return await fences.get()


async def fill(client: AsyncClient) -> dict[str, Any]:
    """Write a bit of everything; return what is to be found again."""
    for number in range(60):
        await client.put(f"history/{number % 6}", f"value {number}")
    compacted = (await client.put("history/0", "at the compacted revision")).revision
    await client.compact(compacted)
    for number in range(4):
        await client.delete(f"history/{number}")
    await client.put(b"zero\0byte\xff", b"\0\1\2")
    lease = await client.grant_lease(YEAR_S, lease=77)
    await client.put("leased", "here", lease=lease)
    # More than a checkpoint is due after, in values that take no room in an archive.
    for _ in range(3):
        await client.put("large", b"x" * 40_000)
    async with asyncio.timeout(30):
        while (await client.status()).log_bytes > 4 * 65536:  # noqa: ASYNC110 - asks a node
            await asyncio.sleep(0.05)
    await client.put("after", "the checkpoint", fence=await held(client))
    await client.put("history/5", "newest")
    pairs = [pair async for pair in client.scan("")]
    state = await client.lock_state("lock")
    status = await client.status()
    return {
        "pairs": [
            [pair.key.hex(), pair.value.hex(), pair.create_revision, pair.mod_revision, pair.version, pair.lease]
            for pair in pairs
        ],
        "past": [
            compacted,
            {pair.key.hex(): pair.value.hex() for pair in (await client.prefix("history/", revision=compacted)).pairs},
        ],
        "revision": status.revision,
        "compacted_revision": status.compacted_revision,
        "sessions": status.sessions,
        "leases": list(await client.lease_ids()),
        "lock_tokens": [one.token for one in state.contenders],
    }


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        cluster = LocalCluster(1, directory=Path(directory), arguments=ARGUMENTS)
        async with cluster:
            client = AsyncClient(cluster.url, timeout=30.0)
            expected = await fill(client)
            state = await client.state_hash(cluster.endpoints[0])
            expected["applied_index"], expected["state_hash"] = state.applied_index, state.hash.hex()
            code = await cluster.nodes[0].stop()
            assert code == 0, cluster.nodes[0].log_tail()
        data_dir = cluster.nodes[0].data_dir
        assert list((data_dir / "checkpoints").glob("*.manifest"))
        (data_dir / "expected.json").write_text(json.dumps(expected))
        with tarfile.open(target, "w:xz", preset=9) as archive:
            archive.add(data_dir, "data", filter=_anonymous)
    sys.stdout.flush()
    os._exit(0)  # without giving the lock back


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.endswith(("lock.mdb", "LOCK")):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
