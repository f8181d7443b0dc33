"""Which of several states is right."""

from __future__ import annotations

from itertools import product

import pytest

from raftkv.quorum import StatesVerdict, judge_states

A, B, C = b"a", b"b", b"c"


def judge(
    hashes: dict[int, bytes],
    voters: set[int],
    *,
    outgoing: set[int] | None = None,
    learners: set[int] | None = None,
    witnesses: set[int] | None = None,
) -> StatesVerdict:
    majorities = [voters, outgoing] if outgoing else [voters]
    members = voters | (outgoing or set()) | (learners or set())
    return judge_states(majorities, members, witnesses or set(), hashes)


def test_all_agree() -> None:
    assert judge({1: A, 2: A, 3: A}, {1, 2, 3}) == (A, (1, 2, 3), (), ())


@pytest.mark.parametrize("odd", [1, 2, 3])
def test_the_odd_one_out(odd: int) -> None:
    others = tuple(sorted({1, 2, 3} - {odd}))
    assert judge({1: A, 2: A, 3: A, odd: B}, {1, 2, 3}) == (A, others, (odd,), ())


def test_two_of_three_are_a_majority_while_the_third_is_silent() -> None:
    assert judge({1: A, 2: A}, {1, 2, 3}) == (A, (1, 2), (), (3,))


def test_who_is_silent_counts_and_leaves_no_majority() -> None:
    assert judge({1: A, 2: B}, {1, 2, 3}) == (b"", (), (1, 2), (3,))
    assert judge({1: A}, {1, 2, 3}) == (b"", (1,), (), (2, 3))
    assert judge({}, {1, 2, 3}) == (b"", (), (), (1, 2, 3))


def test_half_is_no_majority() -> None:
    assert judge({1: A, 2: A, 3: B, 4: B}, {1, 2, 3, 4}) == (b"", (), (1, 2, 3, 4), ())
    assert judge({1: A, 2: B}, {1, 2}) == (b"", (), (1, 2), ())


def test_a_learner_is_compared_and_does_not_count() -> None:
    assert judge({1: A, 2: A, 3: B}, {1, 2}, learners={3}) == (A, (1, 2), (3,), ())
    assert judge({1: A, 2: B, 3: A}, {1, 2}, learners={3}) == (b"", (), (1, 2, 3), ())
    assert judge({1: A, 4: B}, {1}, learners={4}) == (A, (1,), (4,), ())


def test_a_witness_neither_counts_nor_is_missed() -> None:
    assert judge({1: A, 2: A}, {1, 2, 3}, witnesses={3}) == (A, (1, 2), (), ())
    assert judge({1: A}, {1, 2, 3}, witnesses={3}) == (b"", (1,), (), (2,))
    assert judge({1: A, 2: B}, {1, 2, 3}, witnesses={3}) == (b"", (), (1, 2), ())


def test_while_voters_are_changed_both_sets_must_agree() -> None:
    # 1, 2, 3 are replaced by 3, 4, 5: each set has another majority.
    hashes = {1: A, 2: A, 3: B, 4: B, 5: B}
    assert judge(hashes, {3, 4, 5}, outgoing={1, 2, 3}) == (b"", (), (1, 2, 3, 4, 5), ())
    assert judge(hashes | {3: A, 4: A}, {3, 4, 5}, outgoing={1, 2, 3}) == (A, (1, 2, 3, 4), (5,), ())


def test_who_is_no_member_is_not_heard() -> None:
    assert judge({1: A, 2: A, 9: B}, {1, 2, 3}) == (A, (1, 2), (), (3,))


def test_no_answers_of_any_cluster_condemn_a_majority() -> None:
    """Every way in which up to five voters can answer: whoever is right is more than half of all, and stays right with
    whatever the silent ones would have said."""
    for size in range(1, 6):
        voters = set(range(1, size + 1))
        for answers in product((None, A, B, C), repeat=size):
            hashes = {node: one for node, one in zip(sorted(voters), answers, strict=True) if one is not None}
            verdict = judge(hashes, voters)
            assert set(verdict.agreed) | set(verdict.differ) == set(hashes)
            assert not set(verdict.agreed) & set(verdict.differ)
            if verdict.hash:
                assert 2 * len(verdict.agreed) > size
                assert {hashes[node] for node in verdict.agreed} == {verdict.hash}
                for node in verdict.silent:
                    assert judge(hashes | {node: B}, voters).hash == verdict.hash
            else:
                counts = [list(hashes.values()).count(one) for one in (A, B, C)]
                assert 2 * max(counts) <= size
