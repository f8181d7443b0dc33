"""What `explain` says, against sets of voters counted out, and against docs/guarantees.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest

from raftkv.errors import InvalidArgument
from raftkv.quorum import ALL, LEADER, MAJORITY, Guarantee, in_words, of_quorum_read
from raftkv.quorum.explain import Level, Row, Sees, explain, load

DOCUMENT = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
UP_TO = 5
"""So many voters: all choices of W and R, all sets."""


def rows() -> Iterator[Row]:
    for n in range(1, UP_TO + 1):
        for w in range(1, n + 1):
            for r in range(1, n + 1):
                yield explain(n, w, r)


ROWS = [pytest.param(row, id=f"N={row.voters} W={row.write} R={row.read}") for row in rows()]


def subsets(voters: int, size: int) -> list[frozenset[int]]:
    return [frozenset(one) for one in combinations(range(voters), size)]


def most(voters: int, holds: Callable[[frozenset[int]], bool]) -> int:
    """Return the largest number of voters of which any, that many, may be missing and `holds` is true of the others."""
    everyone = frozenset(range(voters))
    good = [k for k in range(voters) if all(holds(everyone - gone) for gone in subsets(voters, k))]
    return max(good, default=0)


def is_majority(some: frozenset[int], voters: int) -> bool:
    return 2 * len(some) > voters


@pytest.mark.parametrize("row", ROWS)
def test_failures_survived_are_those_of_sets_counted_out(row: Row) -> None:
    n = row.voters
    assert row.early == (not any(is_majority(some, n) for some in subsets(n, row.write)))
    # A leader is elected by a majority, and acknowledges what W voters, itself among them, have.
    assert row.writes_survive == most(n, lambda up: is_majority(up, n) and len(up) >= row.write)
    assert row.commits_survive == most(n, lambda up: is_majority(up, n))
    assert row.quorum_reads_survive == most(n, lambda up: len(up) >= row.read)
    assert row.quorum_reads_survive_any_end == most(n, lambda up: len(up) >= row.read and is_majority(up, n))
    assert row.local_reads_survive == n - 1
    copies = subsets(n, row.write)
    if row.early:  # held by too few for any of its copies to outlive a change of the leader
        assert (row.losses_survived, row.losses_with_a_copy_left) == (0, 0)
    else:
        assert row.losses_survived == most(n, lambda left: is_majority(left, n) and all(left & one for one in copies))
        assert row.losses_with_a_copy_left == most(n, lambda left: all(left & one for one in copies))


@pytest.mark.parametrize("row", ROWS)
def test_a_quorum_read_sees_what_some_voter_must_have_and_no_less_is_promised(row: Row) -> None:
    n = row.voters
    overlap = all(written & asked for written in subsets(n, row.write) for asked in subsets(n, row.read))
    assert row.overlap == overlap
    linearizable = is_majority(frozenset(range(row.read)), n)
    assert row.guarantee is (Guarantee.LINEARIZABLE if linearizable else Guarantee.SEES_WRITES_AT_W_GE)
    # Committed, and a voter that takes part has it: as a majority has it, a majority that is asked is enough.
    assert (row.sees[Level.QUORUM] is Sees.IT) == (not row.early and overlap)
    assert (row.write >= row.sees_writes_at) == (row.sees[Level.QUORUM] is Sees.IT)
    assert (row.guarantee, row.sees_writes_at) == of_quorum_read(row.read, n)


@pytest.mark.parametrize("row", ROWS)
def test_load_of_those_that_are_left_adds_up(row: Row) -> None:
    assert [one.gone for one in row.loads] == list(range(1, row.commits_survive + 1))
    for one in row.loads:
        left = row.voters - one.gone
        assert one.factor * left == pytest.approx(row.voters)
        assert one.factor * one.limit_percent <= 100 + 1e-9
        assert one.factor * (one.limit_percent + 1) > 100


def test_load() -> None:
    assert [load(3, 1).limit_percent, load(5, 1).limit_percent, load(5, 2).limit_percent] == [66, 80, 60]
    assert load(5, 1).factor == 1.25


def test_a_write_that_is_not_committed_is_promised_to_no_read() -> None:
    for n, w in ((3, 1), (5, 1), (5, 2)):
        for r in range(1, n + 1):
            seen = dict(explain(n, w, r).sees)
            assert seen.pop(Level.AT_LEAST) is Sees.IT_WITH_TOKEN_OR_TELLS
            assert set(seen.values()) == {Sees.PERHAPS_AND_IT_MAY_VANISH}


def test_rpo() -> None:
    assert explain(3, 2, 2).rpo == "0 as long as no more than 1 of 3 disks are lost"
    assert explain(5, 5, 3).rpo == "0 as long as no more than 4 of 5 disks are lost"
    assert "not yet committed" in explain(5, 2, 3).rpo


@pytest.mark.parametrize(("concern", "write"), [(LEADER, 1), (MAJORITY, 3), (ALL, 5), (2, 2)])
def test_concerns_have_names(concern: int, write: int) -> None:
    assert explain(5, concern, 0).write == write
    assert explain(5, concern, 0).read == 3


@pytest.mark.parametrize(
    ("voters", "write", "replicas", "said"),
    [
        (0, 1, 1, "at least 1"),
        (3, 0, 2, "1 to 3 voters, or leader, majority, all"),
        (3, 4, 2, "1 to 3 voters, or leader, majority, all"),
        (3, -3, 2, "1 to 3 voters, or leader, majority, all"),
        (5, 3, 6, "1 to 5 voters"),
        (5, 3, -1, "1 to 5 voters"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_range(voters: int, write: int, replicas: int, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        explain(voters, write, replicas)


def quorum_words(row: Row) -> str:
    return in_words(row.guarantee, sees_writes_at=row.sees_writes_at)


def what_reads_see(n: int) -> list[str]:
    """Return the rows of the table: a level each, and a column for all W of which each level says the same."""
    names = [level.value for level in Level if level is not Level.QUORUM] + [f"quorum:{r}" for r in range(1, n + 1)]
    columns: dict[tuple[str, ...], list[int]] = {}
    for w in range(1, n + 1):
        by_quorum = [explain(n, w, r).sees for r in range(1, n + 1)]
        seen = [by_quorum[0][level].value for level in Level if level is not Level.QUORUM]
        columns.setdefault((*seen, *(one[Level.QUORUM].value for one in by_quorum)), []).append(w)
    head = [f"N = {n}", *(f"W = {', '.join(map(str, ws))}" for ws in columns.values())]
    return [
        "| " + " | ".join(cells) + " |"
        for cells in (head, *([f"`{name}`", *(one[at] for one in columns)] for at, name in enumerate(names)))
    ]


def what_writes_survive(n: int) -> list[str]:
    return [
        f"| {n} | {w} | {'before it is committed' if row.early else 'committed'} | {row.writes_survive} | "
        f"{row.losses_survived} | {row.losses_with_a_copy_left} |"
        for w in range(1, n + 1)
        for row in [explain(n, w, 0)]
    ]


def what_reads_survive(n: int) -> list[str]:
    return [
        f"| {n} | {r} | {quorum_words(row)} | {row.quorum_reads_survive} | {row.quorum_reads_survive_any_end} |"
        for r in range(1, n + 1)
        for row in [explain(n, MAJORITY, r)]
    ]


def capacity(n: int) -> list[str]:
    return [f"| {n} | {one.gone} | {one.factor:.2f} | {one.limit_percent} % |" for one in explain(n, MAJORITY, 0).loads]


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("made", [what_reads_see, what_writes_survive, what_reads_survive, capacity])
def test_the_tables_of_the_document_are_what_explain_says(made: Callable[[int], list[str]], n: int) -> None:
    lines = DOCUMENT.splitlines()
    missing = [line for line in made(n) if line not in lines]
    assert not missing, "\n".join(["docs/guarantees.md lacks:", *missing])


def test_the_tables_of_the_document_have_no_other_rows() -> None:
    made = (what_reads_see, what_writes_survive, what_reads_survive, capacity)
    known = {line for n in (3, 5) for one in made for line in one(n)}
    told = [line for line in DOCUMENT.splitlines() if line.startswith(("| 3 ", "| 5 ", "| N = ", "| `quorum:"))]
    assert len(told) > 20
    assert [line for line in told if line not in known] == []
