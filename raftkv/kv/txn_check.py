"""What can be said of a transaction without the state: whether it makes sense, and whether it can change anything.

Asked before a transaction is proposed, and again where it is applied, on every node: it is on the path of every
transaction several times.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
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


class _Check:
    """Looks through a transaction. A side's `puts` and `deletes` are those that one way through it may come to."""

    __slots__ = ("compares", "operations")

    def __init__(self) -> None:
        self.compares = 0
        self.operations = 0

    def branch(self, branch: Branch, depth: int) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
        """Return (keys put, spans deleted), on either side. Raises _Faulty."""
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
            deletes += other_deletes
        return puts, deletes

    def _side(self, side: tuple[TxnOperation, ...], depth: int) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
        self.operations += len(side)
        puts: set[bytes] = set()
        deletes: list[tuple[bytes, bytes]] = []
        for operation in side:
            fault = None
            if isinstance(operation, TxnPut):
                key = operation.key
                fault = put_fault(key, operation.value) or (_conflict(key, puts, deletes) if puts or deletes else None)
                puts.add(key)
            elif isinstance(operation, Branch):
                # Only one of its sides is taken, so they are not compared with each other.
                inner_puts, inner_deletes = self.branch(operation, depth + 1)
                for key in sorted(inner_puts):
                    fault = fault or _conflict(key, puts, deletes)
                for key in sorted(puts):
                    fault = fault or _conflict(key, (), inner_deletes)
                puts |= inner_puts
                deletes += inner_deletes
            else:
                fault = range_fault(operation.key, operation.range_end)
                if isinstance(operation, TxnDelete):
                    span = (operation.key, operation.range_end)
                    for key in sorted(puts):
                        fault = fault or _conflict(key, (), (span,))
                    deletes.append(span)
            if fault is not None:
                raise _Faulty(fault)
        return puts, deletes


def _conflict(key: bytes, puts: Container[bytes], deletes: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Say why a key may not be put beside these other writes, or None."""
    if key in puts:
        return f"key {key!r:.100} is put twice in the transaction"
    if any(_within(key, start, end) for start, end in deletes):
        return f"key {key!r:.100} is both put and deleted in the transaction"
    return None


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


def _within(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key if end == b"\0" else start <= key < end
