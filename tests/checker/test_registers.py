"""Histories of registers that a correct store can have told, and such as it cannot; the latter by their names.

Times are small integers; `w(0, 1, 5)` is a write of 5 that began at 0 and was acknowledged at 1.
"""

from __future__ import annotations

import random

import pytest

from raftkv.checker import registers
from raftkv.checker.history import Operation
from tests.checker.histories import cas, delete, execution, fail, info, op, r, w

GOOD: dict[str, list[Operation]] = {
    "nothing at all": [],
    "one after the other": [r(0, 1, None), w(2, 3, 1), r(4, 5, 1), w(6, 7, 2), r(8, 9, 2)],
    # Herlihy and Wing, Linearizability (1990): overlapping operations take effect in either order.
    "reads on both sides of a concurrent write": [w(0, 1, 1), w(2, 9, 2), r(3, 4, 1), r(5, 6, 2)],
    "two writes at once, seen in either order": [w(0, 9, 1), w(0, 9, 2), r(10, 11, 1)],
    # Knossos' README: a read may see a write that has not been acknowledged.
    "a read of a write under way": [w(0, 10, 1), r(2, 3, 1)],
    "equal times are concurrent": [w(0, 1, 1), w(1, 2, 2), r(2, 3, 1)],
    "a chain of cas": [w(0, 1, 1), cas(2, 3, 1, 2, True), cas(4, 5, 2, 3, True), r(6, 7, 3)],
    "one of two cas wins": [w(0, 1, 1), cas(2, 5, 1, 2, True), cas(2, 5, 1, 3, False), r(6, 7, 2)],
    "a cas that creates": [cas(0, 1, None, 1, True), r(2, 3, 1)],
    "an unknown write that took effect late": [w(0, 1, 1), info(w(2, 3, 2)), r(4, 5, 1), r(6, 7, 2)],
    "an unknown write that never took effect": [w(0, 1, 1), info(w(2, 3, 2)), r(4, 5, 1), r(60, 70, 1)],
    "an unknown cas that took effect": [w(0, 1, 1), info(cas(2, 3, 1, 2)), r(4, 5, 1), r(6, 7, 2)],
    "an unknown delete": [w(0, 1, 1), info(delete(2, 3)), r(4, 5, 1), r(6, 7, None)],
    "unknown reads tell nothing": [w(0, 1, 1), info(r(2, 3, 7))],
    "a failed write is not there": [w(0, 1, 1), fail(w(2, 3, 2)), r(4, 5, 1)],
    "an unknown write nobody read explains a cas that failed": [w(0, 1, 1), info(w(2, 3, 2)), cas(4, 5, 1, 3, False)],
    "deleted and written again": [w(0, 1, 1), delete(2, 3, True), delete(4, 5, False), w(6, 7, 1), r(8, 9, 1)],
    "the same value twice": [w(0, 1, 1), w(2, 3, 2), w(4, 5, 1), r(6, 7, 1)],
    "keys have nothing to do with each other": [w(0, 1, 1), w(2, 3, 2, key="y"), r(4, 5, 1), r(4, 5, 2, key="y")],
}

