"""A cluster that a process of its own keeps up, until its stdin is closed.

The command line runs on event loops of its own in the process of the tests. gRPC for asyncio does not stand a second,
idle loop beside them: events of calls that have ended are then delivered to loops that are closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from tests.integration.promotion import promote


@dataclass(frozen=True, slots=True)
class RunningCluster:
    endpoints: list[str]
    pids: list[int]
    peers: list[str]
    """Peer addresses."""

    @property
    def url(self) -> str:
        return "raftkv://" + ",".join(self.endpoints)

    def signal(self, node: int, number: int) -> None:
        os.kill(self.pids[node - 1], number)


@contextmanager
def running_cluster(*, mixed: bool = False) -> Iterator[RunningCluster]:
    """Three voters; or, `mixed`: two voters, the second of which is slow to notice anything, witness, learner."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, "mixed" if mixed else "voters"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield RunningCluster(**json.loads(process.stdout.readline()))
        process.stdin.close()


async def mix(cluster: LocalCluster) -> None:
    slow = ["--election-ms", "30000"]
    async with AsyncClient(cluster.url) as client:
        voter = await cluster.add(start=False)
        voter.extra_arguments += slow
        await voter.start()
        await promote(client, voter.id)
    await cluster.add(witness=True)
    learner = await cluster.add(start=False)
    learner.extra_arguments += slow
    await learner.start()


async def main(kind: str) -> None:
    async with LocalCluster(1 if kind == "mixed" else 3) as cluster:
        await cluster.leader()
        if kind == "mixed":
            await mix(cluster)
        nodes = cluster.nodes
        found = RunningCluster(cluster.endpoints, [node.pid for node in nodes], [node.peer_address for node in nodes])
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
