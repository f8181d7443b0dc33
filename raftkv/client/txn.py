"""Transactions, put together as one says them.

    client.txn().when(version("a") == 0).then(put("a", "1")).otherwise(get("a")).commit()

Conditions: `value`, `version`, `create_revision`, `mod_revision` and `lease_of`, compared with ==, !=, <, >, and
numbers with <=, >= too. Operations: `put`, `get`, `get_range`, `get_prefix`, `count`, `delete`, `delete_range`,
`delete_prefix`, and
`when(...).then(...).otherwise(...)` within. Everything here is a value: nothing happens before `commit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn, Self

from raftkv.client import wire
from raftkv.client.levels import Concern
from raftkv.client.receipts import UNTOLD_WRITE, WriteReceipt
from raftkv.client.results import DeleteResult, KeyValue, PutResult, RangeResult, TxnOutcome, TxnResult
from raftkv.client.spans import Span, between, one_key, selected, to_bytes, under
from raftkv.client.tokens import Fences, fences_of
from raftkv.client.wire_lease import LeaseLike, lease_id
from raftkv.errors import InvalidArgument, RaftKVError
from raftkv.quorum import Guarantee, parse_concern
from raftkv.v1 import kv_pb2

MAX_OPERATIONS: Final = 128
MAX_COMPARES: Final = 128
MAX_DEPTH: Final = 8
_MAX_U64: Final = 2**64 - 1


# As Condition(...) and so on, at half the cost: programs make these values anew for every transaction.
_new_tuple: Final = tuple.__new__


class Condition(NamedTuple):
    """A comparison that holds or does not, judged on the state before the transaction. On a range: for each of its
    keys."""

    span: Span
    target: kv_pb2.Compare.Target.ValueType
    relation: kv_pb2.Compare.Relation.ValueType
    operand: bytes | int

    def __bool__(self) -> NoReturn:
        raise InvalidArgument(
            "a condition is for when(...) and has no truth of its own: "
            "conditions cannot be chained (1 < x < 5) nor joined by `and`; give when() several"
        )


class _Subject:
    """One side of a condition: something of a key, or of every key of a range."""

    __slots__ = ("_span", "_target")

    def __init__(self, span: Span, target: kv_pb2.Compare.Target.ValueType) -> None:
        self._span = span
        self._target = target

    def _compare(self, relation: kv_pb2.Compare.Relation.ValueType, operand: bytes | int) -> Condition:
        return _new_tuple(Condition, (self._span, self._target, relation, operand))


class ValueOf(_Subject):
    """The value of a key. A key that does not exist has none: the condition fails."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ()

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.EQUAL, _value(other))

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.NOT_EQUAL, _value(other))

    def __lt__(self, other: bytes | str) -> Condition:
        return self._compare(kv_pb2.Compare.LESS, _value(other))

    def __gt__(self, other: bytes | str) -> Condition:
        return self._compare(kv_pb2.Compare.GREATER, _value(other))


