"""A counterexample is small, is a violation of its own, and loses nothing that it needs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from raftkv.checker.counterexample import of_register, shrunk
from raftkv.checker.history import Operation
from raftkv.checker.linearizability import linearizable
from raftkv.checker.models import REGISTER
from tests.checker.histories import cas, delete, execution, info, r, w
from tests.checker.oracle import linearizable_by_trying


def broken(seed: int, *, operations: int, values: int | None) -> list[Operation] | None:
    """Return a history with one wrong answer; None where that can be explained."""
    rng = random.Random(seed)
    history = execution(rng, operations=operations, clients=4, values=values, unknown=0.1)
    reads = [number for number, one in enumerate(history) if one.f == "read"]
    if not reads:
        return None
    place = rng.choice(reads)
    history[place] = replace(history[place], result=rng.choice([None, 0, 1, 2, 3]))
    return None if linearizable(REGISTER, history).linearizable else history


def first_to_fail(operations: list[Operation]) -> Operation:
    stuck = linearizable(REGISTER, operations).stuck
    assert stuck is not None
    return stuck


def shrink(operations: list[Operation]) -> tuple[list[Operation], Operation]:
    return shrunk(REGISTER, operations, first_to_fail(operations))


def explained(kept: list[Operation], removed: list[Operation]) -> bool | None:
    return linearizable(REGISTER, kept, background=REGISTER.background(kept, removed)).linearizable


def by_then(operations: list[Operation], stuck: Operation) -> list[Operation]:
    """Return what was known of them when `stuck` was answered."""
    return [info(one) if one.ended > stuck.ended and one.ok else one for one in operations if one.began <= stuck.ended]


@pytest.mark.parametrize("values", [None, 3])
def test_nothing_can_be_spared(values: int | None) -> None:
    seen = 0
    for seed in range(120):
        history = broken(seed, operations=12, values=values)
        if history is None:
            continue
        first = first_to_fail(history)
        kept, stuck = shrink(history)
        assert stuck in kept
        others = by_then([one for one in history if one not in kept], first)
        kept = by_then(kept, first)
        assert explained(kept, others) is False
        for spared in kept:
            fewer = [one for one in kept if one is not spared]
            assert explained(fewer, [*others, spared]), f"seed {seed}: {spared} is not needed"
        seen += 1
    assert seen >= 30


def test_it_does_not_come_from_what_was_left_out() -> None:
    """By the definition: it stays one though what was left out may have happened, at any time or never.

    What began after the answer that fails is too late to have been part of it.
    """
    seen = 0
    for seed in range(250):
        history = broken(seed, operations=8, values=None if seed % 2 else 2)
        if history is None:
            continue
        kept, _ = shrink(history)
        end = first_to_fail(history).ended
        left_out = [one for one in history if one not in kept and one.f != "read" and one.result is not False]
        others = [replace(info(one), began=-1 if one.began <= end else one.began) for one in left_out]
        assert not linearizable_by_trying([*kept, *others]), seed
        seen += 1
    assert seen >= 50


def test_what_was_not_answered_yet_is_not_held_against_the_store() -> None:
    """The read of 3 that fails is answered while a read of 4, written later, is under way."""
    history = [w(0, 1, 3), w(2, 3, 5), r(4, 20, 4), r(5, 6, 3), w(10, 11, 4)]
    assert shrink(history) == ([history[0], history[1], history[3]], history[3])


@pytest.mark.parametrize("seed", range(6))
def test_one_wrong_answer_among_thousands_is_shown_with_few(seed: int) -> None:
    rng = random.Random(seed)
    history = execution(rng, operations=3_000, clients=8, unknown=0.01)
    writes = [one for one in history if one.f == "write" and one.ok]
    reads = [number for number, one in enumerate(history) if one.f == "read" and one.began > writes[100].ended]
    place = rng.choice(reads)
    history[place] = replace(history[place], result=writes[3].value)
    result = linearizable(REGISTER, history)
    assert result.linearizable is False
    problem = of_register(history, result)
    assert problem.name == "stale read"
    assert f"x was read as {writes[3].value}, though" in problem.text
    assert 2 <= len(problem.operations) <= 4
    assert history[place] in problem.operations


def test_it_is_told_as_a_story() -> None:
    history = [
        w(0, 10, 3), r(11, 12, 3), w(20, 30, 5), r(31, 32, 5, process=2), r(40, 41, 3, process=4), w(50, 51, 6),
        r(60, 61, 6),
    ]  # fmt: skip
    problem = of_register(history, linearizable(REGISTER, history))
    assert problem.text == "x was read as 3, though 5 had been read before that began"
    assert [one for one in history if one in problem.operations] == list(problem.operations)
    assert len(problem.operations) == 3


def test_a_value_keeps_its_writer_where_that_matters() -> None:
    """Without the write of 1, a read of 1 would be no mystery: it may have been written at any time."""
    history = [w(0, 1, 1), w(2, 3, 2), r(4, 5, 1)]
    assert shrink(history) == (history, history[-1])


def test_what_has_nothing_to_do_with_it_is_left_out() -> None:
    noise = [w(10, 11, 5), cas(12, 13, 5, 6, True), delete(14, 15, True), info(w(16, 17, 7)), r(18, 19, None)]
    phantom = r(20, 21, 9)
    assert shrink([*noise, phantom]) == ([phantom], phantom)


def test_out_of_time_it_is_as_long_as_it_was() -> None:
    history = [w(0, 1, 1), w(2, 3, 2), r(4, 5, 1)]
    kept, stuck = shrunk(REGISTER, history, history[-1], lambda: True)
    assert (kept, stuck) == (history, history[-1])
