"""Transactions of the scripted cluster: enough of them to see that a client says what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from raftkv.v1 import kv_pb2

Pairs = dict[bytes, kv_pb2.KeyValue]


def covered(pairs: Mapping[bytes, kv_pb2.KeyValue], key: bytes, end: bytes) -> list[bytes]:
    """Return the keys of a span, in order."""
    return [one for one in sorted(pairs) if (one == key if not end else one >= key and (end == b"\0" or one < end))]


class FakeTxn:
    """One transaction over `pairs`, which it changes."""

    def __init__(
        self, pairs: Pairs, revision: int, page: Callable[[kv_pb2.RangeRequest], kv_pb2.RangeResponse]
    ) -> None:
        self.pairs = pairs
        self.revision = revision
        self.page = page
        self.changed = False
        self._before = dict(pairs)

    def run(self, branch: kv_pb2.TxnBranch) -> kv_pb2.TxnBranchResult:
        held = all(self._holds(compare) for compare in branch.compares)
        results = [self._do(operation) for operation in (branch.then if held else branch.otherwise)]
        return kv_pb2.TxnBranchResult(succeeded=held, results=results)

    def put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        self.changed = True
        old = self.pairs.get(request.key)
        self.pairs[request.key] = kv_pb2.KeyValue(
            key=request.key,
            value=request.value,
            create_revision=self.revision if old is None else old.create_revision,
            mod_revision=self.revision,
            version=1 if old is None else old.version + 1,
            lease=request.lease,
        )
        return kv_pb2.PutResponse(revision=self.revision, prev_kv=old if request.prev_kv else None)

    def delete(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        found = [self.pairs.pop(key) for key in covered(self.pairs, request.key, request.range_end)]
        self.changed = self.changed or bool(found)
        return kv_pb2.DeleteResponse(
            revision=self.revision, deleted=len(found), prev_kvs=found if request.prev_kv else []
        )

    def _do(self, operation: kv_pb2.TxnOperation) -> kv_pb2.TxnOperationResult:
        match operation.WhichOneof("operation"):
            case "put":
                return kv_pb2.TxnOperationResult(put=self.put(operation.put))
            case "delete":
                return kv_pb2.TxnOperationResult(delete=self.delete(operation.delete))
            case "range":
                return kv_pb2.TxnOperationResult(range=self.page(operation.range))
        return kv_pb2.TxnOperationResult(branch=self.run(operation.branch))

    def _holds(self, compare: kv_pb2.Compare) -> bool:
        absent = kv_pb2.KeyValue()
        keys = covered(self._before, compare.key, compare.range_end) if compare.range_end else [compare.key]
        for key in keys:
            pair = self._before.get(key)
            if compare.target == kv_pb2.Compare.VALUE:
                if pair is None or not _related(pair.value, compare.relation, compare.value):
                    return False
            else:
                field = {1: "version", 2: "create_revision", 3: "mod_revision", 4: "lease"}[compare.target]
                if not _related(getattr(pair or absent, field), compare.relation, compare.number):
                    return False
        return True


def _related(left: bytes | int, relation: int, right: bytes | int) -> bool:
    match relation:
        case kv_pb2.Compare.EQUAL:
            return left == right
        case kv_pb2.Compare.NOT_EQUAL:
            return left != right
        case kv_pb2.Compare.LESS:
            return left < right  # type: ignore[operator]
    return left > right  # type: ignore[operator]
