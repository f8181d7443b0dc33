"""What nemeses do to clocks and members reaches the checks: neither more nor less is forgiven than they explain."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

from raftkv.checker.history import Operation
from raftkv.checker.verdict import never
from raftkv.errors import ConnectionFailed
from raftkv.jepsen.recorder import Recorder
from raftkv.jepsen.worker import Pace, Worker
from raftkv.jepsen.workload import Setting
from raftkv.jepsen.workloads.lease import Lease
from raftkv.jepsen.workloads.quorum import Quorums
from raftkv.jepsen.workloads.set_ import Set
from tests.checker.building import assert_verdict, op
from tests.jepsen.driving import setting
from tests.jepsen.fake_store import FakeStore

LEASE = setting("lease", workers=3)
QUORUM = setting("quorum", workers=3)


def leased(gone_at: float) -> list[Operation]:
    """A key on a lease of a second, which is gone then."""
    return [
        op("grant", 0, 1, key="k1", value={"lease": 7, "ttl_ms": 1000}),
        op("attach", 2, 3, key="k1", value=1, extra={"lease": 7}, revision=5),
        op("read", gone_at, gone_at + 1, key="k1"),
    ]


def read(guarantee: str, began: float, *, staleness_ms: int = 0) -> Operation:
    """A read that does not see the write of `stale`."""
    level = {"level": guarantee, "guarantee": guarantee, "staleness_ms": staleness_ms, "at": 4}
    return op("read", began, began + 1, key="q1", process=2, extra=level)


def stale(one: Operation) -> list[Operation]:
    return [op("write", 0, 1, key="q1", value=1, revision=5, process=1, extra={"committed": True}), one]


def assert_quorum(how: Setting, operations: list[Operation], *wanted: str) -> None:
    assert_verdict(Quorums(how).check(operations, never), wanted)


def test_a_lease_may_end_as_much_early_as_clocks_were_moved() -> None:
    assert_verdict(Lease(LEASE).check(leased(900), never), {"ended early"})
    moved = Lease(replace(LEASE, lease_margin_ms=200.0))
    assert_verdict(moved.check(leased(900), never), ())
    assert_verdict(moved.check(leased(700), never), {"ended early"})


def test_a_bounded_read_may_be_as_much_older_as_clocks_lag() -> None:
    slow = replace(QUORUM, clock_slack_ms=500.0)
    late = stale(read("bounded", 300, staleness_ms=100))
    assert_quorum(QUORUM, late, "older than its bound")
    assert_quorum(slow, late)
    assert_quorum(slow, stale(read("bounded", 700, staleness_ms=100)), "older than its bound")


def test_leader_leases_are_trusted_while_clocks_are() -> None:
    one = stale(read("lease", 100))
    assert_quorum(QUORUM, one, "stale read")
    assert_quorum(replace(QUORUM, clock_slack_ms=500.0), one)
    assert_quorum(replace(QUORUM, lease_margin_ms=500.0), one)


def test_numbers_of_copies_are_judged_while_the_members_are_known() -> None:
    concern = {"concern": 2, "committed": False, "durable_on": 2}
    early = [op("write", 0, 1, key="q1", value=1, extra=concern)]
    assert_quorum(QUORUM, early, "acknowledged early")
    assert_quorum(replace(QUORUM, members_change=True), early)


def test_all_sets_of_a_run_have_one_order_of_revisions() -> None:
    operations = [
        op("add", 0, 1, key="set0", value=1, revision=7),
        op("read", 2, 3, key="set0", result=[1], extra={"at": 7}),
        op("add", 4, 5, key="set1", value=2, revision=7),
        op("read", 6, 7, key="set1", result=[2], extra={"at": 7}),
    ]
    assert Set(setting("set", workers=3)).check(operations, never).valid is False


async def ids(how: Setting, seed: int) -> list[int]:
    """Return the leases of a run."""
    workload, recorder, over = Lease(how), Recorder(), asyncio.Event()
    client = FakeStore(seed=1).client()  # which knows no leases: each is asked for in vain
    rng = random.Random(seed)
    worker = Worker(0, "lease", client=client, recorder=recorder, pace=Pace(1e9, over), rng=rng)
    asked: list[int] = []

    async def grant(ttl: float, *, lease: int) -> None:
        asked.append(lease)
        if len(asked) == 20:
            over.set()
        raise ConnectionFailed("nobody is there")

    with patch.object(client, "grant_lease", grant):
        await workload.run(worker)
    assert asked == [one.value["lease"] for one in recorder.operations]
    return asked


async def test_the_seed_decides_on_leases_and_no_run_has_those_of_another_one() -> None:
    first = await ids(LEASE, seed=1)
    assert first == await ids(LEASE, seed=1)
    assert len({*first, *await ids(LEASE, seed=2), *await ids(replace(LEASE, prefix="jepsen/later/"), seed=1)}) == 60
    assert {1, -1}.isdisjoint(b - a for a, b in pairwise(first))
