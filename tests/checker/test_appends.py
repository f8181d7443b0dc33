from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from raftkv.checker import appends
from raftkv.checker.history import Operation, Outcome
from tests.checker.building import MS, Budget, assert_verdict, names, op, txn

# All at once: nothing follows from when they were.
A, B = 0, 100

GOOD = {
    "nothing": [],
    "one after the other": [txn("x+1", 0, 1), txn("x:1 x+2", 2, 3), txn("x:1,2", 4, 5)],
    "reads nothing before it is there": [txn("x:", 0, 1), txn("x+1", 2, 3), txn("x:1", 4, 5)],
    "concurrent ones in any order": [txn("x+1", A, B), txn("x+2", A, B), txn("x:2,1", 101, 102)],
    "reads what it appends": [txn("x+1 x:1 x+2 x:1,2", 0, 1), txn("x:1,2", 2, 3)],
    "appends to many lists": [txn("x+1 y+2", A, B), txn("y:2 x:1", A, B), txn("x: y:", A, B)],
    "a failed one is not there": [txn("x+1", 0, 1, outcome="fail"), txn("x+2", 2, 3), txn("x:2", 4, 5)],
    "unknown, and it took effect late": [
        txn("x+1", 0, 1, outcome="info"),
        txn("x:", 2, 3),
        txn("x+2 x:2", 4, 5),
        txn("x:2,1", 6, 7),
    ],
    "unknown, and it never took effect": [txn("x+1", 0, 1, outcome="info"), txn("x+2", 2, 3), txn("x:2", 4, 5)],
    "acknowledged, and nobody has read since": [txn("x:", 0, 1), txn("x+1", 0, 5), txn("x:", 2, 4)],
    "revisions in the order of the list": [
        txn("x+1", A, B, revision=8),
        txn("x+2", A, B, revision=5),
        txn("x:2,1", A, B),
    ],
    "equal times are concurrent": [txn("x+1", 0, 5), txn("x:", 5, 6)],
    # The order of what nobody has seen is not known, so nothing follows from it.
    "write skew that nobody has seen as one": [txn("x: y+1", A, B), txn("y:1 x+1", A, B), txn("x:1 y:1", 101, 102)],
}

