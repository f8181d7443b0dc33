"""Transactions: what the model (`test_model`) does not reach. Limits, leases, fences, and the text of refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.errors import ErrorCode
from raftkv.kv import commands as c
from raftkv.kv.limits import (
    MAX_FENCES,
    MAX_LEASE_KEYS,
    MAX_TXN_COMPARES,
    MAX_TXN_DEPTH,
    MAX_TXN_OPERATIONS,
    MAX_VALUE_BYTES,
)
from raftkv.kv.txn_check import is_read_only, txn_fault

from .host import Host, put


def branch(*then: c.TxnOperation, when: tuple[c.Compare, ...] = (), otherwise: tuple[Any, ...] = ()) -> c.Branch:
    return c.Branch(when, then, otherwise)


def txn(*then: c.TxnOperation, fences: tuple[c.Fence, ...] = (), **sides: Any) -> c.Txn:
    return c.Txn(0, fences, branch(*then, **sides))


def write(key: bytes, value: bytes = b"v", lease: int = 0) -> c.TxnPut:
    return c.TxnPut(key, value, lease, False)


def read(key: bytes, end: bytes = b"", limit: int = 0) -> c.TxnRange:
    return c.TxnRange(key, end, limit, 0, False, False)


def erase(key: bytes, end: bytes = b"") -> c.TxnDelete:
    return c.TxnDelete(key, end, False)


def exists(key: bytes) -> c.Compare:
    return c.Compare(key, b"", c.Target.VERSION, c.Relation.GREATER, 0)


def nest(depth: int) -> c.Branch:
    return branch(nest(depth - 1)) if depth > 1 else branch()


SENSELESS = {
    "nested more than": c.Txn(0, (), nest(MAX_TXN_DEPTH + 1)),
    "too many operations": txn(*[read(b"k")] * (MAX_TXN_OPERATIONS + 1)),
    "too many compares": txn(when=(exists(b"k"),) * (MAX_TXN_COMPARES + 1)),
    "too many fences": txn(write(b"k"), fences=(c.Fence(b"l", 1, 0),) * (MAX_FENCES + 1)),
    "b'k' is put twice": txn(write(b"k"), write(b"k")),
    "b'j' is put twice": txn(write(b"j"), branch(otherwise=(write(b"j"),))),
    "both put and deleted": txn(write(b"k"), erase(b"a", b"z")),
    "b'l' is both put": txn(branch(erase(b"l")), branch(write(b"l"))),
    "key is empty": txn(write(b"")),
    "range_end lies before key": txn(when=(c.Compare(b"b", b"a", c.Target.VERSION, 0, 0),)),
    "value is too large": txn(write(b"k", b"v" * (MAX_VALUE_BYTES + 1))),
    "target 9 is unknown": txn(when=(c.Compare(b"k", b"", 9, 0, 0),)),
    "relation 9 is unknown": txn(when=(c.Compare(b"k", b"", 1, 9, 0),)),
    "takes bytes": txn(when=(c.Compare(b"k", b"", c.Target.VALUE, 0, 5),)),
    "any other a number": txn(when=(c.Compare(b"k", b"", c.Target.VERSION, 0, b"5"),)),
}


@pytest.mark.parametrize(("complaint", "senseless"), SENSELESS.items(), ids=SENSELESS.keys())
def test_nonsense_is_named_and_changes_nothing(complaint: str, senseless: c.Txn) -> None:
    host = Host()
    before = host.machine.revision
    (result,) = host.do(senseless)
    assert isinstance(result, c.Rejected)
    assert result.code is ErrorCode.INVALID_ARGUMENT
    assert complaint in result.message
    assert txn_fault(senseless) == result.message
    assert host.machine.revision == before
    assert host.versions() == set()


def test_the_same_key_on_ways_that_exclude_each_other_is_fine() -> None:
    host = Host()
    either = branch(write(b"k"), when=(exists(b"k"),), otherwise=(write(b"k"),))
    assert txn_fault(txn(branch(write(b"k"), otherwise=(erase(b"a", b"z"),)))) is None
    assert host.do(txn(either, otherwise=(write(b"k"), erase(b"a")))) == [
        c.TxnDone(2, c.BranchDone(True, (c.BranchDone(False, (c.PutDone(None),)),)))
    ]


def test_the_first_key_that_is_written_twice_is_named_however_it_comes_about() -> None:
    """The text is part of the state: it must not depend on the order of a set."""
    keys = [b"%02d" % number for number in range(40)]
    puts = branch(*[write(key) for key in reversed(keys)])
    erased = [erase(key) for key in keys[10:]]
    both = "key b'10' is both put and deleted in the transaction"
    for senseless in (
        txn(puts, erase(b"10", b"99")),
        txn(erase(b"10", b"\0"), puts),
        txn(puts, branch(*reversed(erased))),
        txn(branch(*erased), puts),
        txn(branch(branch(*erased)), branch(erase(b"x"), puts)),
    ):
        assert txn_fault(senseless) == both
    assert (
        txn_fault(txn(puts, branch(*[write(key) for key in keys[7:]]))) == "key b'07' is put twice in the transaction"
    )
    assert txn_fault(txn(puts, erase(b"40", b"99"), erase(b"4"))) is None


FLAG = st.booleans()
LEASE = st.integers(0, 1)
KEYS = st.sampled_from([b"", b"a", b"b", b"\0" * 250, b"\0" * 251, b"k" * 250, b"k" * 251, b"k" * 500, b"k" * 501])
SIDES = st.lists(
    st.builds(c.TxnPut, KEYS, st.sampled_from([b"", b"v" * MAX_VALUE_BYTES, b"v" * (MAX_VALUE_BYTES + 1)]), LEASE, FLAG)
    | st.builds(c.TxnPut, st.integers(0, 50).map(lambda number: b"%d" % number), st.just(b"v"), st.just(0), FLAG)
    | st.builds(c.TxnDelete, KEYS, st.just(b""), FLAG)
    | st.builds(c.TxnRange, KEYS, KEYS, st.just(0), st.just(0), FLAG, FLAG)
    | st.just(c.Branch((), (), ())),
    max_size=4,
).map(tuple)
COMPARES = st.lists(
    st.builds(
        c.Compare, KEYS, st.just(b"") | KEYS, st.integers(0, 5), st.integers(0, 4), st.sampled_from([b"", b"v", 0])
    )
    | st.just(c.Compare(b"a", b"", int(c.Target.VERSION), int(c.Relation.EQUAL), 0)),
    max_size=3,
).map(tuple)


@given(COMPARES, SIDES, SIDES, st.sampled_from([1, 1, 64]))
@example((), tuple(write(b"%d" % number) for number in range(65)), tuple(write(b"%d" % n) for n in range(64)), 1)
@example((exists(b"a"),) * 129, (), (), 1)
@example((), (write(b"\0" * 251),), (), 1)
def test_the_quick_look_at_a_transaction_comes_to_what_the_close_one_does(
    compares: tuple[c.Compare, ...], then: tuple[Any, ...], otherwise: tuple[Any, ...], times: int
) -> None:
    quick = c.Txn(1, (), c.Branch(compares * times, then, otherwise))
    # A fence, by itself good, has it looked at closely.
    assert txn_fault(quick) == txn_fault(quick._replace(fences=(c.Fence(b"lock", 1, 0),)))


def test_compares_see_the_state_before_even_nested_ones() -> None:
    host = Host()
    inner = branch(write(b"late"), when=(exists(b"k"),))
    (done,) = host.do(txn(write(b"k"), inner))
    assert done == c.TxnDone(2, c.BranchDone(True, (c.PutDone(None), c.BranchDone(False, ()))))
    assert host.get(b"late") is None


@pytest.mark.parametrize(
    ("target", "relation", "operand", "holds"),
    [
        (c.Target.VALUE, c.Relation.NOT_EQUAL, b"1", False),
        (c.Target.VALUE, c.Relation.EQUAL, b"", False),
        (c.Target.VERSION, c.Relation.EQUAL, 0, True),
        (c.Target.CREATE_REVISION, c.Relation.GREATER, 0, False),
        (c.Target.MOD_REVISION, c.Relation.LESS, 5, True),
        (c.Target.LEASE, c.Relation.EQUAL, 7, False),
    ],
)
def test_a_compare_of_an_empty_range_is_one_of_a_missing_key_as_in_etcd(
    target: c.Target, relation: c.Relation, operand: bytes | int, *, holds: bool
) -> None:
    host = Host()
    for end in (b"", b"z"):
        (done,) = host.do(txn(when=(c.Compare(b"k", end, target, relation, operand),)))
        assert isinstance(done, c.TxnDone)
        assert done.branch.succeeded is holds


def test_operations_see_what_those_before_them_wrote_and_all_is_one_revision() -> None:
    host = Host()
    host.do(put(b"a", b"1"), put(b"b", b"1"))
    (done,) = host.do(txn(read(b"a", b"z"), write(b"c"), erase(b"a"), read(b"a", b"z")))
    assert isinstance(done, c.TxnDone)
    before, _, _, after = done.branch.results
    assert isinstance(before, c.RangeDone)
    assert isinstance(after, c.RangeDone)
    assert [pair.key for pair in before.pairs] == [b"a", b"b"]
    assert [pair.key for pair in after.pairs] == [b"b", b"c"]
    assert done.revision == host.machine.revision == 4
    assert {change.revision for change in host.changes} == {4}


def test_a_put_of_a_key_that_was_compared_goes_on_from_its_newest_version() -> None:
    """Other keys too, whatever was compared before them, and a key that was deleted begins anew."""
    host = Host()
    keys = (b"a", b"b", b"gone", b"new")
    host.do(*map(put, keys[:3]), c.Delete(0, b"gone", b""))
    compares = tuple(c.Compare(key, b"", c.Target.VERSION, c.Relation.LESS, 9) for key in keys)
    for last in range(len(keys)):
        when = (*compares[last + 1 :], *compares[: last + 1])
        host.do(txn(*map(write, keys), when=when))
        versions = [host.get(key) for key in keys]
        assert [one and one.version for one in versions] == [last + 2, last + 2, last + 1, last + 1]
        assert [one and one.create_revision for one in versions] == [2, 3, 6, 6]


def test_a_rejection_undoes_everything() -> None:
    host = Host()
    host.do(put(b"a", b"1"))
    before = host.versions()
    granted = host.grant()
    (result,) = host.do(txn(write(b"a", b"2", granted), erase(b"b"), write(b"c", b"", 99)))
    assert result == c.Rejected(ErrorCode.LEASE_NOT_FOUND, "lease 99 is unknown or has expired")
    assert host.versions() == before
    assert host.changes == []
    # The lease is as it was: the key that was moved to it and back does not go with it.
    host.do(c.RevokeLease(0, granted))
    pair = host.get(b"a")
    assert pair is not None
    assert pair.value == b"1"


def test_a_leased_key_goes_with_its_lease_unless_it_was_written_without_it() -> None:
    host = Host()
    granted = host.grant()
    host.do(txn(write(b"gone", lease=granted), write(b"stays", lease=granted), write(b"moves", lease=granted)))
    host.do(put(b"stays"), txn(write(b"moves", lease=host.grant())))
    (revoked,) = host.do(c.RevokeLease(0, granted))
    assert revoked == c.Revoked(host.machine.revision, 1)
    assert {key for key, _ in host.live()} == {b"stays", b"moves"}


def test_a_lease_takes_no_more_keys_than_can_go_at_once() -> None:
    host = Host()
    granted = host.grant()
    full = MAX_LEASE_KEYS - MAX_TXN_OPERATIONS
    for first in range(0, full, MAX_TXN_OPERATIONS):
        host.do(txn(*[write(b"%d" % number, lease=granted) for number in range(first, first + MAX_TXN_OPERATIONS)]))
    (result,) = host.do(txn(write(b"one too many", lease=granted)))
    assert isinstance(result, c.Rejected)
    assert result.code is ErrorCode.LIMIT_EXCEEDED
    (revoked,) = host.do(c.RevokeLease(0, granted))
    assert isinstance(revoked, c.Revoked)
    assert revoked.deleted <= MAX_LEASE_KEYS


def test_what_a_transaction_is_answered_is_bounded() -> None:
    host = Host()
    for key in (b"a", b"b", b"c"):
        host.do(put(key, b"v" * (MAX_VALUE_BYTES // 2)))
    before = host.versions()
    for greedy in (txn(write(b"k"), read(b"a"), read(b"b"), read(b"c")), txn(c.TxnDelete(b"a", b"z", True))):
        (result,) = host.do(greedy)
        assert isinstance(result, c.Rejected)
        assert result.code is ErrorCode.LIMIT_EXCEEDED
        assert "bytes of keys and values" in result.message
        assert host.versions() == before


def test_what_the_transactions_of_an_entry_read_is_bounded_and_the_others_may_come_again() -> None:
    """Else one batch of a few kilobytes makes an entry that takes seconds and gigabytes where it is applied."""
    host = Host()
    session = host.register()
    host.do(put(b"large", b"v" * 1_000_000))
    many = [txn(read(b"large"), write(b"%d" % number))._replace(sequence=number) for number in range(1, 10)]
    results = host.write(session, *many, put(b"other", sequence=10))
    assert [type(result) for result in results] == [c.TxnDone] * 5 + [c.Rejected] * 4 + [c.Written]
    assert {result.code for result in results if isinstance(result, c.Rejected)} == {ErrorCode.OVERLOADED}
    assert host.get(b"5") is not None
    assert host.get(b"6") is None
    host.reopen()
    again = host.write(session, *many)
    assert again[:5] == results[:5]
    assert [type(result) for result in again] == [c.TxnDone] * 9
    # The same without a session.
    assert [type(result) for result in host.do(*many[:6])] == [c.TxnDone] * 5 + [c.Rejected]


def test_the_work_of_a_transaction_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.txn.MAX_TXN_WORK", 10)
    host = Host()
    host.do(*[put(b"%02d" % number) for number in range(12)])
    every = c.Compare(b"0", b"z", c.Target.VERSION, c.Relation.GREATER, 0)
    for heavy in (txn(write(b"k"), read(b"0", b"z")), txn(erase(b"0", b"z")), txn(write(b"k"), when=(every,))):
        (result,) = host.do(heavy)
        assert isinstance(result, c.Rejected)
        assert result.code is ErrorCode.LIMIT_EXCEEDED
    (done,) = host.do(txn(read(b"0", b"z", limit=3), write(b"k")))
    assert isinstance(done, c.TxnDone)


def test_a_fence_is_judged_before_anything_else_and_says_the_current_token() -> None:
    host = Host()
    lease = host.grant()
    acquire = c.Acquire(0, b"lock", lease, c.LockKind.MUTEX, True, 0, b"", True)
    (place,) = host.do(acquire)
    assert isinstance(place, c.Place)
    good = c.Fence(b"lock", place.token, c.FenceMode.HOLDER)
    assert isinstance(host.do(txn(write(b"k"), fences=(good,)))[0], c.TxnDone)
    host.do(c.RevokeLease(0, lease))
    (later,) = host.do(acquire._replace(lease=host.grant()))
    assert isinstance(later, c.Place)
    for mode in c.FenceMode:
        (result,) = host.do(txn(write(b"k", b"late"), fences=(good._replace(mode=mode),)))
        assert isinstance(result, c.Rejected)
        assert (result.code, result.number) == (ErrorCode.STALE_FENCE, later.token)
    pair = host.get(b"k")
    assert pair is not None
    assert pair.value == b"v"


def test_only_what_can_change_nothing_is_a_read() -> None:
    assert is_read_only(txn(read(b"k"), branch(otherwise=(read(b"k"),)), when=(exists(b"k"),)))
    assert not is_read_only(txn(branch(otherwise=(write(b"k"),))))
    assert not is_read_only(txn(erase(b"k")))
    assert not is_read_only(txn(read(b"k"), fences=(c.Fence(b"l", 1, 0),)))


def test_a_repeated_transaction_is_answered_from_its_session() -> None:
    host = Host()
    session = host.register()
    host.do(put(b"k", b"old"))
    once = c.Txn(1, (), branch(c.TxnPut(b"k", b"new", 0, True), read(b"k")))
    first = host.write(session, once)
    host.do(put(b"k", b"newer"))
    host.reopen()
    assert host.write(session, once) == first
    pair = host.get(b"k")
    assert pair is not None
    assert pair.value == b"newer"