class NumberOf(_Subject):
    """A number of a key: its version, a revision, or its lease. A key that does not exist has 0."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ()

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.EQUAL, _number(other))

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.NOT_EQUAL, _number(other))

    def __lt__(self, other: int) -> Condition:
        return self._compare(kv_pb2.Compare.LESS, _number(other))

    def __gt__(self, other: int) -> Condition:
        return self._compare(kv_pb2.Compare.GREATER, _number(other))

    def __le__(self, other: int) -> Condition:
        number = _number(other)
        if number == _MAX_U64:
            raise InvalidArgument(f"<= {number} always holds")
        return self._compare(kv_pb2.Compare.LESS, number + 1)

    def __ge__(self, other: int) -> Condition:
        number = _number(other)
        if number == 0:
            raise InvalidArgument(">= 0 always holds")
        return self._compare(kv_pb2.Compare.GREATER, number - 1)


class LeaseOf(NumberOf):
    """The lease of a key: compared with a lease, its id, or 0 for none."""

    __hash__ = None
    __slots__ = ()

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.EQUAL, _lease(other))

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return self._compare(kv_pb2.Compare.NOT_EQUAL, _lease(other))


def value(
    key: bytes | str | None = None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> ValueOf:
    """The value of `key`, or of every key under `prefix` or in [start, end): `value("a") == "1"`.

    On a range the condition must hold for each key; one without keys is like a key that does not exist.

    Example::

        await client.txn().when(value("a") == "1", value(prefix="b/") != "").then(put("a", "2")).commit()
    """
    return ValueOf(selected(key, prefix=prefix, start=start, end=end), kv_pb2.Compare.VALUE)


def version(
    key: bytes | str | None = None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> NumberOf:
    """How often `key` was written since it was created: `version("a") == 0` says that it does not exist. As `value`.

    Example::

        await client.txn().when(version("a") == 0).then(put("a", "1")).commit()
    """
    return NumberOf(selected(key, prefix=prefix, start=start, end=end), kv_pb2.Compare.VERSION)


def create_revision(
    key: bytes | str | None = None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> NumberOf:
    """The revision at which `key` was created; 0: it does not exist. As `value`.

    Example::

        await client.txn().when(create_revision(prefix="jobs/") > 100).then(delete_prefix("jobs/")).commit()
    """
    return NumberOf(selected(key, prefix=prefix, start=start, end=end), kv_pb2.Compare.CREATE_REVISION)


def mod_revision(
    key: bytes | str | None = None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> NumberOf:
    """The revision at which `key` was last written; 0: it does not exist. As `value`.

    Example::

        written = await client.put("a", "1")
        await client.txn().when(mod_revision("a") == written.revision).then(put("a", "2")).commit()
    """
    return NumberOf(selected(key, prefix=prefix, start=start, end=end), kv_pb2.Compare.MOD_REVISION)


def lease_of(
    key: bytes | str | None = None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> LeaseOf:
    """The lease that `key` is attached to: `lease_of("a") == lease`; 0: none. As `value`.

    Example::

        async with client.lease() as lease:
            await client.txn().when(lease_of("a") == 0).then(put("a", "1", lease=lease)).commit()
    """
    return LeaseOf(selected(key, prefix=prefix, start=start, end=end), kv_pb2.Compare.LEASE)


class Operation(NamedTuple):
    """One operation of a transaction."""

    request: kv_pb2.TxnOperation
    to_outcome: Callable[[kv_pb2.TxnOperationResult, int, WriteReceipt], TxnOutcome]
    """Decodes the answer to it, given the revision and the receipt of the transaction."""
    writes: bool


def put(key: bytes | str, value: bytes | str, *, lease: LeaseLike = None, previous: bool = False) -> Operation:
    """Set `key`; the result is a PutResult. `lease`, `previous` as in AsyncClient.put.

    Example::

        await client.txn().then(put("a", "1"), put("b", "2", previous=True)).commit()
    """
    request = kv_pb2.TxnOperation()
    wire.fill_put(request.put, to_bytes(key), to_bytes(value), lease=lease_id(lease), previous=previous)
    return _new_tuple(Operation, (request, _put_outcome, True))


def delete(key: bytes | str, *, previous: bool = False) -> Operation:
    """Remove `key`; the result is a DeleteResult.

    Example::

        await client.txn().when(value("a") == "1").then(delete("a")).commit()
    """
    return _delete(one_key(key), previous=previous)


def delete_range(start: bytes | str, end: bytes | str | None, *, previous: bool = False) -> Operation:
    """Remove the keys in [start, end); `end` None: all from `start` on. The result is a DeleteResult.

    Example::

        await client.txn().then(delete_range("a", "c"), put("d", "1")).commit()
    """
    return _delete(between(start, end), previous=previous)


def delete_prefix(prefix: bytes | str, *, previous: bool = False) -> Operation:
    """Remove the keys that begin with `prefix` (empty: all). The result is a DeleteResult.

    Example::

        await client.txn().then(delete_prefix("old/"), put("new/a", "1")).commit()
    """
    return _delete(under(prefix), previous=previous)


def get(key: bytes | str, *, revision: int = 0) -> Operation:
    """Read `key`, as the operations before this one left it; the result is a KeyValue or None. `revision` 0: now.

    Example::

        a, b = (await client.txn().then(get("a"), get("b")).commit()).results
    """
    request = kv_pb2.TxnOperation()
    wire.fill_range(request.range, one_key(key), revision=revision)
    return Operation(request, _pair_outcome, writes=False)


def get_range(
    start: bytes | str, end: bytes | str | None, *, limit: int = 0, revision: int = 0, keys_only: bool = False
) -> Operation:
    """Read the keys in [start, end), in order; `end` None: all from `start` on. The result is a RangeResult, one page.

    `limit`: at most so many pairs; 0: as many as a page holds.

    Example::

        (page,) = (await client.txn().then(get_range("a", "c", limit=10)).commit()).results
    """
    return _page(between(start, end), limit, revision, keys_only=keys_only)


def get_prefix(prefix: bytes | str, *, limit: int = 0, revision: int = 0, keys_only: bool = False) -> Operation:
    """Read the keys that begin with `prefix` (empty: all). As `get_range`.

    Example::

        (page,) = (await client.txn().then(get_prefix("users/", keys_only=True)).commit()).results
    """
    return _page(under(prefix), limit, revision, keys_only=keys_only)


def count(prefix: bytes | str = b"", *, revision: int = 0) -> Operation:
    """Count the keys that begin with `prefix` (empty: all); the result is an int.

    Example::

        await client.txn().when(version("seats/7") == 0).then(put("seats/7", "Ada"), count("seats/")).commit()
    """
    request = kv_pb2.TxnOperation()
    wire.fill_range(request.range, under(prefix), revision=revision, count_only=True)
    return Operation(request, _count_outcome, writes=False)


class Branch(NamedTuple):
    """If all `conditions` hold, `success`, else `failure`. Not changed by its methods: they return another one."""

    conditions: tuple[Condition, ...] = ()
    success: tuple[Operation | Branch, ...] = ()
    failure: tuple[Operation | Branch, ...] = ()

    def when(self, *conditions: Condition) -> Self:
        """Add conditions. All must hold; none at all hold."""
        for one in conditions:
            if not isinstance(one, Condition):
                raise InvalidArgument(f'when() takes conditions, as version("a") == 0, not {one!r}')
        before, success, failure = self
        return _new_tuple(type(self), ((*before, *conditions), success, failure))

    def then(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when all conditions hold."""
        _check_operations("then", operations)
        conditions, before, failure = self
        return _new_tuple(type(self), (conditions, (*before, *operations), failure))

    def otherwise(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when a condition does not hold."""
        _check_operations("otherwise", operations)
        conditions, success, before = self
        return _new_tuple(type(self), (conditions, success, (*before, *operations)))


def when(*conditions: Condition) -> Branch:
    """Begin a transaction within one: `.then(put("a", "1"), when(version("b") == 0).then(put("b", "1")))`.

    Example::

        await client.txn().then(put("a", "1"), when(version("b") == 0).then(put("b", "1"))).commit()
    """
    return Branch().when(*conditions)


class Request(NamedTuple):
    """A transaction as it is sent, without its id."""

    operation: kv_pb2.Operation
    size_bytes: int
    writes: bool
    """It has fences, or an operation that writes, on whichever way through it. Else it is a read."""


def to_request(branch: Branch, fence: Fences = None, concern: Concern = None) -> Request:
    """Encode a transaction. Raises InvalidArgument where a limit is broken."""
    operation = kv_pb2.Operation()
    txn = operation.txn
    encoder = _Encoder()
    encoder.branch(branch, txn.branch, 1)
    encoder.check()
    fences = fences_of(fence)
    if fences:
        txn.fences.extend(wire.to_fences(fences))
    if concern is not None:
        txn.write_concern = parse_concern(concern)
    size_bytes = operation.ByteSize()
    wire.check_size(size_bytes)
    return Request(operation, size_bytes, encoder.writes or bool(fences))


def to_result(branch: Branch, answer: kv_pb2.TxnResponse, receipt: WriteReceipt = UNTOLD_WRITE) -> TxnResult:
    """Decode the answer to a transaction."""
    return _to_branch_result(branch, answer.branch, answer.revision, receipt)


def _check_operations(name: str, operations: tuple[Operation | Branch, ...]) -> None:
    for one in operations:
        if not isinstance(one, (Operation, Branch)):  # "|" would be put together at each call
            raise InvalidArgument(f'{name}() takes operations, as put("a", "1"), or when(...), not {one!r}')


def _value(operand: object) -> bytes:
    if isinstance(operand, bytes | str):
        return to_bytes(operand)
    raise InvalidArgument(f"a value is compared with bytes or str, not with {operand!r}")


def _number(operand: object) -> int:
    if isinstance(operand, bool) or not isinstance(operand, int) or not 0 <= operand <= _MAX_U64:
        raise InvalidArgument(f"compared with {operand!r}, not with a number from 0 to 2**64 - 1")
    return operand


def _lease(operand: object) -> int:
    return _number(operand if isinstance(operand, int) else getattr(operand, "id", operand))


def _delete(span: Span, *, previous: bool) -> Operation:
    request = kv_pb2.TxnOperation()
    wire.fill_delete(request.delete, span, previous=previous)
    return Operation(request, _delete_outcome, writes=True)


def _page(span: Span, limit: int, revision: int, *, keys_only: bool) -> Operation:
    request = kv_pb2.TxnOperation()
    wire.fill_range(request.range, span, limit=limit, revision=revision, keys_only=keys_only)
    return Operation(request, _page_outcome, writes=False)


class _Encoder:
    """Writes branches into their messages, and notes on the way what must be known of the whole."""

    __slots__ = ("_compares", "_depth", "_operations", "writes")

    def __init__(self) -> None:
        self.writes = False
        self._depth = self._operations = self._compares = 0

    def branch(self, branch: Branch, target: kv_pb2.TxnBranch, depth: int) -> None:
        conditions, success, failure = branch
        target.SetInParent()  # an empty one is one, too
        self._depth = max(self._depth, depth)
        if conditions:
            self._compares += len(conditions)
            add = target.compares.add
            for condition in conditions:
                _fill_compare(add(), condition)
        if success:
            self._side(success, target.then.add, depth)
        if failure:
            self._side(failure, target.otherwise.add, depth)

    def _side(
        self, operations: tuple[Operation | Branch, ...], add: Callable[[], kv_pb2.TxnOperation], depth: int
    ) -> None:
        self._operations += len(operations)
        for one in operations:
            if isinstance(one, Branch):
                self.branch(one, add().branch, depth + 1)
            else:
                add().CopyFrom(one.request)
                self.writes = self.writes or one.writes

    def check(self) -> None:
        """Raise InvalidArgument where a limit is broken."""
        for name, found, most in (
            ("nested branches", self._depth, MAX_DEPTH),
            ("operations", self._operations, MAX_OPERATIONS),
            ("conditions", self._compares, MAX_COMPARES),
        ):
            if found > most:
                raise InvalidArgument(f"the transaction has {found} {name}, at most {most}")


def _fill_compare(compare: kv_pb2.Compare, condition: Condition) -> None:
    (key, range_end), target, relation, operand = condition
    compare.key = key
    if range_end:
        compare.range_end = range_end
    compare.target = target
    compare.relation = relation
    if isinstance(operand, bytes):
        compare.value = operand
    else:
        compare.number = operand


def _to_branch_result(
    branch: Branch, answer: kv_pb2.TxnBranchResult, revision: int, receipt: WriteReceipt
) -> TxnResult:
    succeeded, answers = answer.succeeded, answer.results
    asked = branch.success if succeeded else branch.failure
    if len(asked) != len(answers):
        raise RaftKVError(f"{len(asked)} operations were asked for, and {len(answers)} are answered")
    outcomes = [
        _to_branch_result(one, answer.branch, revision, receipt)
        if isinstance(one, Branch)
        else one.to_outcome(answer, revision, receipt)
        for one, answer in zip(asked, answers, strict=True)
    ]
    return TxnResult(revision, succeeded, tuple(outcomes), receipt)


def _put_outcome(answer: kv_pb2.TxnOperationResult, revision: int, receipt: WriteReceipt) -> PutResult:
    return wire.to_put_result(answer.put, receipt, revision)


def _delete_outcome(answer: kv_pb2.TxnOperationResult, revision: int, receipt: WriteReceipt) -> DeleteResult:
    return wire.to_delete_result(answer.delete, receipt, revision)


def _count_outcome(answer: kv_pb2.TxnOperationResult, _: int, __: WriteReceipt) -> int:
    return answer.range.count


def _pair_outcome(answer: kv_pb2.TxnOperationResult, _: int, __: WriteReceipt) -> KeyValue | None:
    found = answer.range.kvs
    return wire.to_key_value(found[0], Guarantee.LINEARIZABLE) if found else None


def _page_outcome(answer: kv_pb2.TxnOperationResult, revision: int, _: WriteReceipt) -> RangeResult:
    page = answer.range
    pairs = tuple(wire.to_key_value(pair, Guarantee.LINEARIZABLE) for pair in page.kvs)
    return RangeResult(pairs, page.more, page.count, page.revision or revision, Guarantee.LINEARIZABLE)
