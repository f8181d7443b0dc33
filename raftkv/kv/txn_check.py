"""What can be said of a transaction without the state: whether it makes sense, and whether it can change anything.

Asked before a transaction is proposed, and again where it is applied, on every node: it is on the path of every
transaction several times.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from raftkv.kv.commands import (
    Branch,
    Compare,
    Relation,
    Target,
    Txn,
    TxnDelete,
    TxnOperation,
    TxnPut,
)
from raftkv.kv.limits import (
    MAX_FENCES,
    MAX_TXN_COMPARES,
    MAX_TXN_DEPTH,
    MAX_TXN_OPERATIONS,
    MAX_VALUE_BYTES,
    PLAIN_KEY_BYTES,
    fence_fault,
    put_fault,
    range_fault,
)

_TARGETS: Final = frozenset(map(int, Target))
_RELATIONS: Final = frozenset(map(int, Relation))


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
    return None if _plainly_good(txn) else _look_closely(txn)


def _plainly_good(txn: Txn) -> bool:
    """Whether a transaction is one of most: so simple that there is little to get wrong, and nothing wrong with it.

    Compares of single keys, and nothing but puts on either side. False says nothing: such a one is looked at closely,
    which also finds the words for what is wrong. True is what the close look would come to, at a third of its cost.
    """
    _, fences, (compares, then, otherwise) = txn
    if fences or len(compares) > MAX_TXN_COMPARES or len(then) + len(otherwise) > MAX_TXN_OPERATIONS:
        return False
    for key, range_end, target, relation, operand in compares:
        if (
            range_end
            or not 0 < len(key) <= PLAIN_KEY_BYTES
            or target not in _TARGETS
            or relation not in _RELATIONS
            or (type(operand) is bytes) != (target == 0)
        ):
            return False
    return _puts_alone(then) and (not otherwise or _puts_alone(otherwise))


def _puts_alone(side: tuple[TxnOperation, ...]) -> bool:
    """Whether a side is of puts only, each of another key, and all of them storable."""
    for one in side:
        if type(one) is not TxnPut or not 0 < len(one[0]) <= PLAIN_KEY_BYTES or len(one[1]) > MAX_VALUE_BYTES:
            return False
    return len(side) <= 1 or len({one[0] for one in side}) == len(side)


def _look_closely(txn: Txn) -> str | None:
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


class _Deletes:
    """What is deleted. Single keys apart from spans: a batch is full of transactions, and each key is compared with all
    spans of its own."""

    __slots__ = ("keys", "spans")

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.spans: list[tuple[bytes, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.keys or self.spans)

    def add(self, other: _Deletes) -> None:
        self.keys |= other.keys
        self.spans += other.spans

    def first_of(self, keys: Collection[bytes]) -> bytes | None:
        """Return the first of these keys, in their order, that is deleted."""
        found = [key for key in keys if key in self.keys]
        for start, end in self.spans:
            found += [key for key in keys if start <= key] if end == b"\0" else [k for k in keys if start <= k < end]
        return min(found, default=None)


class _Check:
    """Looks through a transaction. A side's `puts` and `deletes` are those that one way through it may come to."""

    __slots__ = ("compares", "operations")

    def __init__(self) -> None:
        self.compares = 0
        self.operations = 0

    def branch(self, branch: Branch, depth: int) -> tuple[set[bytes], _Deletes]:
        """Return (keys put, what is deleted), on either side. Raises _Faulty."""
        if depth > MAX_TXN_DEPTH:
            raise _Faulty(f"the transaction is nested more than {MAX_TXN_DEPTH} deep")
        compares, then, otherwise = branch
        self.compares += len(compares)
        for compare in compares:
            _check_compare(compare)
        puts, deletes = self._side(then, depth)
        if otherwise:
            other_puts, other_deletes = self._side(otherwise, depth)
            puts |= other_puts
            deletes.add(other_deletes)
        return puts, deletes

    def _side(self, side: tuple[TxnOperation, ...], depth: int) -> tuple[set[bytes], _Deletes]:
        self.operations += len(side)
        puts: set[bytes] = set()
        deletes = _Deletes()
        for operation in side:
            fault = None
            if isinstance(operation, TxnPut):
                key = operation.key
                fault = put_fault(key, operation.value) or _put_twice(key, puts) or _both((key,), deletes)
                puts.add(key)
            elif isinstance(operation, Branch):
                # Only one of its sides is taken, so they are not compared with each other.
                inner_puts, inner_deletes = self.branch(operation, depth + 1)
                again = min(puts & inner_puts, default=None)
                fault = None if again is None else _put_twice(again, puts)
                fault = fault or _both(inner_puts, deletes) or _both(puts, inner_deletes)
                puts |= inner_puts
                deletes.add(inner_deletes)
            else:
                fault = range_fault(operation.key, operation.range_end)
                if isinstance(operation, TxnDelete):
                    if operation.range_end:
                        spans = _Deletes()
                        spans.spans.append((operation.key, operation.range_end))
                        fault = fault or _both(puts, spans)
                        deletes.add(spans)
                    else:
                        deletes.keys.add(operation.key)
                        fault = fault or _both({operation.key} & puts, deletes)
            if fault is not None:
                raise _Faulty(fault)
        return puts, deletes


def _put_twice(key: bytes, puts: set[bytes]) -> str | None:
    return f"key {key!r:.100} is put twice in the transaction" if key in puts else None


def _both(puts: Collection[bytes], deletes: _Deletes) -> str | None:
    key = deletes.first_of(puts) if puts and deletes else None
    return None if key is None else f"key {key!r:.100} is both put and deleted in the transaction"


def _check_compare(compare: Compare) -> None:
    key, range_end, target, relation, operand = compare
    fault = range_fault(key, range_end)
    if fault is not None:
        raise _Faulty(fault)
    if target not in _TARGETS:
        raise _Faulty(f"compare target {target} is unknown")
    if relation not in _RELATIONS:
        raise _Faulty(f"compare relation {relation} is unknown")
    if (type(operand) is bytes) != (target == 0):
        raise _Faulty("a compare of the value takes bytes, any other a number")
