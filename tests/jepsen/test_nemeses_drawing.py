"""What nemeses draw, the registry of all of them, and what it refuses. No processes."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import combinations

import pytest

from raftkv.jepsen.matrix import TOUR, whole_matrix
from raftkv.jepsen.nemeses import NEMESES, NemesisUnusable, drawing, examine, find
from raftkv.jepsen.nemeses.apart import APART, why_apart
from raftkv.jepsen.nemeses.combination import FAMILIES, draw
from raftkv.jepsen.schedule import REST_S
from raftkv.jepsen.workloads import lease as leases
from raftkv.server.cluster_time import MAX_STEP_MS

SEEDS = range(200)


@pytest.mark.parametrize("size", [4, 5, 6, 7, 9])
def test_in_a_ring_each_reaches_a_majority_and_no_two_the_same(size: int) -> None:
    nodes = range(1, size + 1)
    for seed in SEEDS:
        circle, apart = drawing.ring(random.Random(seed), nodes)
        assert sorted(circle) == list(nodes)
        blocked = {frozenset(pair) for pair in apart}
        reached = [{other for other in nodes if frozenset((node, other)) not in blocked} for node in nodes]
        assert all(2 * len(one) > size for one in reached)
        assert all(one != other for one, other in combinations(reached, 2))


def test_a_ring_of_three_parts_nobody() -> None:
    assert drawing.ring(random.Random(1), (1, 2, 3))[1] == []


def test_a_bridge_reaches_two_halves() -> None:
    for size in (3, 4, 5):
        nodes = list(range(1, size + 1))
        drawn = [drawing.bridged(random.Random(seed), nodes) for seed in SEEDS]
        for bridge, left, right in drawn:
            assert sorted([bridge, *left, *right]) == nodes
            assert 0 <= len(right) - len(left) <= 1
        assert {bridge for bridge, _, _ in drawn} == set(nodes)


def test_whom_to_strike() -> None:
    def drawn(option: str, nodes: list[int], leader: int | None) -> set[int]:
        return {drawing.aim(random.Random(seed), option, nodes, leader) for seed in SEEDS}

    assert drawn("leader", [1, 2, 3], 2) == {2}
    assert drawn("follower", [1, 2, 3], 2) == {1, 3}
    assert drawn("", [1, 2, 3], 2) == {1, 2, 3}
    assert drawn("leader", [1, 3], 2) == {1, 3}
    assert drawn("leader", [1, 3], None) == {1, 3}
    assert drawn("follower", [2], 2) == {2}


def test_what_is_good_is_preferred() -> None:
    rng = random.Random(1)
    assert drawing.preferring(lambda: rng.randrange(10), lambda drawn: drawn == 7) == 7
    assert drawing.preferring(lambda: 1, lambda drawn: drawn == 7) == 1


def test_how_links_are_broken() -> None:
    assert {drawing.how(random.Random(seed), "") for seed in SEEDS} == {"blackhole", "cut", "reset"}
    assert {drawing.how(random.Random(seed), "cut") for seed in SEEDS} == {"cut"}


def test_which_links_are_bad() -> None:
    rng = random.Random(1)
    assert drawing.pairs(rng, "all", [1, 2, 3], 2) == [(1, 2), (1, 3), (2, 3)]
    assert drawing.pairs(rng, "leader", [1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert drawing.pairs(rng, "leader", [1, 2, 3], None) == [(1, 2), (1, 3), (2, 3)]
    (one,) = drawing.pairs(rng, "link", [1, 2, 3], 2)
    assert 2 in one


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    def all_of_it(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [drawing.ring(rng, range(5)), drawing.bridged(rng, range(5)), draw(rng, 5, lambda _: "")]

    assert all_of_it(7) == all_of_it(7)
    assert all_of_it(7) != all_of_it(8)


@pytest.mark.parametrize("nodes", [3, 5])
def test_combinations_are_of_families_that_go_together(nodes: int) -> None:
    family = {name: family for family, names in FAMILIES.items() for name in names}
    refused = {"ring", "minority-third", "clock-jump"}
    seen = set()
    for seed in range(2000):
        drawn = draw(random.Random(seed), nodes, lambda name: "no" if name in refused else "")
        families = [family[name] for name in drawn]
        assert len(set(families)) == len(families) in (2, 3)
        assert families == sorted(families, key=list(FAMILIES).index)
        assert "membership" not in families or not {"process", "partition"} & set(families)
        assert nodes > 3 or not {"process", "partition", "pace"} <= set(families)
        seen |= set(drawn)
    assert seen == set(family) - refused


def test_combinations_go_without_a_family_that_is_refused_as_a_whole() -> None:
    for seed in SEEDS:
        drawn = draw(random.Random(seed), 3, lambda name: "no" if name in FAMILIES["clock"] else "")
        assert len(drawn) in (2, 3)
        assert not set(drawn) & set(FAMILIES["clock"])


@pytest.mark.parametrize("name", NEMESES)
def test_a_class_is_what_its_line_says(name: str) -> None:
    found = NEMESES[name].load()
    assert (found.name, found.help) == (name, NEMESES[name].help)
    assert not found.refuses(5)


def test_combined_names_are_known() -> None:
    for names in FAMILIES.values():
        for name in names:
            find(name)


def test_the_list_of_nemeses_loads_nothing() -> None:
    program = "import sys, raftkv.jepsen.nemeses; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "raftkv.jepsen.nemeses" in loaded
    assert not loaded & {"grpc", "requests", "raftkv.client", "raftkv.jepsen.testbed", "raftkv.testing.links"}


@pytest.mark.parametrize(
    ("names", "nodes", "why"),
    [
        (["lightning"], 3, "no nemesis 'lightning'; there are isolate-leader, "),
        (["bridge:slowly"], 3, "bridge has no option 'slowly'; it takes blackhole, cut, reset"),
        (["bridge:"], 3, "bridge has no option ''"),
        (["kill-all:leader"], 3, "it takes none"),
        (["ring"], 3, "in a ring of 3 nodes each reaches all others; it takes 4 or more"),
        (["kill", "minority-third"], 3, "less than a third of 3 nodes is nobody"),
        (["bridge:cut", "bridge:reset"], 3, "bridge is there twice"),
        (["kill-all", "pause-all"], 3, "kill-all and pause-all at once: each would find nobody left"),
        (["kill", "power"], 3, "power and kill at once: "),
        (["restart-all", "membership"], 3, "restart-all and membership at once: "),
        (["kill-all", "bridge"], 3, "nobody would be up to meet what is wrong with the links"),
        (["clock-jump", "pause-all"], 3, "pause-all and clock-jump at once: nobody would be up"),
        (["clock-jump", "rolling-restart"], 3, "rolling-restart and clock-jump at once: "),
        (["disk-full", "restart:leader"], 3, "restart and disk-full at once: "),
        (["kill-all", "checkpoint"], 3, "checkpoint and kill-all at once: "),
        (["membership", "wipe"], 5, "wipe and membership at once: each would remove the other one's nodes"),
        (["wipe", "ring"], 5, "wipe and ring at once: without the vote"),
        (["kill:leader", "membership"], 3, "membership and kill at once: it takes a whole cluster to begin"),
        (["flapping", "install"], 3, "install and flapping at once: it takes a whole cluster to begin"),
        (["membership", "kill", "pause"], 5, "membership and kill and pause at once: with a voter more"),
        (["kill", "isolate-leader", "jitter"], 3, "kill and isolate-leader and jitter at once: no link"),
        (["random", "kill"], 3, "random and kill at once: random combines nemeses itself: use it alone"),
    ],
)
def test_what_cannot_be_is_refused(names: list[str], nodes: int, why: str) -> None:
    with pytest.raises(NemesisUnusable) as refused:
        examine(names, nodes)
    assert why in refused.value.message


def test_what_can_be_is_not_refused() -> None:
    examine(["bridge:cut", "kill", "slow-link"], 5)
    examine(["ring", "minority-third:reset"], 5)
    examine(["random"], 3)
    examine(["membership", "kill"], 3)
    examine(["install", "flapping", "kill"], 3)
    examine(["rolling-restart", "clock-strobe", "disk-slow"], 3)
    examine(["checkpoint", "kill-all"], 3)
    for cell in [*TOUR, *whole_matrix()]:
        examine(cell.nemesis.split(","), cell.nodes)


def test_where_proofs_come_after_all_have_begun_less_goes_together() -> None:
    assert why_apart(["membership", "kill"], 3) == ""
    assert "to be proven" in why_apart(["membership", "kill"], 3, proven_in_between=False)
    assert why_apart(["restart", "clock-jump"], 3, proven_in_between=False) == ""


def test_what_is_apart_is_known() -> None:
    known = {*NEMESES, "*"}
    assert all(group <= known for rule in APART for group in rule.groups)


def test_workloads_are_told_what_clocks_may_do_to_leases() -> None:
    """Of every jump a step counts, and of jumps at the quickest pace two fall into the longest lease of a workload."""
    jump, strobe, drawn = (NEMESES[name].load() for name in ("clock-jump", "clock-strobe", "random"))
    longest_s = max(leases.TTLS_S)
    jumps = 1 + int(longest_s // (jump.hold_s[0] + REST_S[0]))
    assert jump.lease_margin_ms >= jumps * MAX_STEP_MS
    assert strobe.lease_margin_ms > longest_s * 1000
    assert strobe.clock_slack_ms >= 10_000
    assert drawn.lease_margin_ms == strobe.lease_margin_ms
    assert drawn.clock_slack_ms == strobe.clock_slack_ms
    quiet = NEMESES["kill"].load()
    assert (quiet.lease_margin_ms, quiet.clock_slack_ms) == (0, 0)


def test_workloads_are_told_whose_voters_change() -> None:
    assert {name for name, entry in NEMESES.items() if entry.load().members_change} == {"membership", "wipe", "random"}