BAD: dict[str, tuple[list[Operation], set[str]]] = {
    # Adya's thesis, section 4.2.
    "G0: two transactions write x and y in opposite orders": (
        [txn("x+1 y+1", A, B), txn("x+2 y+2", A, B), txn("x:1,2", A, B), txn("y:2,1", A, B)],
        {"G0"},
    ),
    "G1a: an aborted read": ([txn("x+1", A, B, outcome="fail"), txn("x:1", A, B)], {"G1a"}),
    "G1b: an intermediate read": (
        [txn("x+1 x+2", A, B), txn("x:1", A, B), txn("x:1,2", A, B)],
        {"G1b", "G-single"},
    ),
    "G1c: circular information flow": ([txn("x+1 y:1", A, B), txn("y+1 x:1", A, B)], {"G1c"}),
    "G-single: read skew, one sees x after it, y before it": (
        [txn("x+1 y+1", A, B), txn("x:1 y:", A, B), txn("x:1 y:1", A, B)],
        {"G-single"},
    ),
    "G-single: a lost update, both have read the same": (
        [txn("x: x+1", A, B), txn("x: x+2", A, B), txn("x:1,2", A, B)],
        {"G-single"},
    ),
    "G2-item: write skew": (
        [txn("x: y+1", A, B), txn("y: x+1", A, B), txn("x:1 y:1", A, B)],
        {"G2"},
    ),
    "G2: two readers see two writes in opposite orders (long fork)": (
        [txn("x+1", A, B), txn("y+1", A, B), txn("x:1 y:", A, B), txn("x: y:1", A, B)],
        {"G2"},
    ),
    "G2: of three transactions": (
        [txn("x: y+1", A, B), txn("y: z+1", A, B), txn("z: x+1", A, B), txn("x:1 y:1 z:1", A, B)],
        {"G2"},
    ),
    "write skew, and nobody has read it": ([txn("x: y+1", A, B), txn("y: x+1", A, B)], {"G2"}),
    # What is serializable, but not in real time.
    "G0-realtime: appended first, and stands behind": (
        [txn("x+1", 0, 1), txn("x+2", 2, 3), txn("x:2,1", 4, 5)],
        {"G0-realtime"},
    ),
    "G1c-realtime: one reads what is appended after another that it was over before": (
        [txn("x+1", 0, 10), txn("y+1 x:1", 0, 3), txn("y: z+1", 4, 5), txn("z:1 x+2", 6, 9), txn("x:1,2 y:1", 11, 12)],
        {"G-single-realtime"},
    ),
    "G1c-realtime: read before the one that followed began": (
        [txn("x+1", 4, 5), txn("x:1 y+1", 0, 9), txn("y:1", 2, 3)],
        {"G1c-realtime"},
    ),
    "G-single-realtime: a stale read": (
        [txn("x+1", 0, 1), txn("x:", 2, 3), txn("x:1", 4, 5)],
        {"G-single-realtime"},
    ),
    "G-single-realtime: over a third one between the two": (
        [txn("x+1", 0, 1), txn("z+1", 2, 3), txn("x:", 4, 5), txn("x:1", 6, 7)],
        {"G-single-realtime"},
    ),
    "G2-realtime: y is missed, then x by one that came later": (
        [txn("x+1", 0, 9), txn("y+1", 0, 9), txn("x:1", 1, 2), txn("y: x:1", 3, 4), txn("y:1", 0, 2)],
        {"G-single-realtime"},
    ),
    "lost append: a list stays without it": (
        [txn("x+1", 0, 1), txn("x+2", 2, 3), txn("x:2", 4, 5)],
        {"lost append", "G0-realtime"},
    ),
    "lost append: by revisions": (
        [txn("x+1", A, B, revision=5), txn("x+2", A, B, revision=6), txn("x:2", A, B)],
        {"lost append"},
    ),
    "revision order": (
        [txn("x+1", A, B, revision=6), txn("x+2", A, B, revision=5), txn("x:1,2", A, B)],
        {"revision order"},
    ),
    "incompatible order": (
        [txn("x+1", A, B), txn("x+2", A, B), txn("x:1,2", A, B), txn("x:2,1", A, B)],
        {"incompatible order"},
    ),
    "incompatible order: of different length": (
        [txn("x+1", A, B), txn("x+2", A, B), txn("x:2", A, B), txn("x:1,2", A, B)],
        {"incompatible order"},
    ),
    "duplicate element": ([txn("x+1", A, B), txn("x:1,1", A, B)], {"duplicate element"}),
    "never written": ([txn("x+1", A, B), txn("x:1,7", A, B)], {"never written"}),
    "read from the future": ([txn("x:1", 0, 1), txn("x+1", 2, 3)], {"read from the future", "G1c-realtime"}),
    "internal order": ([txn("x+1 x+2", A, B), txn("x:2,1", A, B)], {"internal order", "G1b"}),
    "dirty update": (
        [txn("x+1", A, B, outcome="fail"), txn("x+2", A, B), txn("x:1,2", A, B)],
        {"G1a", "dirty update"},
    ),
    "internal: its own append is missing": ([txn("x+1 x:", A, B)], {"internal"}),
    "internal: two reads differ": ([txn("x+1", A, B), txn("x: x:1", A, B)], {"internal"}),
    "internal: it reads what it appends later": ([txn("x:1 x+1", A, B)], {"internal"}),
    "internal: what it appended has another place": ([txn("x+1", A, B), txn("x+2 x:2,1", A, B)], {"internal"}),
    "an unknown one that half took effect": (
        [txn("x+1 y+1", 0, 1, outcome="info"), txn("x:1 y:", 2, 3)],
        {"G-single"},
    ),
    # The case studies of Elle (VLDB 2020, section 7), in their shape. TiDB 2.1.7: the automatic retry of a conflict
    # applied its writes again, to what had changed meanwhile: T1 read 34 without what stands before its own append.
    "TiDB 2.1.7: lost updates by automatic retry": (
        [
            txn("34:2,1 36+5 34+4", A, B),
            txn("34+5", A, B),
            txn("34:2,1,5,4", A, B),
            txn("34+2", 0, 1),
            txn("34+1", 0, 1),
        ],
        {"G-single"},
    ),
    # YugaByte DB 1.3.1: after a master had changed, two transactions missed each other's appends.
    "YugaByte DB 1.3.1: G2-item": (
        [
            txn("8+1 9+1", 0, 1),
            txn("8:1 9+2", 2, 9),
            txn("9:1 8+2", 3, 8),
            txn("8:1,2 9:1,2", 10, 11),
        ],
        {"G2"},
    ),
    # FaunaDB 2.6.0: a transaction did not see its own writes.
    "FaunaDB 2.6.0: internal inconsistency": ([txn("0+6 0:", A, B), txn("0:6", A, B)], {"internal"}),
    # Dgraph 1.1.1: tablets that moved between groups answered reads with what had not been there at once.
    "Dgraph 1.1.1: read skew while shards move": (
        [
            txn("2432+10 2434+10", 0, 1),
            txn("2432+14 2434+11", 2, 5),
            txn("2434:10,11 2432:10", 2, 5),
            txn("2432:10,14", 6, 7),
        ],
        {"G-single"},
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_accepts(history: list[Operation]) -> None:
    verdict = appends.check(history)
    assert_verdict(verdict, ())
    assert verdict.checked == len(history)


@pytest.mark.parametrize(("history", "wanted"), BAD.values(), ids=BAD)
def test_rejects(history: list[Operation], wanted: set[str]) -> None:
    assert_verdict(appends.check(history), wanted)


def test_a_cycle_is_told_in_words() -> None:
    history = [txn("x+1 y+1", 0, 5), txn("x:1 y:", 0, 5), txn("x:1 y:1", 0, 5)]
    (problem,) = appends.check(history).problems
    assert problem.name == "G-single"
    assert "read [] of y without 1, which" in problem.text
    assert "appended 1 to x" in problem.text
    assert "read [1] with it" in problem.text
    assert set(map(id, problem.operations)) == set(map(id, history[:2]))


def test_a_stale_read_is_told_with_the_time_between() -> None:
    (problem,) = appends.check([txn("x+1", 0, 1), txn("x:", 3, 4), txn("x:1", 5, 6)]).problems
    assert "was over 2.000 ms before" in problem.text


def test_a_shortest_cycle_is_shown() -> None:
    chain = [txn(f"k{n}: k{n + 1}+1", A, B) for n in range(6)] + [txn("k6: k0+1", A, B)]
    verdict = appends.check([*chain, txn("k3: k1+2", A, B), txn("k1:1,2 k3:1", A, B)])
    assert [problem.name for problem in verdict.problems] == ["G2"]
    assert len(verdict.problems[0].operations) == 4


def test_numbers_that_are_not_unique_decide_nothing() -> None:
    verdict = appends.check([txn("x+1", 0, 1), txn("x+1", 2, 3)])
    assert verdict.valid is None
    assert "1 of x" in verdict.why


# --- at random --------------------------------------------------------------------------------------------------------


def executed(
    rng: random.Random, count: int, *, keys: int = 3, overlap: float = 3.0, faults: float = 0.2
) -> Iterator[Operation]:
    """Transactions that took effect one after the other, at moments within the times that clients saw."""
    lists: dict[str, list[int]] = {f"k{n}": [] for n in range(keys)}
    numbers = iter(range(1, 1_000_000))
    for moment in range(10, 10 + count):
        took_effect = rng.random() >= faults or rng.random() < 0.3
        outcome: Outcome = Outcome.OK
        if not took_effect:
            outcome = rng.choice([Outcome.FAIL, Outcome.INFO])
        elif rng.random() < faults:
            outcome = Outcome.INFO
        asked: list[list[Any]] = []
        told: list[list[Any]] = []
        state = {key: list(one) for key, one in lists.items()}
        for _ in range(rng.randint(1, 4)):
            key = rng.choice(sorted(lists))
            if rng.random() < 0.5:
                asked.append(["r", key, None])
                told.append(["r", key, list(state[key])])
            else:
                number = next(numbers)
                asked.append(["append", key, number])
                told.append(["append", key, number])
                state[key].append(number)
        if took_effect:
            lists = state
        yield Operation(
            process=0,
            f="txn",
            value=asked,
            outcome=outcome,
            result=told if outcome is Outcome.OK else None,
            revision=moment if outcome is Outcome.OK and "append" in {one[0] for one in asked} else 0,
            began=round((moment - rng.random() * overlap) * MS),
            # When the caller gave up says nothing of when it took effect.
            ended=round((moment + rng.uniform(-overlap if outcome is Outcome.INFO else 0, overlap)) * MS),
        )
    finale = [["r", key, list(one)] for key, one in lists.items()]
    asked = [["r", key, None] for key in lists]
    yield op("txn", count + 20, count + 21, value=asked, result=finale)


@pytest.mark.parametrize("seed", range(8))
def test_accepts_what_was_executed_one_after_the_other(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(250):
        history = list(executed(rng, rng.randint(1, 25), overlap=rng.choice([0.4, 2, 8]), faults=rng.choice([0, 0.3])))
        rng.shuffle(history)
        assert_verdict(appends.check(history), ())


def corrupted(rng: random.Random, history: Sequence[Operation]) -> list[Operation] | None:
    """Change one read of what was executed one after the other, with nothing concurrent: it cannot be true any more."""
    reads = [
        (number, place) for number, one in enumerate(history) for place, (f, _, _) in enumerate(one.result) if f == "r"
    ]
    number, place = rng.choice(reads)
    result = [[f, key, list(read) if f == "r" else read] for f, key, read in history[number].result]
    read = result[place][2]
    before = list(read)
    match rng.randrange(4):
        case 0 if read:
            del read[rng.randrange(len(read))]
        case 1 if len(read) > 1:
            rng.shuffle(read)
        case 2:
            read.insert(rng.randint(0, len(read)), rng.randint(1, 40))
        case 3:
            read.clear()
    if read == before:
        return None
    return [*history[:number], replace(history[number], result=result), *history[number + 1 :]]


def test_rejects_one_changed_read() -> None:
    rng = random.Random(7)
    tried = 0
    while tried < 1000:
        history = list(executed(rng, 12, overlap=0.4, faults=0))
        wrong = corrupted(rng, history)
        if wrong is not None:
            tried += 1
            assert appends.check(wrong).valid is False


def possible(history: Sequence[Operation]) -> bool:
    """Try all orders: whether the transactions that took effect can have done so one after the other."""
    acknowledged = [one for one in history if one.ok]
    seen = {number for one in acknowledged for _, _, read in one.result if isinstance(read, list) for number in read}
    # What is unknown took effect if its numbers are in the final reads.
    took_effect = acknowledged + [
        one for one in history if one.unknown and any(element in seen for f, _, element in one.value if f == "append")
    ]
    return any(map(_fits, permutations(took_effect)))


def _fits(order: Sequence[Operation]) -> bool:
    lists: dict[str, list[int]] = {}
    for place, one in enumerate(order):
        if any(later.precedes(one) for later in order[place + 1 :]):
            return False
        for number, (f, key, element) in enumerate(one.value):
            if f == "append":
                lists.setdefault(key, []).append(element)
            elif one.ok and lists.get(key, []) != one.result[number][2]:
                return False
    return True


def test_agrees_with_trying_all_orders() -> None:
    """With final reads all versions are known: then there is a cycle or a named anomaly just if there is no order."""
    rng = random.Random(11)
    valid = 0
    found: set[str] = set()
    for _ in range(1000):
        lists: dict[str, list[int]] = {"x": [], "y": []}
        history = []
        for number in range(rng.randint(2, 5)):
            asked: list[list[Any]] = []
            for place in range(rng.randint(1, 2)):
                key = rng.choice("xy")
                if rng.random() < 0.5:
                    element = 10 * number + place
                    asked.append(["append", key, element])
                    lists[key].append(element)
                else:
                    asked.append(["r", key, None])
            began = rng.randrange(12)
            unknown = rng.random() < 0.1
            history.append(
                op("txn", began, began + rng.choice([1, 5, 9]), value=asked, outcome="info" if unknown else "ok")
            )
        for read in lists.values():
            if rng.random() < 0.4:
                rng.shuffle(read)
        for number, one in enumerate(history):
            if not one.ok:
                continue
            told: list[list[Any]] = []
            mine: dict[str, list[int]] = {}
            for f, key, element in one.value:
                if f == "append":
                    mine.setdefault(key, []).append(element)
                    told.append([f, key, element])
                    continue
                own = [element for other, name, element in one.value if other == "append" and name == key]
                ends = [n for n in range(len(lists[key]) + 1) if not set(lists[key][:n]) & set(own)]
                at = rng.choice(ends)
                if key in mine:
                    at = lists[key].index(mine[key][0])
                told.append([f, key, lists[key][:at] + mine.get(key, [])])
            history[number] = replace(one, result=told)
        final = [["r", key, read] for key, read in lists.items()]
        history.append(op("txn", 30, 31, value=[["r", "x", None], ["r", "y", None]], result=final))
        verdict = appends.check(history)
        assert verdict.valid is possible(history), "\n".join(map(str, [*history, *verdict.problems]))
        valid += verdict.valid
        found |= names(verdict)
    assert 100 < valid < 900
    assert {"G0", "G1c", "G-single", "G2", "G-single-realtime"} <= found


def test_out_of_time_is_no_verdict() -> None:
    history = list(executed(random.Random(3), 300))
    asked = Budget(10**9)
    assert appends.check(history, asked).valid is True
    needed = 10**9 - asked.left
    for budget in range(needed - 1):
        verdict = appends.check(history, Budget(budget))
        assert verdict.valid is None
        assert "out of time" in verdict.why


def test_out_of_time_keeps_what_was_found() -> None:
    history = [txn("x+1 x:", 0, 1), *executed(random.Random(3), 300)]
    verdict = appends.check(history, Budget(8))
    assert verdict.valid is False
    assert names(verdict) == {"internal"}
    assert verdict.why
