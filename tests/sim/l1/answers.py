"""What a client was told of a command, and what the log says: both as plain values that can be compared."""

from __future__ import annotations

from typing import Any

from raftkv.kv.commands import (
    BranchDone,
    Compacted,
    DeleteDone,
    KeptAlive,
    KeyValue,
    LeaseGranted,
    OperationDone,
    Place,
    Proclaimed,
    PutDone,
    Rejected,
    Released,
    Result,
    Revoked,
    TxnDone,
)
from raftkv.v1 import kv_pb2


def said_by_the_log(result: Result | None, answer: kv_pb2.OperationResult) -> Any:
    """Return what the log says of a command; `answer` tells only in what form it was asked for."""
    match result:
        case Rejected(code, message, number):
            return "error", int(code), message, number
        case TxnDone(revision, BranchDone(_, (PutDone(previous),))) if answer.WhichOneof("result") == "put":
            return "put", revision, previous
        case TxnDone(revision, branch):
            return "txn", revision, _branch_of_the_log(branch)
        case LeaseGranted(lease, ttl_ms):
            return "lease_grant", lease, ttl_ms
        case KeptAlive(ttls_ms):
            return "lease_keep_alive", ttls_ms
        case Revoked(revision, deleted):
            return "lease_revoke", revision, deleted
        case Place(token, ticket, revision):
            return "lock_acquire", token, ticket, revision
        case Released(held, revision):
            return "lock_release", held, revision
        case Proclaimed(revision):
            return "lock_proclaim", revision
        case Compacted(revision):
            return "compact", revision
    return result


def said_to_the_client(answer: kv_pb2.OperationResult) -> Any:
    """Return the same of an answer."""
    kind = answer.WhichOneof("result")
    told = getattr(answer, str(kind))
    match kind:
        case "error":
            return kind, told.code, told.message, told.number
        case "put":
            return kind, told.revision, pair_of(told.prev_kv) if told.HasField("prev_kv") else None
        case "txn":
            return kind, told.revision, _branch_of_the_answer(told.branch)
        case "lease_grant":
            return kind, told.id, told.ttl_ms
        case "lease_keep_alive":
            return kind, tuple(told.ttls_ms)
        case "lease_revoke":
            return kind, told.revision, told.deleted
        case "lock_acquire":
            return kind, told.token, told.ticket, told.revision
        case "lock_release":
            return kind, told.held, told.revision
        case "lock_proclaim" | "compact":
            return kind, told.revision
    return answer


def pair_of(pair: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(pair.key, pair.create_revision, pair.mod_revision, pair.version, pair.lease, pair.value)


def _branch_of_the_log(done: BranchDone) -> Any:
    return done.succeeded, [_operation_of_the_log(one) for one in done.results]


def _operation_of_the_log(done: OperationDone) -> Any:
    match done:
        case PutDone(previous):
            return "put", previous
        case DeleteDone(deleted, previous):
            return "delete", deleted, list(previous)
        case BranchDone():
            return _branch_of_the_log(done)
        case _:
            return "range", list(done.pairs)


def _branch_of_the_answer(branch: kv_pb2.TxnBranchResult) -> Any:
    return branch.succeeded, [_operation_of_the_answer(one) for one in branch.results]


def _operation_of_the_answer(result: kv_pb2.TxnOperationResult) -> Any:
    match result.WhichOneof("result"):
        case "put":
            return "put", pair_of(result.put.prev_kv) if result.put.HasField("prev_kv") else None
        case "delete":
            return "delete", result.delete.deleted, [pair_of(pair) for pair in result.delete.prev_kvs]
        case "branch":
            return _branch_of_the_answer(result.branch)
        case _:
            return "range", [pair_of(pair) for pair in result.range.kvs]
