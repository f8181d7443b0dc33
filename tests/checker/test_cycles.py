from __future__ import annotations

import random

import pytest

from raftkv.checker import cycles, newest
from raftkv.checker.cycles import RT, RW, WR, WW, Cycle, Graph, Step
from raftkv.checker.history import Operation
from tests.checker.building import Budget, op


def reachable(graph: Graph) -> list[set[int]]:
    """By node: where edges lead to, over one or more."""
    found: list[set[int]] = []
    for start in range(len(graph.after)):
        seen: set[int] = set()
        todo = list(graph.after[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += graph.after[node]
        found.append(seen)
    return found


def operations(rng: random.Random, count: int, processes: int) -> list[Operation]:
    """Each process does one thing at a time; times are coarse, so that many are equal. Some never end."""
    free = [0.0] * processes
    told = []
    for _ in range(count):
        process = rng.randrange(processes)
        began = free[process] + rng.randrange(3)
        ended = began + rng.randrange(6)
        outcome = rng.choice(["ok"] * 9 + ["info"])
        told.append(op("x", began, ended, process=process, outcome=outcome))
        free[process] = ended
    return told


@pytest.mark.parametrize("seed", range(30))
def test_real_time_edges_are_few_and_all_others_follow(seed: int) -> None:
    rng = random.Random(seed)
    processes = rng.randint(1, 8)
    told = operations(rng, 80, processes)
    graph = Graph(len(told))
    assert cycles.add_real_time(graph, told)
    wanted = [{other for other, later in enumerate(told) if one.precedes(later)} for one in told]
    assert reachable(graph) == wanted
    edges = sum(map(len, graph.after))
    assert edges <= 3 * processes * len(told)  # a process that begins anew at once is two at that moment
    # None of them follows from two others.
    assert not any(
        target in wanted[between] for edge in graph.after for between in edge for target in edge if target != between
    )


@pytest.mark.parametrize("seed", range(30))
def test_components_are_what_reaches_each_other(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randint(1, 40)
    graph = Graph(size)
    for _ in range(rng.randint(0, 2 * size)):
        graph.add(rng.randrange(size), rng.randrange(size), rng.choice([WW, WR, RW, RT]))
    reach = reachable(graph)
    wanted = {
        frozenset(other for other in range(size) if other in reach[node] and node in reach[other])
        for node in range(size)
        if node in reach[node]
    }
    found = graph.components()
    assert found is not None
    assert set(map(frozenset, found)) == wanted
    shown, complete = cycles.find(graph, most=100)
    assert complete
    assert len(shown) == len(wanted)
    for cycle in shown:
        for step, following in zip(cycle.steps, [*cycle.steps[1:], cycle.steps[0]], strict=True):
            assert step.target == following.source
            assert graph.after[step.source][step.target] & step.kind
        assert len({step.source for step in cycle.steps}) == len(cycle.steps)


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((WW, WW), "G0"),
        ((WW, WR), "G1c"),
        ((WR, WR), "G1c"),
        ((RW, WR, WW), "G-single"),
        ((RW, WR, RW), "G2"),
        ((WW, RT), "G0-realtime"),
        ((WR, RT, WW), "G1c-realtime"),
        ((RW, RT), "G-single-realtime"),
        ((RW, RT, RW), "G2-realtime"),
    ],
)
def test_names(kinds: tuple[int, ...], name: str) -> None:
    graph = Graph(len(kinds))
    for node, kind in enumerate(kinds):
        graph.add(node, (node + 1) % len(kinds), kind)
    (found,), _ = cycles.find(graph)
    assert found.name == name
    assert len(found.steps) == len(kinds)


def test_the_worst_cycle_of_a_component_is_shown_and_a_shortest_of_these() -> None:
    graph = Graph(6)
    for source, target, kind in [
        (0, 1, RW),
        (1, 0, RW),
        (1, 2, WR),
        (2, 3, WW),
        (3, 1, WW),
        (3, 4, WR),
        (4, 2, WW),
        (2, 5, WW),
        (5, 3, WW),
    ]:
        graph.add(source, target, kind)
    (found,), _ = cycles.find(graph)
    assert found.name == "G1c"
    assert len(found.steps) == 3


def test_a_path_without_end_is_no_cycle() -> None:
    graph = Graph(50_000)
    for node in range(49_999):
        graph.add(node, node + 1, WW)
    graph.add(7, 7, WW)
    assert cycles.find(graph) == ([], True)


def test_out_of_time() -> None:
    graph = Graph(2000)
    for node in range(2000):
        graph.add(node, (node + 1) % 2000, RW)
    assert cycles.find(graph, Budget(0)) == ([], False)
    # Once it is known that there is a cycle, one is shown, whatever it costs.
    enough = 2000 // 256 + 1
    (found,), complete = cycles.find(graph, Budget(enough))
    assert found.name == "G2"
    assert complete
    assert not cycles.add_real_time(graph, [op("x", 0, 1)], Budget(0))


def test_a_cycle_has_the_name_of_its_steps() -> None:
    assert Cycle((Step(0, 1, RW), Step(1, 0, RW))).name == "G2"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("equal", [False, True])
def test_out_of_order_is_what_comparing_all_pairs_finds(seed: int, equal: bool) -> None:
    rng = random.Random(seed)
    told = operations(rng, 60, 4)
    numbers = {id(one): number + rng.randrange(8) for number, one in enumerate(sorted(told, key=lambda x: x.began))}

    def number(one: Operation) -> int:
        return numbers[id(one)]

    wrong = {
        id(later)
        for later in told
        if not later.unknown
        for one in told
        if one.precedes(later) and (number(one) > number(later) or (not equal and number(one) == number(later)))
    }
    found = list(newest.out_of_order(told, number, equal=equal))
    assert {id(later) for _, later in found} == wrong
    assert all(one.precedes(later) and number(one) >= number(later) for one, later in found)
