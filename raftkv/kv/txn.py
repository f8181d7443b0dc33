"""Transactions: conditions, and operations that take effect together at one revision, or not at all.

Which way a transaction takes is decided first: all compares, nested ones too, see the state before it, as in etcd. Then
its operations run in order, and each sees what those before it wrote. A rejection anywhere undoes everything.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from raftkv.errors import ErrorCode, RaftKVError
from raftkv.kv import fence, mvcc
from raftkv.kv.commands import (
    Branch,
    BranchDone,
    Compare,
    DeleteDone,
    KeyValue,
    OperationDone,
    PutDone,
    RangeDone,
    Rejected,
    Relation,
    Target,
    Txn,
    TxnDelete,
    TxnDone,
    TxnOperation,
    TxnPut,
    TxnRange,
)
from raftkv.kv.keys import range_bounds, revision_of, user_key, version_prefix
from raftkv.kv.lease import LeaseTable
from raftkv.kv.limits import (
    MAX_FENCES,
    MAX_LEASE_KEYS,
    MAX_TXN_COMPARES,
    MAX_TXN_DEPTH,
    MAX_TXN_OPERATIONS,
    MAX_TXN_RESULT_BYTES,
    MAX_TXN_WORK,
    fence_fault,
    put_fault,
    range_fault,
)
from raftkv.kv.ranges import LiveKeys, RangeQuery, RangeScan
from raftkv.kv.records import Meta, decode_version
from raftkv.kv.store import Reader
from raftkv.kv.writing import Writing, live, value_of

_RELATIONS: Final[dict[int, Callable[[Any, Any], bool]]] = {
    Relation.EQUAL: operator.eq,
    Relation.NOT_EQUAL: operator.ne,
    Relation.LESS: operator.lt,
    Relation.GREATER: operator.gt,
}
_TARGETS: Final = frozenset(map(int, Target))


# --- what can be said without the state ----------------------------------------------------------------------------


def is_read_only(txn: Txn) -> bool:
    """Whether a transaction can change nothing, whichever way it takes. One with fences is judged as a write."""
    return not txn.fences and not any(isinstance(one, TxnPut | TxnDelete) for one in operations(txn.branch))


def operations(branch: Branch) -> Iterator[TxnOperation]:
    """Yield all operations of a branch, nested ones too."""
    for operation in (*branch.then, *branch.otherwise):
        yield operation
        if isinstance(operation, Branch):
            yield from operations(operation)


def txn_fault(txn: Txn) -> str | None:
    """Say which limit a transaction breaks, or what makes no sense about it, or None."""
    if len(txn.fences) > MAX_FENCES:
        return f"too many fences: {len(txn.fences)}, at most {MAX_FENCES}"
    for one in txn.fences:
        if (fault := fence_fault(one)) is not None:
            return fault
    check = _Check()
    try:
        check.branch(txn.branch, 1)
    except _Faulty as faulty:
        return faulty.fault
    if check.operations > MAX_TXN_OPERATIONS:
        return f"too many operations in the transaction: {check.operations}, at most {MAX_TXN_OPERATIONS}"
    if check.compares > MAX_TXN_COMPARES:
        return f"too many compares in the transaction: {check.compares}, at most {MAX_TXN_COMPARES}"
    return None


class _Faulty(Exception):
    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


class _Written:
    """The keys that one way through a part of a transaction may write."""

    __slots__ = ("deletes", "puts")

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes]] = []

    def add(self, other: _Written) -> None:
        if not self.puts.isdisjoint(other.puts):
            raise _Faulty(f"key {min(self.puts & other.puts)!r:.100} is put twice in the transaction")
        self.puts |= other.puts
        self.deletes += other.deletes

    def either(self, other: _Written) -> None:
        self.puts |= other.puts
        self.deletes += other.deletes

    def check(self) -> None:
        for start, end in self.deletes:
            for key in self.puts:
                if _within(key, start, end):
                    raise _Faulty(f"key {key!r:.100} is both put and deleted in the transaction")


class _Check:
    __slots__ = ("compares", "operations")

    def __init__(self) -> None:
        self.compares = 0
        self.operations = 0

    def branch(self, branch: Branch, depth: int) -> _Written:
        if depth > MAX_TXN_DEPTH:
            raise _Faulty(f"the transaction is nested more than {MAX_TXN_DEPTH} deep")
        self.compares += len(branch.compares)
        for compare in branch.compares:
            _check_compare(compare)
        written = self.side(branch.then, depth)
        if branch.otherwise:
            written.either(self.side(branch.otherwise, depth))
        return written

    def side(self, side: tuple[TxnOperation, ...], depth: int) -> _Written:
        self.operations += len(side)
        written = _Written()
        for operation in side:
            part = _Written()
            fault: str | None = None
            match operation:
                case TxnPut(key, value):
                    fault = put_fault(key, value)
                    part.puts.add(key)
                case TxnDelete(key, range_end):
                    fault = range_fault(key, range_end)
                    part.deletes.append((key, range_end))
                case TxnRange(key, range_end):
                    fault = range_fault(key, range_end)
                case Branch():
                    part = self.branch(operation, depth + 1)
            if fault is not None:
                raise _Faulty(fault)
            written.add(part)
        if written.deletes and written.puts:
            written.check()
        return written


def _check_compare(compare: Compare) -> None:
    fault = range_fault(compare.key, compare.range_end)
    if fault is not None:
        raise _Faulty(fault)
    if compare.target not in _TARGETS:
        raise _Faulty(f"compare target {compare.target} is unknown")
    if compare.relation not in _RELATIONS:
        raise _Faulty(f"compare relation {compare.relation} is unknown")
    if isinstance(compare.operand, bytes) != (compare.target == Target.VALUE):
        raise _Faulty("a compare of the value takes bytes, any other a number")


def _within(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key if end == b"\0" else start <= key < end


# --- applying ------------------------------------------------------------------------------------------------------


def apply(writing: Writing, leases: LeaseTable, meta: Meta, txn: Txn, now_ms: int) -> TxnDone | Rejected:
    """Apply a transaction. `meta`: where the store stood before the entry; `writing` knows the present revision."""
    fault = txn_fault(txn)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    for one in txn.fences:
        refusal = fence.check(writing.writer, leases, one, now_ms)
        if refusal is not None:
            return refusal
    mark = writing.mark()
    run = _WritingRun(writing, leases, meta, now_ms)
    try:
        done = run.run(txn.branch)
    except _Refused as refused:
        writing.undo(mark)
        return refused.rejected
    return TxnDone(writing.commit(mark), done)


def read(reader: Reader, meta: Meta, txn: Txn) -> TxnDone | Rejected:
    """Run a transaction that `is_read_only` over a snapshot."""
    fault = txn_fault(txn)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    try:
        return TxnDone(meta.revision, _Run(reader, meta).run(txn.branch))
    except _Refused as refused:
        return refused.rejected


class _Refused(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.message)
        self.rejected = rejected


class _Run:
    """One transaction under way, which may only read."""

    __slots__ = ("_bytes", "_decisions", "_meta", "_reader", "_work")

    def __init__(self, reader: Reader, meta: Meta) -> None:
        self._reader = reader
        self._meta = meta
        self._work = MAX_TXN_WORK
        self._bytes = 0
        self._decisions: deque[bool] = deque()
        """Which way each branch on the way takes, in the order in which they are met."""

    def run(self, branch: Branch) -> BranchDone:
        """Raises _Refused."""
        self._decide(branch)
        return self._branch(branch)

    def _decide(self, branch: Branch) -> None:
        succeeded = all(self._holds(compare) for compare in branch.compares)
        self._decisions.append(succeeded)
        for operation in branch.then if succeeded else branch.otherwise:
            if isinstance(operation, Branch):
                self._decide(operation)

    def _branch(self, branch: Branch) -> BranchDone:
        succeeded = self._decisions.popleft()
        side = branch.then if succeeded else branch.otherwise
        return BranchDone(succeeded, tuple([self._operation(operation) for operation in side]))

    def _operation(self, operation: TxnOperation) -> OperationDone:
        if isinstance(operation, Branch):
            return self._branch(operation)
        if isinstance(operation, TxnRange):
            return self._range(operation)
        return self._write(operation)

    def _write(self, operation: TxnPut | TxnDelete) -> OperationDone:
        raise AssertionError("a transaction that writes was taken for one that only reads")

    def _revision(self) -> int:
        """The revision that a read at "now" shows."""
        return self._meta.revision

    def _holds(self, compare: Compare) -> bool:
        relation = _RELATIONS[compare.relation]
        if not compare.range_end:
            newest = live(self._reader, version_prefix(compare.key))
            if newest is None:
                return compare.target != Target.VALUE and relation(0, compare.operand)
            return relation(_target(compare, newest.revision, newest.row), compare.operand)
        keys = LiveKeys(self._reader, *range_bounds(compare.key, compare.range_end))
        keys.work = self._work
        holds = True
        while holds and (row := keys.next()) is not None:
            stored_key, value = row
            holds = relation(_target(compare, revision_of(stored_key), value), compare.operand)
        if holds and not keys.done:
            raise _Refused(_too_much_work())
        self._work = keys.work
        return holds

    def _range(self, operation: TxnRange) -> RangeDone:
        query = RangeQuery(*operation)
        try:
            scan = RangeScan(self._reader, self._meta._replace(revision=self._revision()), query)
        except RaftKVError as error:
            raise _Refused(Rejected(error.code, error.message, error.number)) from None
        if self._work <= 0 or not scan.step(self._work):
            raise _Refused(_too_much_work())
        self._work = scan.work_left()
        page = scan.result()
        self._account(page.pairs)
        return RangeDone(page.pairs, page.more, page.count)

    def _account(self, pairs: tuple[KeyValue, ...]) -> None:
        self._bytes += sum([len(pair.key) + len(pair.value) for pair in pairs])
        if self._bytes > MAX_TXN_RESULT_BYTES:
            raise _Refused(
                Rejected(
                    ErrorCode.LIMIT_EXCEEDED,
                    f"the transaction would be answered with more than {MAX_TXN_RESULT_BYTES} bytes of keys and "
                    "values; ask for fewer of them",
                )
            )


class _WritingRun(_Run):
    """One transaction under way."""

    __slots__ = ("_leases", "_mark", "_now_ms", "_writing")

    def __init__(self, writing: Writing, leases: LeaseTable, meta: Meta, now_ms: int) -> None:
        super().__init__(writing.writer, meta)
        self._writing = writing
        self._leases = leases
        self._now_ms = now_ms
        self._mark = writing.mark()

    def _revision(self) -> int:
        return self._writing.next if self._writing.mark() > self._mark else self._writing.revision

    def _write(self, operation: TxnPut | TxnDelete) -> OperationDone:
        return self._put(operation) if isinstance(operation, TxnPut) else self._delete(operation)

    def _put(self, operation: TxnPut) -> PutDone:
        lease = operation.lease
        if lease:
            if not self._leases.alive(lease, self._now_ms):
                raise _Refused(Rejected(ErrorCode.LEASE_NOT_FOUND, f"lease {lease} is unknown or has expired"))
            if not self._leases.room(lease, MAX_TXN_OPERATIONS):
                raise _Refused(
                    Rejected(
                        ErrorCode.LIMIT_EXCEEDED, f"lease {lease} has about {MAX_LEASE_KEYS} keys, the most it may have"
                    )
                )
        change = self._writing.put(version_prefix(operation.key), operation.value, lease)
        if not operation.with_previous or change.previous is None:
            return PutDone(None)
        previous = _pair(operation.key, change.previous_revision, change.previous)
        self._account((previous,))
        return PutDone(previous)

    def _delete(self, operation: TxnDelete) -> DeleteDone:
        found = mvcc.find(self._reader, operation.key, operation.range_end, max(self._work, 1))
        if isinstance(found, Rejected):
            raise _Refused(found)
        self._work -= found.work
        previous: tuple[KeyValue, ...] = ()
        if operation.with_previous:
            previous = tuple([_pair(user_key(prefix), newest.revision, newest.row) for prefix, newest in found.keys])
            self._account(previous)
        for prefix, newest in found.keys:
            self._writing.delete(prefix, newest)
        return DeleteDone(len(found.keys), previous)


def _too_much_work() -> Rejected:
    return Rejected(
        ErrorCode.LIMIT_EXCEEDED,
        f"the transaction's ranges take more than {MAX_TXN_WORK} steps, the most that one transaction may take (one "
        "for each version read, deleted keys included, and one for every 4 KiB of it); compare and read fewer keys",
    )


def _target(compare: Compare, revision: int, row: bytes) -> bytes | int:
    create_revision, version, lease = decode_version(row)
    match compare.target:
        case Target.VALUE:
            return value_of(row)
        case Target.VERSION:
            return version
        case Target.CREATE_REVISION:
            return create_revision
        case Target.MOD_REVISION:
            return revision
        case _:
            return lease


def _pair(key: bytes, revision: int, row: bytes) -> KeyValue:
    create_revision, version, lease = decode_version(row)
    return KeyValue(key, create_revision, revision, version, lease, value_of(row))
