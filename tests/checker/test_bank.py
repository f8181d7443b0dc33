"""Money that moves between accounts."""

from __future__ import annotations

import pytest

from raftkv.checker import bank
from raftkv.checker.history import Operation
from raftkv.checker.verdict import Verdict
from tests.checker.histories import fail, info, op

ACCOUNTS = ("0", "1", "2")


def move(*numbers: int) -> Operation:
    """Take began, ended, source, target, amount, and the revision if it is known."""
    began, ended, source, target, amount, revision = (*numbers, 0)[:6]
    value = {"from": str(source), "to": str(target), "amount": amount}
    return op(began, ended, "transfer", value, revision=revision, key="")


def read(began: int, ended: int, *balances: int, at: int = 0) -> Operation:
    result = dict(zip(ACCOUNTS, balances, strict=False))
    return op(began, ended, "read", result=result, key="", extra={"at": at} if at else {})


def judge(operations: list[Operation]) -> Verdict:
    return bank.check(operations, total=30, accounts=ACCOUNTS, initial=dict.fromkeys(ACCOUNTS, 10))


GOOD: dict[str, list[Operation]] = {
    "at rest": [read(0, 1, 10, 10, 10, at=1)],
    "moved": [move(0, 1, 0, 1, 4, 2), read(2, 3, 6, 14, 10, at=2), move(4, 5, 1, 2, 14, 3), read(6, 7, 6, 0, 24, at=3)],
    "under way, seen or not": [move(0, 9, 0, 1, 4, 2), read(1, 2, 10, 10, 10, at=1), read(3, 4, 6, 14, 10, at=2)],
    "unknown, in effect late": [info(move(0, 1, 0, 1, 4)), read(2, 3, 10, 10, 10, at=1), read(4, 5, 6, 14, 10, at=2)],
    "two unknown at once": [info(move(0, 1, 0, 1, 4)), info(move(0, 1, 1, 2, 3)), read(4, 5, 6, 11, 13, at=3)],
    "four unknown at once": [
        *(info(move(0, 1, 0, 1, amount)) for amount in (1, 2, 4)),
        info(move(0, 1, 1, 2, 8)),
        read(4, 5, 3, 9, 18, at=9),
    ],
    "an unknown one explains later what another one might have done before": [
        info(move(0, 1, 0, 1, 4)),
        info(move(0, 1, 1, 2, 4)),
        info(move(0, 1, 0, 2, 4)),
        read(2, 3, 6, 10, 14, at=2),
        read(4, 5, 2, 10, 18, at=4),
    ],
    "the same unknown one twice": [
        info(move(0, 1, 0, 1, 4)),
        info(move(0, 1, 0, 1, 4)),
        read(2, 3, 6, 14, 10, at=2),
        read(4, 5, 2, 18, 10, at=3),
    ],
    "refused": [fail(move(0, 1, 0, 1, 40)), read(2, 3, 10, 10, 10, at=1)],
    "without revisions the total is all there is": [move(0, 1, 0, 1, 4), read(2, 3, 10, 10, 10)],
}

