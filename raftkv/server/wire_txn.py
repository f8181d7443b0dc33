"""Transactions between their protobuf form and commands and results.

Two limits are held while a transaction is turned into a command, since that takes time by itself: how many operations
and compares it has. The others are `txn_fault`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.errors import InvalidArgument
from raftkv.kv.commands import (
    Branch,
    BranchDone,
    Compare,
    DeleteDone,
    Fence,
    OperationDone,
    PutDone,
    RangeDone,
    Target,
    Txn,
    TxnDelete,
    TxnDone,
    TxnOperation,
    TxnPut,
    TxnRange,
)
from raftkv.kv.limits import MAX_FENCES, MAX_TXN_COMPARES, MAX_TXN_DEPTH, MAX_TXN_OPERATIONS, fence_fault
from raftkv.kv.txn_check import txn_fault
from raftkv.server.wire_range import fill_key_value, fill_page, sorts_or_filters
from raftkv.v1 import kv_pb2

_VALUE: Final = int(Target.VALUE)

_NO_FENCES: Final[tuple[Fence, ...]] = ()

# As Txn(...) and so on, at half the cost: every transaction of the cluster is decoded by the one leader.
_new_tuple: Final = tuple.__new__


class TxnDecoder:
    """Turns one transaction into a command, and knows then what to do with it."""

    __slots__ = ("_compares", "_operations", "heavy", "parts", "writes")

    def __init__(self) -> None:
        self.parts = 0
        """Its operations, compares and fences, as far as it was decoded."""
        self.heavy = False
        """It works on ranges: it may take as long as a whole entry of others."""
        self.writes = False
        """Else it is a query."""
        self._compares = 0
        self._operations = 0

    def decode(self, sequence: int, request: kv_pb2.TxnRequest) -> Txn:
        """Return the command. Raises InvalidArgument."""
        fences = decode_fences(request.fences)
        if fences:
            self.parts += len(fences)
            self.writes = True
        txn = _new_tuple(Txn, (sequence, fences, self._branch(request.branch, 1)))
        fault = txn_fault(txn)
        if fault is not None:
            raise InvalidArgument(fault)
        return txn

    def _branch(self, branch: kv_pb2.TxnBranch, depth: int) -> Branch:
        if depth > MAX_TXN_DEPTH:
            raise InvalidArgument(f"the transaction is nested more than {MAX_TXN_DEPTH} deep")
        compares, then, otherwise = branch.compares, branch.then, branch.otherwise
        operations = len(then) + len(otherwise)
        self._compares += len(compares)
        self._operations += operations
        if self._compares > MAX_TXN_COMPARES:
            raise InvalidArgument(
                f"too many compares in the transaction: {self._compares} or more, at most {MAX_TXN_COMPARES}"
            )
        if self._operations > MAX_TXN_OPERATIONS:
            raise InvalidArgument(
                f"too many operations in the transaction: {self._operations} or more, at most {MAX_TXN_OPERATIONS}"
            )
        self.parts += len(compares) + operations
        return _new_tuple(
            Branch,
            (
                tuple([self._compare(one) for one in compares]),
                tuple([self._operation(one, depth) for one in then]),
                tuple([self._operation(one, depth) for one in otherwise]) if otherwise else (),
            ),
        )

    def _compare(self, compare: kv_pb2.Compare) -> Compare:
        target, range_end = compare.target, compare.range_end
        operand: bytes | int = compare.number
        if range_end:
            self.heavy = True
        if target == _VALUE:
            if operand:
                raise InvalidArgument("a compare of VALUE has a number: its operand is `value`")
            operand = compare.value
        elif compare.value:
            raise InvalidArgument("a compare of a number has a value: its operand is `number`")
        return _new_tuple(Compare, (compare.key, range_end, target, compare.relation, operand))

    def _operation(self, operation: kv_pb2.TxnOperation, depth: int) -> TxnOperation:
        put = operation.put
        key = put.key
        if key:  # most of them: a put without a key is refused further down
            self.writes = True
            if put.fences or put.write_concern or put.HasField("stamp"):
                _refuse_inside("put", put)
            return _new_tuple(TxnPut, (key, put.value, put.lease, put.prev_kv))
        kind = operation.WhichOneof("operation")
        if kind == "range":
            return self._range(operation.range)
        if kind == "delete":
            delete = operation.delete
            self.writes = True
            self.heavy = self.heavy or bool(delete.range_end)
            _refuse_inside("delete", delete)
            return TxnDelete(delete.key, delete.range_end, delete.prev_kv)
        if kind == "branch":
            return self._branch(operation.branch, depth + 1)
        if kind == "put":
            raise InvalidArgument("key is empty")
        raise InvalidArgument("an operation in the transaction is of a kind that this node does not know")

    def _range(self, request: kv_pb2.RangeRequest) -> TxnRange:
        if sorts_or_filters(request):
            raise InvalidArgument(
                "a range in the transaction has an order, revision bounds or a cursor: only ranges of their own may"
            )
        if request.level:
            raise InvalidArgument("a range in the transaction has a level: it reads what the transaction sees")
        self.heavy = self.heavy or bool(request.range_end)
        return TxnRange(
            request.key, request.range_end, request.limit, request.revision, request.keys_only, request.count_only
        )


def _refuse_inside(what: str, write: kv_pb2.PutRequest | kv_pb2.DeleteRequest) -> None:
    if write.fences:
        raise InvalidArgument(
            f"a {what} in the transaction has fences: those of a transaction stand in TxnRequest.fences"
        )
    if write.HasField("stamp"):
        raise InvalidArgument(f"a {what} in the transaction has a stamp: a transaction has one, its own")
    if write.write_concern:
        raise InvalidArgument(
            f"a {what} in the transaction has a write concern: that of a transaction is TxnRequest.write_concern"
        )


def decode_fences(fences: Sequence[kv_pb2.Fence]) -> tuple[Fence, ...]:
    """Return the fences of a write. Raises InvalidArgument."""
    if not fences:
        return _NO_FENCES
    if len(fences) > MAX_FENCES:
        raise InvalidArgument(f"too many fences: {len(fences)}, at most {MAX_FENCES}")
    return tuple([_decode_fence(fence) for fence in fences])


def _decode_fence(fence: kv_pb2.Fence) -> Fence:
    decoded = Fence(fence.lock, fence.token, fence.mode)
    fault = fence_fault(decoded)
    if fault is not None:
        raise InvalidArgument(fault)
    return decoded


def fill_txn(answer: kv_pb2.TxnResponse, done: TxnDone, asked: Branch | None) -> None:
    """Write the result of a transaction into its wire form; `asked` is what it was, as far as that is known."""
    answer.revision = done.revision
    _fill_branch(answer.branch, done.branch, done.revision, asked)


def fill_put(answer: kv_pb2.PutResponse, done: PutDone, revision: int) -> None:
    """Write the result of a put into its wire form."""
    answer.revision = revision
    if done.previous is not None:
        fill_key_value(answer.prev_kv, done.previous)


def fill_delete(answer: kv_pb2.DeleteResponse, done: DeleteDone, revision: int) -> None:
    """Write the result of a delete into its wire form."""
    answer.revision = revision
    answer.deleted = done.deleted
    for pair in done.previous:
        fill_key_value(answer.prev_kvs.add(), pair)


def _fill_branch(target: kv_pb2.TxnBranchResult, done: BranchDone, revision: int, asked: Branch | None) -> None:
    succeeded, results = done
    target.succeeded = succeeded
    if not results:
        target.SetInParent()  # nothing else says that it is there, if it did not succeed
        return
    add = target.results.add
    for position, one in enumerate(results):
        answer = add()
        if type(one) is PutDone and one.previous is None:
            answer.put.revision = revision  # most of them
        else:
            _fill_operation(answer, one, revision, _operation_at(asked, done, position))


def _operation_at(asked: Branch | None, done: BranchDone, position: int) -> TxnOperation | None:
    """Return the operation whose result stands at `position`.

    None: a client that used one sequence for two transactions gets the first one's result, whatever it asks for now.
    """
    if asked is None:
        return None
    operations = asked.then if done.succeeded else asked.otherwise
    return operations[position] if len(operations) == len(done.results) else None


def _fill_operation(
    target: kv_pb2.TxnOperationResult, done: OperationDone, revision: int, asked: TxnOperation | None
) -> None:
    if isinstance(done, PutDone):
        fill_put(target.put, done, revision)
    elif isinstance(done, DeleteDone):
        fill_delete(target.delete, done, revision)
    elif isinstance(done, RangeDone):
        page = target.range
        page.more = done.more
        page.count = done.counted
        at = (asked.revision if isinstance(asked, TxnRange) else 0) or revision
        fill_page(page, done.pairs, at)
    else:
        _fill_branch(target.branch, done, revision, asked if isinstance(asked, Branch) else None)
