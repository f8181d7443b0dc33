"""The engine: against the definition, on other objects than registers, and at its limits."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from raftkv.checker.history import Operation
from raftkv.checker.linearizability import IMPOSSIBLE, Call, State, Step, linearizable
from raftkv.checker.models import REGISTER
from tests.checker.histories import execution, info, op, r, w
from tests.checker.oracle import linearizable_by_trying


def small(rng: random.Random) -> list[Operation]:
    return execution(
        rng,
        operations=rng.randint(2, 8),
        clients=rng.randint(2, 5),
        values=rng.choice([None, 2, 3]),
        unknown=rng.choice([0.0, 0.3, 0.7]),
    )


def corrupted(rng: random.Random, operations: Sequence[Operation]) -> list[Operation]:
    """Change one answer, or move one operation in time."""
    changed = list(operations)
    place = rng.randrange(len(changed))
    one = changed[place]
    if one.f == "read":
        changed[place] = replace(one, result=rng.choice([None, 0, 1, 2, 3]))
    elif one.ok and one.f in ("cas", "delete"):
        changed[place] = replace(one, result=not one.result)
    else:
        by = rng.choice([-20, 20])
        changed[place] = replace(one, began=one.began + by, ended=one.ended + by)
    return changed


@pytest.mark.parametrize("first", range(0, 3_000, 500))
def test_what_really_happened_is_accepted(first: int) -> None:
    for seed in range(first, first + 500):
        operations = small(random.Random(seed))
        assert linearizable_by_trying(operations), seed
        assert linearizable(REGISTER, operations).linearizable, seed


@pytest.mark.parametrize("first", range(0, 3_000, 500))
def test_a_changed_answer_is_found_exactly_where_every_order_fails(first: int) -> None:
    found = 0
    for seed in range(first, first + 500):
        rng = random.Random(seed)
        operations = corrupted(rng, small(rng))
        expected = linearizable_by_trying(operations)
        assert linearizable(REGISTER, operations).linearizable is expected, seed
        found += not expected
    assert 100 < found < 400, "the histories show only one of both cases"


@pytest.mark.parametrize("seed", range(5))
def test_a_long_history_is_accepted_and_one_changed_answer_in_it_is_not(seed: int) -> None:
    rng = random.Random(seed)
    operations = execution(rng, operations=2_000, clients=6, unknown=0.02)
    assert linearizable(REGISTER, operations).linearizable
    values = sorted(one.value for one in operations if one.f == "write" and one.ok)
    reads = [number for number, one in enumerate(operations) if one.f == "read" and (one.result or 0) > values[50]]
    place = rng.choice(reads)
    operations[place] = replace(operations[place], result=values[0])
    found = linearizable(REGISTER, operations)
    assert found.linearizable is False
    assert found.stuck is operations[place]
    assert values[0] not in found.states


def test_unknown_outcomes_do_not_multiply() -> None:
    """Sixty writes that nobody was answered, of which any may be there; as if each had doubled the work."""
    unknown = [info(w(number, number + 1, 1_000 + number)) for number in range(60)]
    calm = [one for time in range(100, 200, 4) for one in (w(time, time + 1, time), r(time + 2, time + 3, time))]
    late = [r(300 + number, 301 + number, 1_000 + number // 2) for number in range(0, 120, 2)]
    assert linearizable(REGISTER, [*unknown, *calm, *late], most=5_000).linearizable
    wrong = linearizable(REGISTER, [*unknown, *calm, *late, r(500, 501, 1_000)], most=5_000)
    assert wrong.linearizable is False


def test_unknown_deletes_are_as_good_as_each_other() -> None:
    unknown = [info(op(number, number + 1, "delete")) for number in range(40)]
    turns = [
        one
        for time in range(100, 500, 10)
        for one in (w(time, time + 1, time), r(time + 2, time + 3, time), r(time + 4, time + 5, None))
    ]
    assert linearizable(REGISTER, unknown + turns, most=5_000).linearizable
    one_more = [w(600, 601, 600), r(602, 603, None)]
    assert linearizable(REGISTER, unknown + turns + one_more, most=5_000).linearizable is False


def test_out_of_time_is_not_a_pass() -> None:
    operations = execution(random.Random(3), operations=3_000, clients=5)
    asked = 0

    def out_of_time() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    found = linearizable(REGISTER, operations, out_of_time=out_of_time)
    assert (found.linearizable, found.why) == (None, "out of time")
    assert linearizable(REGISTER, operations).linearizable


def test_too_many_configurations_are_not_a_pass() -> None:
    at_once = [w(0, 100, number) for number in range(14)]
    found = linearizable(REGISTER, at_once, most=1_000)
    assert (found.linearizable, found.why) == (None, "more than 1000 configurations")


class Queue:
    """First in, first out; `deq` of an empty one is answered None."""

    @property
    def initial(self) -> State:
        return ()

    def call(self, operation: Operation) -> Call | None:
        if operation.f == "enq":
            return Call(lambda state: (*state, operation.value))
        if operation.unknown:
            return Call(lambda state: state[1:])
        if operation.result is None:
            return Call(lambda state: IMPOSSIBLE if state else state, passive=True)
        return Call(lambda state: state[1:] if state and state[0] == operation.result else IMPOSSIBLE)

    def spoken_of(self, operations: Sequence[Operation]) -> Iterable[Operation]:
        return [one for one in operations if one.unknown]

    def background(self, kept: Sequence[Operation], removed: Sequence[Operation]) -> Iterable[Step]:
        raise NotImplementedError


def enq(began: int, ended: int, value: str) -> Operation:
    return op(began, ended, "enq", value)


def deq(began: int, ended: int, result: str | None) -> Operation:
    return op(began, ended, "deq", result=result)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        # Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects" (1990), figure 1.
        ([enq(0, 5, "x"), enq(2, 7, "y"), deq(8, 10, "x"), deq(9, 13, "y"), enq(12, 14, "z")], True),
        ([enq(0, 2, "x"), enq(4, 8, "y"), deq(9, 12, "y")], False),
        ([enq(0, 6, "x"), deq(2, 4, "x")], True),
        ([enq(0, 6, "x"), enq(2, 8, "y"), deq(7, 10, "y"), deq(9, 12, "y")], False),
        # Not empty; an unknown enq that took effect late; an unknown deq.
        ([enq(0, 1, "x"), deq(2, 3, None)], False),
        ([info(enq(0, 1, "x")), deq(2, 3, None), deq(4, 5, "x")], True),
        ([enq(0, 1, "x"), enq(2, 3, "y"), info(deq(4, 5, None)), deq(6, 7, "y")], True),
    ],
)
def test_queues(operations: list[Operation], expected: bool) -> None:
    assert linearizable(Queue(), operations).linearizable is expected