BAD: dict[str, tuple[list[Operation], str, str]] = {
    # Jepsen: etcd and Consul (Kingsbury, 2014). A leader that had been deposed, on the minority's side of a partition,
    # answered reads from its own memory. (Consul: `default` reads; etcd 0.4.1: quorum=false.)
    "the deposed leader answers": (
        [w(0, 1, 1), r(2, 3, 1), w(10, 12, 2), r(13, 14, 2), r(20, 21, 1)],
        "stale read",
        "x was read as 1, though 2 had been read before that began",
    ),
    "a write is acknowledged and not seen": (
        [w(0, 1, 3), w(2, 3, 5), r(4, 5, 3)],
        "stale read",
        "x was read as 3, though 5 had been written and acknowledged before that began",
    ),
    # Herlihy and Wing (1990), figure of the register: W(0), W(1), R(1), then R(0) again.
    "new, then old": ([w(0, 1, 1), w(2, 20, 2), r(3, 4, 2), r(5, 6, 1)], "stale read", "though 2 had been read"),
    # Redis-Raft 1b3fbf6 (Jepsen, 2020): acknowledged writes were lost at the change of a leader.
    "an acknowledged write is lost": (
        [w(0, 1, 1), w(2, 3, 2), w(4, 5, 3), r(6, 7, 2), r(8, 9, 2)],
        "stale read",
        "though 3 had been written and acknowledged",
    ),
    "all is lost": ([w(0, 1, 1), r(2, 3, None)], "stale read", "read as absent, though 1 had been written"),
    # Kingsbury, "Knossos: Redis and linearizability" (2013): both sides of a split brain accept a cas from one value.
    "two cas from one value": (
        [w(0, 1, 1), cas(2, 5, 1, 2, True), cas(3, 6, 1, 3, True)],
        "lost update",
        "changed from 1 more than once",
    ),
    "a cas finds what is gone": (
        [w(0, 1, 1), w(2, 3, 2), cas(4, 5, 1, 3, True)],
        "impossible cas",
        "a cas of x from 1 to 3 found 1, though 2 had been written",
    ),
    "a cas does not find what is there": (
        [w(0, 1, 1), cas(2, 3, 1, 2, False)],
        "impossible cas",
        "did not find 1, though 1 had been written",
    ),
    # Jepsen: etcd 3.4.3 had none of these; MongoDB 2.4.3 (2013) and Elasticsearch 1.1.0 (2014) had.
    "a failed write is read": ([w(0, 1, 1), fail(w(2, 3, 2)), r(4, 5, 2)], "dirty read", "had no effect, for certain"),
    "nobody wrote that": ([w(0, 1, 1), r(2, 3, 7)], "phantom value", "x was read as 7, which nobody ever wrote"),
    "read before it was written": ([r(0, 1, 5), w(2, 3, 5)], "read from the future", "before the first write"),
    # Jepsen: Chronos, RabbitMQ (2014): a request whose answer was lost is repeated, and takes effect twice.
    "a retried write is applied twice": (
        [w(0, 1, 1), w(2, 3, 2), r(4, 5, 2), r(6, 7, 1), r(8, 9, 1)],
        "stale read",
        "x was read as 1, though 2 had been read",
    ),
    "an unknown write comes and goes": (
        [w(0, 1, 1), info(w(2, 3, 2)), r(4, 5, 1), r(6, 7, 2), r(8, 9, 1)],
        "stale read",
        "x was read as 1, though 2 had been read",
    ),
    "an unknown write takes effect twice": (
        [w(0, 1, 1), info(w(2, 3, 2)), r(4, 5, 2), w(6, 7, 3), r(8, 9, 2)],
        "stale read",
        "though 3 had been written",
    ),
    "nothing was there to delete": ([w(0, 1, 1), delete(2, 3, False)], "impossible delete", "found nothing to delete"),
    "something was there to delete": (
        [w(0, 1, 1), delete(2, 3, True), delete(4, 5, True)],
        "impossible delete",
        "found something to delete, though it had been deleted",
    ),
    "it is read after its deletion": ([w(0, 1, 1), delete(2, 3, True), r(4, 5, 1)], "stale read", "had been deleted"),
    "an answer to a cas is read back": (
        [w(0, 1, 1), cas(2, 3, 1, 2, True), r(4, 5, 1)],
        "stale read",
        "though 2 had been written",
    ),
    "two readers see two writes in two orders": (
        [w(0, 20, 1), w(0, 20, 2), r(1, 2, 1), r(3, 4, 2), r(5, 6, 1)],
        "stale read",
        "x was read as 1, though 2 had been read",
    ),
    "of many keys, one is wrong": (
        [w(0, 1, 1, key="a"), w(0, 1, 1), w(2, 3, 2), r(4, 5, 1), r(4, 5, 1, key="a")],
        "stale read",
        "x was read as 1",
    ),
    "linearizable, but revisions deny it": (
        [w(0, 1, 1, revision=5), w(2, 3, 2, revision=4)],
        "revision went back",
        "revision 5 had been seen before it began",
    ),
}


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_what_a_register_can_tell_is_accepted(operations: list[Operation]) -> None:
    verdict = registers.check(operations)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]
    assert verdict.checked == len(operations)


@pytest.mark.parametrize(("operations", "name", "text"), BAD.values(), ids=BAD)
def test_what_no_register_can_tell_is_named(operations: list[Operation], name: str, text: str) -> None:
    verdict = registers.check(operations)
    assert verdict.valid is False
    (problem,) = verdict.problems
    assert problem.name == name
    assert text in problem.text
    assert set(map(str, problem.operations)) <= set(map(str, operations))
    assert problem.operations


def test_out_of_time_is_undecided_and_names_the_keys() -> None:
    operations = execution(random.Random(1), operations=3_000, clients=5, key="k")
    verdict = registers.linearizable_keys(operations, lambda: True)
    assert verdict.valid is None
    assert verdict.why == "1 of 1 keys are undecided: k (out of time)"


def test_a_violation_outweighs_what_is_undecided() -> None:
    broken = [w(0, 1, 1, key="a"), r(2, 3, None, key="a")]
    verdict = registers.check(broken + execution(random.Random(1), operations=3_000, clients=5, key="k"), lambda: True)
    assert verdict.valid is False
    assert "undecided" in verdict.why


def test_what_no_register_knows_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="knows no 'enqueue'"):
        registers.check([op(0, 1, "enqueue", 1)])
    with pytest.raises(ValueError, match="answered true or false"):
        registers.check([op(0, 1, "cas", [1, 2])])
