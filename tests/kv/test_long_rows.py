"""Versions too large to be read by the writes that replace them: what is read, and that nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv import commands as c
from raftkv.kv.limits import MAX_TXN_RESULT_BYTES
from raftkv.kv.records import TOMBSTONE, VERSION_BYTES, encode_version
from raftkv.kv.versions import WHOLE_ROW_BYTES, LongRow
from tests.kv.dict_store import DictStore, DictWriter
from tests.kv.host import Host, delete, put

LARGE = b"v" * (16 * WHOLE_ROW_BYTES)
ENTRY = 1_024
"""Commands that a node puts into one entry."""
FEW_BYTES = 2 * WHOLE_ROW_BYTES
"""What a write may read: the beginning of a version, and rows of the tables beside."""


class CountingStore(DictStore):
    read_bytes = 0
    """What the last transaction read."""

    @contextmanager
    def write(self) -> Iterator[DictWriter]:
        with super().write() as writer:
            yield writer
            self.read_bytes = writer.read_bytes


def holding(keys: int, value: bytes = LARGE, lease: int = 0) -> tuple[Host, CountingStore, list[bytes]]:
    """A store of so many keys with the same value."""
    store = CountingStore()
    host = Host(store)
    assert not lease or host.grant() == lease
    names = [b"%04d" % number for number in range(keys)]
    host.do(*[c.Txn(0, (), c.Branch((), (c.TxnPut(name, value, lease, False),), ())) for name in names])
    return host, store, names


def test_an_entry_of_puts_over_large_values_is_applied_as_a_whole() -> None:
    """Its writes may have been acknowledged already (a write concern below a majority): none may be refused."""
    host, store, names = holding(ENTRY)
    before = host.machine.revision
    results = host.do(*[put(name, b"1") for name in names])
    assert results == [c.Written(before + number) for number in range(1, ENTRY + 1)]
    assert store.read_bytes < ENTRY * FEW_BYTES
    headers = [encode_version(created, 1, 0, b"") for created in range(2, ENTRY + 2)]
    assert [change.previous for change in host.changes] == [
        LongRow(header, VERSION_BYTES + len(LARGE)) for header in headers
    ]
    pair = host.get(names[5])
    assert pair is not None
    assert (pair.create_revision, pair.version, pair.value) == (7, 2, b"1")


@pytest.mark.parametrize("extra", [0, 1])
def test_what_a_change_holds_of_the_version_before_depends_on_its_size_alone(extra: int) -> None:
    value = b"v" * (WHOLE_ROW_BYTES - VERSION_BYTES + extra)
    compare = c.Compare(b"0000", b"", c.Target.VALUE, c.Relation.EQUAL, value)
    put_after_compare = c.Txn(0, (), c.Branch((compare,), (c.TxnPut(b"0000", b"", 0, False),), ()))
    range_delete = delete(b"0000", b"0001")
    for command in (put(b"0000"), put_after_compare, delete(b"0000"), range_delete):
        host, _, _ = holding(1, value)
        host.do(command)
        (change,) = host.changes
        assert change.previous_revision == 2
        assert isinstance(change.previous, LongRow) == bool(extra)
        ((before, _),) = host.pairs_of_changes().values()
        assert before is not None
        assert before.value == value


@pytest.mark.parametrize("how", ["one by one", "a range", "a lease"])
def test_deleting_reads_no_large_values(how: str) -> None:
    host, store, names = holding(100, lease=1 if how == "a lease" else 0)
    expected: list[c.Result]
    if how == "one by one":
        results = host.do(*[delete(name) for name in names])
        expected = [c.Deleted(host.machine.revision - 99 + number, 1) for number in range(100)]
    elif how == "a range":
        results, expected = host.do(delete(b"0", b"1")), [c.Deleted(host.machine.revision, 100)]
    else:
        results, expected = host.do(c.RevokeLease(0, 1)), [c.Revoked(host.machine.revision, 100)]
    assert results == expected
    assert store.read_bytes < 100 * FEW_BYTES
    assert [change.row for change in host.changes] == [TOMBSTONE] * 100
    assert {before.value for before, _ in host.pairs_of_changes().values() if before is not None} == {LARGE}
    assert host.live() == []


def test_sweeping_reads_no_large_values() -> None:
    host, store, names = holding(100)
    host.do(*[put(name, LARGE) for name in names])
    host.do(delete(names[0]))
    host.do(put(b"other"))
    host.do(c.Compact(0, host.machine.revision))
    host.do(c.Sweep(0))
    assert not host.machine.unswept
    assert {key for key, _ in host.versions()} == {*names[1:], b"other"}
    assert len(host.versions()) == 100
    assert store.read_bytes < 200 * FEW_BYTES


@pytest.mark.parametrize(
    ("operand", "relations"),
    [
        (LARGE, {c.Relation.EQUAL}),
        (LARGE[:-1], {c.Relation.GREATER, c.Relation.NOT_EQUAL}),
        (LARGE[:-1] + b"w", {c.Relation.LESS, c.Relation.NOT_EQUAL}),
        (LARGE[:-1] + b"a", {c.Relation.GREATER, c.Relation.NOT_EQUAL}),
        (b"", {c.Relation.GREATER, c.Relation.NOT_EQUAL}),
        (b"v", {c.Relation.GREATER, c.Relation.NOT_EQUAL}),
        (b"w", {c.Relation.LESS, c.Relation.NOT_EQUAL}),
        (LARGE + b"\0", {c.Relation.LESS, c.Relation.NOT_EQUAL}),
        (LARGE[: WHOLE_ROW_BYTES - VERSION_BYTES], {c.Relation.GREATER, c.Relation.NOT_EQUAL}),
    ],
    ids=["itself", "shorter", "greater", "less", "empty", "its beginning", "short, greater", "longer", "what is read"],
)
def test_a_large_value_is_compared_by_no_more_of_it_than_decides(operand: bytes, relations: set[c.Relation]) -> None:
    host, store, _ = holding(1)
    for relation in c.Relation:
        compare = c.Compare(b"0000", b"", c.Target.VALUE, relation, operand)
        read = c.Txn(0, (), c.Branch((compare,), (), ()))
        write = c.Txn(0, (), c.Branch((compare,), (c.TxnPut(b"other", b"", 0, False),), ()))
        with host.machine.view() as view:
            answered = view.txn(read)
        assert isinstance(answered, c.TxnDone)
        (done,) = host.do(write)
        assert isinstance(done, c.TxnDone)
        assert answered.branch.succeeded == done.branch.succeeded == (relation in relations)
        assert store.read_bytes < FEW_BYTES + len(operand)


def test_a_transaction_shows_large_previous_values_and_accounts_for_them_before_it_reads_them() -> None:
    value = b"x" * (MAX_TXN_RESULT_BYTES // 2 - 100)
    host, store, names = holding(3, value)
    old = [pair for name in names if (pair := host.get(name)) is not None]

    def of(*operations: c.TxnOperation) -> c.Txn:
        return c.Txn(0, (), c.Branch((), operations, ()))

    too_much = [
        of(*[c.TxnPut(name, b"", 0, True) for name in names]),
        of(*[c.TxnDelete(name, b"", True) for name in names]),
        of(c.TxnDelete(b"0", b"1", True)),
    ]
    for number, command in enumerate(too_much):
        (refused,) = host.do(command)
        assert isinstance(refused, c.Rejected)
        assert refused.code is ErrorCode.LIMIT_EXCEEDED
        assert store.read_bytes < (2 if number < 2 else 0) * len(value) + 3 * FEW_BYTES
    (done,) = host.do(of(c.TxnPut(names[0], b"1", 0, True), c.TxnDelete(names[1], b"", True)))
    assert isinstance(done, c.TxnDone)
    assert done.branch.results == (c.PutDone(old[0]), c.DeleteDone(1, (old[1],)))
    (done,) = host.do(of(c.TxnDelete(b"0001", b"1", True)))
    assert isinstance(done, c.TxnDone)
    assert done.branch.results == (c.DeleteDone(1, (old[2],)),)
