"""Transactions, put together as one says them.

    client.txn().when(version("a") == 0).then(put("a", "1")).otherwise(get("a")).commit()

Conditions: `value`, `version`, `create_revision`, `mod_revision` and `lease_of`, compared with ==, !=, <, >, and
numbers with <=, >= too. Operations: `put`, `get`, `get_range`, `get_prefix`, `count`, `delete`, `delete_range`,
`delete_prefix`, and
`when(...).then(...).otherwise(...)` within. Everything here is a value: nothing happens before `commit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn, Self

from raftkv.client import wire
from raftkv.client.results import Guarantee, PutResult, RangeResult, TxnOutcome, TxnResult
from raftkv.client.spans import Span, between, one_key, selected, to_bytes, under
from raftkv.client.tokens import Fences, FencingToken, fences_of
from raftkv.client.wire_lease import LeaseLike, lease_id
from raftkv.errors import InvalidArgument, RaftKVError
from raftkv.v1 import kv_pb2

MAX_OPERATIONS: Final = 128
MAX_COMPARES: Final = 128
MAX_DEPTH: Final = 8
_MAX_U64: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Condition:
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
        return Condition(self._span, self._target, relation, operand)


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

    On a range the condition must hold for each key, and holds where there is none.

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


class _Shape(Enum):
    """What the answer to an operation is turned into."""

    PUT = "put"
    DELETE = "delete"
    PAIR = "pair"
    PAGE = "page"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a transaction."""

    request: kv_pb2.Operation
    shape: _Shape


def put(key: bytes | str, value: bytes | str, *, lease: LeaseLike = None, previous: bool = False) -> Operation:
    """Set `key`; the result is a PutResult. `lease`, `previous` as in AsyncClient.put.

    Example::

        await client.txn().then(put("a", "1"), put("b", "2", previous=True)).commit()
    """
    request = wire.put_operation(to_bytes(key), to_bytes(value), lease=lease_id(lease), previous=previous)
    return Operation(request, _Shape.PUT)


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
    return Operation(wire.range_operation(one_key(key), revision=revision), _Shape.PAIR)


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
    return Operation(wire.range_operation(under(prefix), revision=revision, count_only=True), _Shape.COUNT)


