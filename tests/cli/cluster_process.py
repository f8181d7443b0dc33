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

from raftkv.testing.cluster import LocalCluster


@dataclass(frozen=True, slots=True)
class RunningCluster:
    endpoints: list[str]
    pids: list[int]

    @property
    def url(self) -> str:
        return "raftkv://" + ",".join(self.endpoints)

    def signal(self, node: int, number: int) -> None:
        os.kill(self.pids[node - 1], number)


@contextmanager
def running_cluster() -> Iterator[RunningCluster]:
    with subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield RunningCluster(**json.loads(process.stdout.readline()))
        process.stdin.close()


async def main() -> None:
    async with LocalCluster(3) as cluster:
        await cluster.leader()
        found = RunningCluster(cluster.endpoints, [node.pid for node in cluster.nodes])
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
