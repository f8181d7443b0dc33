"""What nemeses do to clocks and members reaches the checks: neither more nor less is forgiven than they explain."""

from __future__ import annotations

from dataclasses import replace

from raftkv.checker.history import Operation
from raftkv.checker.verdict import never
from raftkv.jepsen.workload import Setting
from raftkv.jepsen.workloads.lease import Lease
from raftkv.jepsen.workloads.quorum import Quorums
from tests.checker.building import assert_verdict, op
from tests.jepsen.driving import setting

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