@dataclass(frozen=True, slots=True)
class Branch:
    """If all `conditions` hold, `success`, else `failure`. Not changed by its methods: they return another one."""

    conditions: tuple[Condition, ...] = ()
    success: tuple[Operation | Branch, ...] = ()
    failure: tuple[Operation | Branch, ...] = ()

    def when(self, *conditions: Condition) -> Self:
        """Add conditions. All must hold; none at all hold."""
        for one in conditions:
            if not isinstance(one, Condition):
                raise InvalidArgument(f'when() takes conditions, as version("a") == 0, not {one!r}')
        return self._but(conditions=(*self.conditions, *conditions))

    def then(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when all conditions hold."""
        return self._but(success=(*self.success, *_operations("then", operations)))

    def otherwise(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when a condition does not hold."""
        return self._but(failure=(*self.failure, *_operations("otherwise", operations)))

    def _but(
        self,
        *,
        conditions: tuple[Condition, ...] | None = None,
        success: tuple[Operation | Branch, ...] | None = None,
        failure: tuple[Operation | Branch, ...] | None = None,
    ) -> Self:
        return type(self)(
            self.conditions if conditions is None else conditions,
            self.success if success is None else success,
            self.failure if failure is None else failure,
        )


def when(*conditions: Condition) -> Branch:
    """Begin a transaction within one: `.then(put("a", "1"), when(version("b") == 0).then(put("b", "1")))`.

    Example::

        await client.txn().then(put("a", "1"), when(version("b") == 0).then(put("b", "1"))).commit()
    """
    return Branch().when(*conditions)


def to_operation(branch: Branch, fence: Fences = None) -> kv_pb2.Operation:
    """Return a transaction as a message, without its id. Raises InvalidArgument where a limit is broken."""
    _check(branch)
    fences: tuple[FencingToken, ...] = fences_of(fence)
    request = kv_pb2.TxnRequest(branch=_to_branch(branch), fences=wire.to_fences(fences))
    wire.check_size(request.ByteSize())
    return kv_pb2.Operation(txn=request)


def reads_only(branch: Branch) -> bool:
    """Whether nothing is written on any way through it."""
    return all(one.shape not in (_Shape.PUT, _Shape.DELETE) for one in _leaves(branch))


def to_result(branch: Branch, answer: kv_pb2.TxnResponse) -> TxnResult:
    """Decode the answer to a transaction."""
    return _to_branch_result(branch, answer.branch, answer.revision)


def _operations(name: str, operations: tuple[Operation | Branch, ...]) -> tuple[Operation | Branch, ...]:
    for one in operations:
        if not isinstance(one, Operation | Branch):
            raise InvalidArgument(f'{name}() takes operations, as put("a", "1"), or when(...), not {one!r}')
    return operations


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
    return Operation(wire.delete_operation(span, previous=previous), _Shape.DELETE)


def _page(span: Span, limit: int, revision: int, *, keys_only: bool) -> Operation:
    request = wire.range_operation(span, limit=limit, revision=revision, keys_only=keys_only)
    return Operation(request, _Shape.PAGE)


def _leaves(branch: Branch) -> Iterator[Operation]:
    for one in (*branch.success, *branch.failure):
        if isinstance(one, Branch):
            yield from _leaves(one)
        else:
            yield one


def _check(branch: Branch) -> None:
    depth, operations, compares = _measure(branch)
    for name, found, most in (
        ("nested branches", depth, MAX_DEPTH),
        ("operations", operations, MAX_OPERATIONS),
        ("conditions", compares, MAX_COMPARES),
    ):
        if found > most:
            raise InvalidArgument(f"the transaction has {found} {name}, at most {most}")


def _measure(branch: Branch) -> tuple[int, int, int]:
    """Return how deep it is, and how many operations and conditions it has."""
    depth, operations, compares = 0, 0, len(branch.conditions)
    for one in (*branch.success, *branch.failure):
        operations += 1
        if isinstance(one, Branch):
            inner = _measure(one)
            depth = max(depth, inner[0])
            operations += inner[1]
            compares += inner[2]
    return depth + 1, operations, compares


def _to_branch(branch: Branch) -> kv_pb2.TxnBranch:
    return kv_pb2.TxnBranch(
        compares=[_to_compare(one) for one in branch.conditions],
        then=[_to_txn_operation(one) for one in branch.success],
        otherwise=[_to_txn_operation(one) for one in branch.failure],
    )


def _to_compare(one: Condition) -> kv_pb2.Compare:
    compare = kv_pb2.Compare(key=one.span.key, range_end=one.span.range_end, target=one.target, relation=one.relation)
    if isinstance(one.operand, bytes):
        compare.value = one.operand
    else:
        compare.number = one.operand
    return compare


def _to_txn_operation(one: Operation | Branch) -> kv_pb2.TxnOperation:
    if isinstance(one, Branch):
        return kv_pb2.TxnOperation(branch=_to_branch(one))
    match one.shape:
        case _Shape.PUT:
            return kv_pb2.TxnOperation(put=one.request.put)
        case _Shape.DELETE:
            return kv_pb2.TxnOperation(delete=one.request.delete)
        case _:
            return kv_pb2.TxnOperation(range=one.request.range)


def _to_branch_result(branch: Branch, answer: kv_pb2.TxnBranchResult, revision: int) -> TxnResult:
    asked = branch.success if answer.succeeded else branch.failure
    if len(asked) != len(answer.results):
        raise RaftKVError(f"{len(asked)} operations were asked for, and {len(answer.results)} are answered")
    outcomes = (_to_outcome(*pair, revision) for pair in zip(asked, answer.results, strict=True))
    return TxnResult(revision, answer.succeeded, tuple(outcomes))


def _to_outcome(asked: Operation | Branch, answer: kv_pb2.TxnOperationResult, revision: int) -> TxnOutcome:
    if isinstance(asked, Branch):
        return _to_branch_result(asked, answer.branch, revision)
    match asked.shape:
        case _Shape.PUT:
            return PutResult(revision, wire.to_put_result(answer.put).previous)
        case _Shape.DELETE:
            return wire.to_delete_result(answer.delete, revision)
        case _Shape.COUNT:
            return answer.range.count
        case _Shape.PAIR:
            found = answer.range.kvs
            return wire.to_key_value(found[0], Guarantee.LINEARIZABLE) if found else None
        case _Shape.PAGE:
            return _to_page(answer.range, revision)


def _to_page(answer: kv_pb2.RangeResponse, revision: int) -> RangeResult:
    pairs = tuple(wire.to_key_value(pair, Guarantee.LINEARIZABLE) for pair in answer.kvs)
    return RangeResult(pairs, answer.more, answer.count, answer.revision or revision, Guarantee.LINEARIZABLE)
