"""Errors as gRPC statuses: the code that fits best, and the whole error as a detail."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from raftkv.errors import ErrorCode, RaftKVError
from raftkv.server import wire
from raftkv.v1 import common_pb2

T = TypeVar("T")

# A write with an open outcome must never be answered with a status that a client takes for "safe to retry", as
# UNAVAILABLE is taken by many (notes/etcd-wire.md; raft-bugs 44): those are UNKNOWN or DEADLINE_EXCEEDED.
_STATUS = {
    ErrorCode.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.NOT_LEADER: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.NO_LEADER: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.LEADER_CHANGED: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.SESSION_EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.SEQUENCE_OUT_OF_WINDOW: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.FUTURE_REVISION: grpc.StatusCode.OUT_OF_RANGE,
    ErrorCode.COMPACTED: grpc.StatusCode.OUT_OF_RANGE,
    ErrorCode.LIMIT_EXCEEDED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.CLUSTER_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.LEASE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.LEASE_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorCode.STALE_FENCE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.SPACE_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.LOCK_BUSY: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.TOO_STALE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.WRITE_LOST: grpc.StatusCode.DATA_LOSS,
    ErrorCode.TOKEN_OUT_OF_RANGE: grpc.StatusCode.OUT_OF_RANGE,
    ErrorCode.QUORUM_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.CORRUPT_STATE: grpc.StatusCode.UNAVAILABLE,
}


def status_code(error: common_pb2.Error) -> grpc.StatusCode:
    """Return the gRPC status code for `error`."""
    code = _STATUS.get(ErrorCode(error.code), grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.UNKNOWN if error.ambiguous and code is grpc.StatusCode.UNAVAILABLE else code


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: common_pb2.Error) -> NoReturn:
    """End the call with `error`."""
    detail = any_pb2.Any()
    detail.Pack(error)
    status = status_pb2.Status(code=status_code(error).value[0], message=error.message, details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")


async def answered(context: grpc.aio.ServicerContext[Any, Any], result: Awaitable[T]) -> T:
    """Return `result`, or end the call with the RaftKVError that it raises."""
    try:
        return await result
    except RaftKVError as error:
        await abort(context, wire.to_error(error))


def error_of(failure: grpc.aio.AioRpcError) -> RaftKVError | None:
    """Return the error that a peer ended a call with; None where it was not the peer that ended it."""
    status = rpc_status.from_call(failure)
    found = common_pb2.Error()
    for detail in status.details if status is not None else ():
        if detail.Unpack(found):
            return wire.from_error(found)
    return None
