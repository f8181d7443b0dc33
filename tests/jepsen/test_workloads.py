"""Each workload on a healthy cluster: it records what the checks read, and they find nothing wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from raftkv.checker.history import Operation
from raftkv.checker.verdict import never
from raftkv.client import AsyncClient
from raftkv.jepsen.workloads import HELP, WORKLOADS
from raftkv.testing.cluster import LocalCluster
from tests.jepsen.driving import done, drive, setting

WORKERS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    found = LocalCluster(3)
    asyncio.run(_started(found))
    yield found
    asyncio.run(found.close())


async def _started(cluster: LocalCluster) -> None:
    await cluster.start()
    await cluster.leader()


def test_names_and_helps_are_those_of_the_classes_and_cost_no_client() -> None:
    program = (
        "import sys, raftkv.jepsen.workloads as w; print(len(w.WORKLOADS), list(w.WORKLOADS), 'grpc' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told == f"{len(WORKLOADS)} {list(HELP)} False\n"
    for name, help_ in HELP.items():
        assert (WORKLOADS[name].name, WORKLOADS[name].help) == (name, help_)
    with pytest.raises(KeyError):
        WORKLOADS["nothing"]


ENOUGH: dict[str, Callable[[Sequence[Operation]], bool]] = {
    "register": done("read", "write", "cas", "delete", times=5),
    "sessions": done("increment", "read", times=30),
    "lock": done("acquire", "increment", "release", "read", times=10),
    "set": done("add", "read", times=20),
    "append": done("txn", times=60),
    "bank": done("transfer", "read", times=15),
    "election": done("lead", "act", "resign", "observe", times=10),
    "lease": done("grant", "attach", "renew", "revoke", "read", times=2),
    "watch": done("write", "watch", times=10),
    "quorum": done("write", "read", times=50),
    "probe": done("write", "read", times=20),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", WORKLOADS)
async def test_a_healthy_cluster_is_valid(name: str, cluster: LocalCluster) -> None:
    workload = WORKLOADS[name](setting(name, workers=WORKERS))
    history = await drive(workload, lambda: AsyncClient(cluster.endpoints), enough=ENOUGH[name])
    verdict = workload.check(history, never)
    assert verdict.valid, "\n".join(map(str, verdict.problems))
    assert verdict.checked >= len([one for one in history if one.ok]) // 2
    assert len([one for one in history if one.ok]) >= workload.minimum_ok
