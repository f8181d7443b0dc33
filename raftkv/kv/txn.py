"""Transactions: conditions, and operations that take effect together at one revision, or not at all.

Which way a transaction takes is decided first: all compares, nested ones too, see the state before it, as in etcd. Then
its operations run in order, and each sees what those before it wrote. A rejection anywhere undoes everything.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

from raftkv.errors import ErrorCode, RaftKVError
from raftkv.invariant import invariant
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
    TxnPut,
    TxnRange,
)
from raftkv.kv.keys import range_bounds, revision_of, user_key, version_prefix, version_suffix
from raftkv.kv.lease import LeaseTable, not_found
from raftkv.kv.limits import MAX_LEASE_KEYS, MAX_TXN_OPERATIONS, MAX_TXN_RESULT_BYTES, MAX_TXN_WORK
from raftkv.kv.ranges import LiveKeys, RangeQuery, RangeScan
from raftkv.kv.records import EMPTY_META, VERSION_BYTES, decode_version
from raftkv.kv.store import Reader
from raftkv.kv.txn_check import txn_fault
from raftkv.kv.versions import WHOLE_ROW_BYTES, Row, newest_head, pair_of, size_of, value_of
from raftkv.kv.writing import Writing

_RELATIONS: Final[dict[int, Callable[[Any, Any], bool]]] = {
    int(Relation.EQUAL): operator.eq,
    int(Relation.NOT_EQUAL): operator.ne,
    int(Relation.LESS): operator.lt,
    int(Relation.GREATER): operator.gt,
}
_VALUE: Final = int(Target.VALUE)
_VERSION: Final = int(Target.VERSION)
_CREATE_REVISION: Final = int(Target.CREATE_REVISION)
_MOD_REVISION: Final = int(Target.MOD_REVISION)

# As TxnDone(...) and so on, at half the cost: every transaction of every node comes here.
_new_tuple: Final = tuple.__new__

Way = tuple[bool, "Sequence[TxnPut | TxnDelete | TxnRange | Way]"]
"""What a branch comes to: whether its compares hold, and the operations of that side; of nested branches their ways."""


def apply(writing: Writing, leases: LeaseTable, compacted_revision: int, txn: Txn, now_ms: int) -> TxnDone | Rejected:
    """Apply a transaction to a store whose history begins at `compacted_revision`, at cluster time `now_ms`."""
    fault = txn_fault(txn)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    for one in txn.fences:
        refusal = fence.check(writing.writer, leases, one, now_ms)
        if refusal is not None:
            return refusal
    mark = writing.mark()
    run = _WritingRun(writing, mark, leases, compacted_revision, now_ms)
    try:
        done = run.run(txn.branch)
    except _Refused as refused:
        writing.undo(mark)
        return refused.rejected
    return _new_tuple(TxnDone, (writing.commit(mark), done))


def read_bytes(done: BranchDone) -> int:
    """Return how many bytes of values a result holds."""
    if done is _ONE_PUT_DONE[0] or done is _ONE_PUT_DONE[1]:
        return 0
    size = 0
    for one in done.results:
        if isinstance(one, PutDone):
            if one.previous is not None:
                size += len(one.previous.value)
        elif isinstance(one, RangeDone):
            size += sum([len(pair.value) for pair in one.pairs])
        elif isinstance(one, DeleteDone):
            size += sum([len(pair.value) for pair in one.previous])
        else:
            size += read_bytes(one)
    return size


def read(reader: Reader, revision: int, compacted_revision: int, txn: Txn) -> TxnDone | Rejected:
    """Run a transaction that `txn_check.is_read_only` over a snapshot."""
    fault = txn_fault(txn)
    if fault is not None:
        return Rejected(ErrorCode.INVALID_ARGUMENT, fault)
    try:
        return TxnDone(revision, _Run(reader, revision, compacted_revision).run(txn.branch))
    except _Refused as refused:
        return refused.rejected


class _Refused(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.message)
        self.rejected = rejected


class _Run:
    """One transaction under way, which may only read."""

    __slots__ = ("_bytes", "_compacted_revision", "_reader", "_revision", "_work")

    def __init__(self, reader: Reader, revision: int, compacted_revision: int) -> None:
        self._reader = reader
        self._revision = revision
        self._compacted_revision = compacted_revision
        self._work = MAX_TXN_WORK
        self._bytes = 0

    def run(self, branch: Branch) -> BranchDone:
        """Raises _Refused."""
        return self._perform(self._decide(branch))

    def _decide(self, branch: Branch) -> Way:
        compares, side, otherwise = branch
        succeeded = True
        for compare in compares:
            if not self._holds(compare):
                succeeded, side = False, otherwise
                break
        for one in side:
            if type(one) is Branch:
                return succeeded, [self._decide(one) if isinstance(one, Branch) else one for one in side]
        return succeeded, side  # type: ignore[return-value]  # no branch is in there

    def _perform(self, way: Way) -> BranchDone:
        succeeded, side = way
        # Most are puts, and need not be asked further.
        done = [self._put(one) if type(one) is TxnPut else self._operation(one) for one in side]
        if len(done) == 1 and done[0] is _PUT_DONE:
            return _ONE_PUT_DONE[succeeded]
        return _new_tuple(BranchDone, (succeeded, tuple(done)))

    def _operation(self, operation: TxnPut | TxnDelete | TxnRange | Way) -> OperationDone:
        if isinstance(operation, TxnPut):
            return self._put(operation)
        if isinstance(operation, TxnDelete):
            return self._delete(operation)
        if isinstance(operation, TxnRange):
            return self._range(operation)
        return self._perform(operation)

    def _put(self, operation: TxnPut) -> PutDone:
        raise AssertionError("a transaction that writes was taken for one that only reads")

    def _delete(self, operation: TxnDelete) -> DeleteDone:
        raise AssertionError("a transaction that writes was taken for one that only reads")

    def _now(self) -> int:
        """The revision that a read at "now" shows."""
        return self._revision

    def _holds(self, compare: Compare) -> bool:
        key, range_end, target, relation_of, operand = compare
        relation = _RELATIONS[relation_of]
        if not range_end:
            newest = self._find(key, operand)
            if newest is None or not decode_version(newest[1])[1]:  # a tombstone
                return target != _VALUE and relation(0, operand)
            return relation(_subject(target, revision_of(newest[0]), newest[1]), operand)
        keys = LiveKeys(self._reader, *range_bounds(key, range_end))
        keys.work = self._work
        holds, found = True, False
        while holds and (row := keys.next()) is not None:
            found = True
            stored_key, value = row
            holds = relation(_subject(target, revision_of(stored_key), value), operand)
        if holds and not keys.done:
            raise _Refused(_too_much_work())
        self._work = keys.work
        if found:
            return holds
        # As in etcd, also for an empty range: there is no value then, so that "not equal" does not hold either.
        return target != _VALUE and relation(0, operand)

    def _find(self, key: bytes, operand: bytes | int) -> tuple[bytes, bytes, int] | None:
        """Return so much of the newest row of a key as must be known to compare it."""
        return newest_head(self._reader, version_prefix(key), most=_compared_bytes(operand))

    def _range(self, operation: TxnRange) -> RangeDone:
        query = RangeQuery(*operation)
        try:
            extent = EMPTY_META._replace(revision=self._now(), compacted_revision=self._compacted_revision)
            scan = RangeScan(self._reader, extent, query)
        except RaftKVError as error:
            raise _Refused(Rejected(error.code, error.message, error.number)) from None
        if self._work <= 0 or not scan.step(self._work):
            raise _Refused(_too_much_work())
        self._work = scan.work_left()
        page = scan.result()
        self._account(sum([len(pair.key) + len(pair.value) for pair in page.pairs]))
        return RangeDone(page.pairs, page.more, page.count)

    def _account(self, size: int) -> None:
        """Keys and values of so many bytes are to be part of the result."""
        self._bytes += size
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

    __slots__ = ("_compared", "_found", "_leases", "_mark", "_now_ms", "_prefix", "_writing")

    def __init__(self, writing: Writing, mark: int, leases: LeaseTable, compacted_revision: int, now_ms: int) -> None:
        # As super().__init__(...), at half its cost.
        self._reader = writing.writer
        self._revision = writing.revision
        self._compacted_revision = compacted_revision
        self._work = MAX_TXN_WORK
        self._bytes = 0
        self._writing = writing
        self._mark = mark
        self._leases = leases
        self._now_ms = now_ms
        self._compared = b""
        """The key that was compared last (none is empty), most often the very one that is put then; its prefix, and
        what was found there.

        Nothing is written before all is compared, and a key is written once: so it is still there.
        """
        self._prefix = b""
        self._found: tuple[bytes, bytes, int] | None = None

    def _now(self) -> int:
        return self._writing.next if self._writing.mark() > self._mark else self._revision

    def _find(self, key: bytes, operand: bytes | int) -> tuple[bytes, bytes, int] | None:
        self._compared = key
        self._prefix = prefix = version_prefix(key)
        self._found = found = newest_head(self._reader, prefix, most=_compared_bytes(operand))
        return found

    def _put(self, operation: TxnPut) -> PutDone:
        key, value, lease, with_previous = operation
        if lease:
            if not self._leases.alive(lease, self._now_ms):
                raise _Refused(not_found(lease))
            if not self._leases.room(lease, MAX_TXN_OPERATIONS):
                raise _Refused(
                    Rejected(
                        ErrorCode.LIMIT_EXCEEDED, f"lease {lease} has about {MAX_LEASE_KEYS} keys, the most it may have"
                    )
                )
        if key == self._compared:
            change = self._writing.put(self._prefix, value, lease, self._found)
        else:
            change = self._writing.put(version_prefix(key), value, lease)
        if not with_previous or change.previous is None:
            return _PUT_DONE  # this very object: see _perform
        self._account(len(key) + size_of(change.previous) - VERSION_BYTES)
        return PutDone(self._pair(change.prefix, change.previous_revision, change.previous))

    def _delete(self, operation: TxnDelete) -> DeleteDone:
        found = mvcc.find(self._reader, operation.key, operation.range_end, max(self._work, 1))
        if isinstance(found, Rejected):
            raise _Refused(found)
        self._work -= found.work
        previous: tuple[KeyValue, ...] = ()
        if operation.with_previous:
            for prefix, newest in found.keys:
                self._account(len(user_key(prefix)) + size_of(newest.row) - VERSION_BYTES)
            previous = tuple([self._pair(prefix, *newest) for prefix, newest in found.keys])
        for prefix, newest in found.keys:
            self._writing.delete(prefix, newest)
        return DeleteDone(len(found.keys), previous)

    def _pair(self, prefix: bytes, revision: int, row: Row) -> KeyValue:
        """Return a version that is there, the large value of a `LongRow` included: only of what was accounted for."""
        if not isinstance(row, bytes):
            whole = self._reader.get(prefix + version_suffix(revision))
            invariant(whole is not None, "the version of revision {} of {} is gone", revision, prefix)
            assert whole is not None
            row = whole
        return pair_of(user_key(prefix), revision, row)


_PUT_DONE: Final = PutDone(None)
_ONE_PUT_DONE: Final = (BranchDone(False, (_PUT_DONE,)), BranchDone(True, (_PUT_DONE,)))
"""What most transactions come to, by whether the compares held: sessions remember many of these, and they are one."""


def _compared_bytes(operand: bytes | int) -> int:
    """Return how many bytes of a row decide a compare: a value is ordered by no more of it than one byte beyond what
    it is compared with. What a put of the key asks for is among them."""
    if isinstance(operand, bytes):
        return max(WHOLE_ROW_BYTES, VERSION_BYTES + len(operand) + 1)
    return WHOLE_ROW_BYTES


def _too_much_work() -> Rejected:
    return Rejected(
        ErrorCode.LIMIT_EXCEEDED,
        f"the transaction's ranges take more than {MAX_TXN_WORK} steps, the most that one transaction may take (one "
        "for each version read, deleted keys included, and one for every 4 KiB of it); compare and read fewer keys",
    )


def _subject(target: int, revision: int, row: bytes) -> bytes | int:
    """Return what of a version is compared."""
    if target == _VALUE:
        return value_of(row)
    if target == _MOD_REVISION:
        return revision
    create_revision, version, lease = decode_version(row)
    if target == _VERSION:
        return version
    return create_revision if target == _CREATE_REVISION else lease