BAD: dict[str, tuple[list[Operation], str, str]] = {
    # Jepsen: Galera Cluster, Percona XtraDB (2015): the read skew that the bank test was made for.
    "half of a transfer": ([move(0, 9, 0, 1, 4, 2), read(1, 8, 6, 10, 10, at=2)], "total changed", "were 26, and"),
    "overdrawn": ([info(move(0, 1, 0, 1, 14)), read(2, 3, -4, 24, 10, at=2)], "negative balance", "0 holds -4"),
    "an account is missing": ([read(0, 1, 20, 10)], "wrong accounts", "accounts that there are: 2"),
    "acknowledged, and not in effect": (
        [move(0, 1, 0, 1, 4, 2), read(2, 3, 10, 10, 10, at=2)],
        "read off the books",
        "a read at revision 2 is not what all transfers by then make: 0 by +4, 1 by -4",
    ),
    "applied twice": (
        [read(0, 1, 10, 10, 10, at=1), move(2, 3, 0, 1, 4, 2), read(4, 5, 2, 18, 10, at=2)],
        "read off the books",
        "is not what the transfers since the read at revision 1 make: 0 by -4, 1 by +4",
    ),
    "one that failed is in effect": (
        [fail(move(0, 1, 0, 1, 4)), read(2, 3, 6, 14, 10, at=2)],
        "read off the books",
        "0 by -4, 1 by +4",
    ),
    "an unknown one, before it began": (
        [read(0, 1, 6, 14, 10, at=2), info(move(2, 3, 0, 1, 4))],
        "read off the books",
        "0 by -4",
    ),
    "an unknown one twice": (
        [info(move(0, 1, 0, 1, 4)), read(2, 3, 6, 14, 10, at=2), read(4, 5, 2, 18, 10, at=3)],
        "read off the books",
        "a read at revision 3 is not what the transfers since the read at revision 2 make: 0 by -4, 1 by +4",
    ),
    "an unknown one by itself and with another one": (
        [
            info(move(0, 1, 0, 1, 4)),
            info(move(0, 1, 1, 2, 3)),
            read(2, 3, 6, 14, 10, at=2),
            read(4, 5, 6, 11, 13, at=3),
            read(6, 7, 2, 12, 16, at=5),
        ],
        "read off the books",
        "a read at revision 5",
    ),
    "a snapshot of two moments": (
        [move(0, 1, 0, 1, 4, 2), move(2, 9, 1, 2, 3, 3), read(3, 8, 6, 11, 13, at=2)],
        "read off the books",
        "1 by -3, 2 by +3",
    ),
    "one revision, two balances": (
        [info(move(0, 1, 0, 1, 4)), read(2, 9, 10, 10, 10, at=2), read(3, 9, 6, 14, 10, at=2)],
        "one revision, two values",
        "two reads at revision 2 differ: 0 by -4, 1 by +4",
    ),
    "read in the past": (
        [move(0, 1, 0, 1, 4, 2), read(2, 3, 10, 10, 10, at=1)],
        "stale read",
        "answered at revision 1, though revision 2 had been seen",
    ),
    "revisions go back": (
        [move(0, 1, 0, 1, 4, 3), move(2, 3, 1, 0, 4, 2), read(4, 5, 10, 10, 10, at=3)],
        "revision went back",
        "revision 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_a_bank_that_keeps_its_books_is_accepted(operations: list[Operation]) -> None:
    verdict = judge(operations)
    assert verdict.valid is True, [str(problem) for problem in verdict.problems]


@pytest.mark.parametrize(("operations", "name", "text"), BAD.values(), ids=BAD)
def test_anything_else_is_named(operations: list[Operation], name: str, text: str) -> None:
    verdict = judge(operations)
    assert verdict.valid is False
    told = [problem for problem in verdict.problems if problem.name == name]
    assert any(text in problem.text for problem in told), [str(problem) for problem in verdict.problems]
    assert all(problem.operations for problem in told)


def test_without_what_the_accounts_held_at_first_reads_are_held_against_each_other() -> None:
    operations = [read(0, 1, 5, 5, 20, at=1), move(2, 3, 2, 0, 5, 2), read(4, 5, 5, 5, 20, at=2)]
    assert bank.check(operations[:2], total=30, accounts=ACCOUNTS).valid
    (problem,) = bank.check(operations, total=30, accounts=ACCOUNTS).problems
    assert problem.name == "read off the books"


def test_too_many_unknown_transfers_are_undecided() -> None:
    unknown = [info(move(0, 1, 0, 1, 1 << number)) for number in range(20)]
    verdict = judge([*unknown, read(2, 3, 9, 10, 11, at=2)])
    assert (verdict.valid, verdict.why) == (None, "20 transfers of unknown outcome explain too much")


def test_without_a_read_nothing_is_known() -> None:
    verdict = judge([move(0, 1, 0, 1, 4, 2)])
    assert (verdict.valid, verdict.why) == (None, "the balances were never read")


def test_out_of_time_is_undecided() -> None:
    verdict = bank.check([read(0, 1, 10, 10, 10, at=1)], lambda: True, total=30, accounts=ACCOUNTS)
    assert verdict.valid is None


def test_other_operations_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="knows no 'loan'"):
        judge([op(0, 1, "loan", 1)])
