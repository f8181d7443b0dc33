"""Each workload on a healthy cluster: it records what the checks read, and they find nothing wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from raftkv.checker.history import Operation
from raftkv.checker.verdict import never
from raftkv.client import AsyncClient
from raftkv.jepsen.workloads import HELP, WORKLOADS
from raftkv.testing.cluster import LocalCluster
from tests.jepsen.driving import drive, setting

WORKERS = 4
Shape = Callable[[Operation], Any]


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
    program = "import sys, raftkv.jepsen.workloads as w; print(*w.WORKLOADS, *w.HELP, 'grpc' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == [*HELP, *HELP, "False"]
    for name, help_ in HELP.items():
        assert (WORKLOADS[name].name, WORKLOADS[name].help) == (name, help_)
    with pytest.raises(KeyError):
        WORKLOADS["nothing"]


def token(value: Any) -> bool:
    return isinstance(value, dict) and value["token"] > 0


def number(one: Operation) -> bool:
    """Whether it reads a number or nothing, and says of which revision."""
    return isinstance(one.result, int) and one.revision > 0 if one.result is not None else one.revision == 0


# What the checks read of an operation that was OK.
SHAPES: dict[str, dict[str, Shape]] = {
    "register": {
        "write": lambda one: one.key and one.value > 0 and one.result is None and one.revision > 0,
        "read": lambda one: one.key and number(one),
        "cas": lambda one: len(one.value) == 2 and one.result is (one.revision > 0),
        "delete": lambda one: one.key and one.result is (one.revision > 0),
    },
    "set": {
        "add": lambda one: one.key and one.value > 0 and one.revision > 0,
        "read": lambda one: one.key and one.result == sorted(one.result) and one.extra["at"] > 0,
    },
    "append": {
        "txn": lambda one: (
            [[f, k] for f, k, _ in one.result] == [[f, k] for f, k, _ in one.value]
            and (one.revision > 0) is any(f == "append" for f, _, _ in one.value)
        )
    },
    "bank": {
        "transfer": lambda one: {"from", "to", "amount"} == set(one.value) and one.revision > 0,
        "read": lambda one: list(one.result) == list("012345") and one.extra["at"] > 0,
    },
    "lock": {
        "acquire": lambda one: token(one.result),
        "increment": lambda one: token(one.value) and one.value["to"] > 0 and one.revision > 0,
        "release": lambda one: token(one.value),
        "read": lambda one: isinstance(one.result, int),
    },
    "election": {
        "lead": lambda one: one.value.startswith("c") and token(one.result),
        "act": lambda one: token(one.value) and one.value["candidate"] and one.value["number"] and one.revision > 0,
        "resign": lambda one: token(one.value),
        "observe": lambda one: one.result is None or (token(one.result) and one.result["candidate"]),
    },
    "lease": {
        "grant": lambda one: one.key and one.value["lease"] > 0 and one.value["ttl_ms"] >= 1000,
        "attach": lambda one: one.key and one.value > 0 and one.extra["lease"] > 0 and one.revision > 0,
        "renew": lambda one: one.value["lease"] > 0 and one.result["ttl_ms"] >= 0,
        "revoke": lambda one: one.value["lease"] > 0,
        "read": lambda one: one.key and number(one),
    },
    "watch": {
        "write": lambda one: one.key and one.value > 0 and one.revision > 0,
        "watch": lambda one: all(
            one.value["from"] <= at <= one.result["through"] and k and v for at, k, v in one.result["events"]
        ),
    },
    "sessions": {
        "increment": lambda one: one.key and one.revision > 0,
        "read": lambda one: one.key and (one.result > 0) is (one.revision > 0),
    },
    "quorum": {
        "write": lambda one: one.extra["concern"] and one.extra["committed"] is (one.revision > 0),
        "read": lambda one: number(one) and one.extra["level"] and one.extra["guarantee"] != "unspecified",
    },
    "probe": {
        "write": lambda one: one.key == "probe" and one.value > 0 and one.revision > 0,
        "read": lambda one: one.key == "probe" and number(one),
    },
}


@pytest.mark.processes
@pytest.mark.parametrize("name", WORKLOADS)
async def test_a_healthy_cluster_is_valid(name: str, cluster: LocalCluster) -> None:
    workload = WORKLOADS[name](setting(name, workers=WORKERS))
    assert workload.workers_at_least <= WORKERS

    def enough(operations: Sequence[Operation]) -> bool:
        counted = workload.done(operations)
        return SHAPES[name].keys() <= {one.f for one in operations if one.ok} and all(
            counted[what] >= times for what, times in workload.least.items()
        )

    history = await drive(workload, lambda: AsyncClient(cluster.endpoints), enough=enough)

    shapes, ok = SHAPES[name], [one for one in history if one.ok]
    assert {one.f for one in ok} == set(shapes)
    wrong = [one for one in ok if not shapes[one.f](one)]
    assert not wrong, "\n".join(map(str, wrong))
    assert not any(one.key.startswith(workload.setting.prefix) for one in history)

    verdict = workload.check(history, never)
    assert verdict.valid, "\n".join(map(str, verdict.problems)) or verdict.why
    assert verdict.checked > 0
