"""Between messages and values: requests out of arguments, results and errors out of answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.rpc import status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from raftkv.client import wire_status
from raftkv.client.receipts import ReadReceipt, WriteReceipt
from raftkv.client.results import (
    DeleteResult,
    KeyValue,
    Member,
    MemberKind,
    Order,
    PeerProgress,
    PutResult,
    RangeResult,
    Role,
    StateHash,
    Status,
)
from raftkv.client.spans import Span
from raftkv.client.tokens import FenceMode, FencingToken
from raftkv.errors import ERROR_TYPES, ConnectionFailed, DeadlineExceeded, ErrorCode, InvalidArgument, RaftKVError
from raftkv.quorum import Guarantee
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2

MEMBER_ID_KEY: Final = "raftkv-member-id"
CLUSTER_ID_KEY: Final = "raftkv-cluster-id"
"""In a node's initial metadata on Pipeline: its id, in decimal."""

MAX_OPERATION_BYTES: Final = 8 << 20
"""Larger ones are refused before they are sent: above the limits of any server, below that of a gRPC message (16 MiB),
which would break the stream for every other call on it."""

_STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
_OPERATION_OVERHEAD_BYTES: Final = 32
_MAX_U64: Final = 2**64 - 1
_MEMBER_KINDS: Final = {int(kind): kind for kind in MemberKind}
_ORDERS: Final = {
    Order.KEY: kv_pb2.RangeRequest.KEY,
    Order.VERSION: kv_pb2.RangeRequest.VERSION,
    Order.CREATE_REVISION: kv_pb2.RangeRequest.CREATE_REVISION,
    Order.MOD_REVISION: kv_pb2.RangeRequest.MOD_REVISION,
    Order.VALUE: kv_pb2.RangeRequest.VALUE,
}
_FENCE_MODES: Final = {FenceMode.HOLDER: kv_pb2.FenceMode.HOLDER, FenceMode.MAX_SEEN: kv_pb2.FenceMode.MAX_SEEN}


def fill_put(
    put: kv_pb2.PutRequest,
    key: bytes,
    value: bytes,
    *,
    lease: int = 0,
    previous: bool = False,
    fences: tuple[FencingToken, ...] = (),
) -> None:
    """Write a put into its message. Raises InvalidArgument where it could never be sent."""
    check_size(len(key) + len(value))
    put.key = key
    put.value = value
    # Most puts are of a key and a value: what is not said need not be set.
    if lease:
        put.lease = lease
    if previous:
        put.prev_kv = True
    if fences:
        put.fences.extend(to_fences(fences))


def fill_delete(
    delete: kv_pb2.DeleteRequest, span: Span, *, previous: bool = False, fences: tuple[FencingToken, ...] = ()
) -> None:
    """Write a delete into its message. Raises InvalidArgument where it could never be sent."""
    check_size(len(span.key) + len(span.range_end))
    delete.key = span.key
    if span.range_end:
        delete.range_end = span.range_end
    if previous:
        delete.prev_kv = True
    if fences:
        delete.fences.extend(to_fences(fences))


def to_fences(fences: tuple[FencingToken, ...]) -> list[kv_pb2.Fence]:
    """Encode fences."""
    return [kv_pb2.Fence(lock=one.lock, token=one.token, mode=_FENCE_MODES[one.mode]) for one in fences]


def fill_range(
    request: kv_pb2.RangeRequest,
    span: Span,
    *,
    limit: int = 0,
    revision: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
    order: Order = Order.KEY,
    descending: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
    cursor: bytes = b"",
) -> None:
    """Write a read into its message, without its level. Raises InvalidArgument where it could never be sent."""
    check_size(len(span.key) + len(span.range_end))
    check_u64("limit", limit)
    check_u64("revision", revision)
    request.key = span.key
    # Most reads are of one key, here and now: what is not said need not be set.
    if span.range_end:
        request.range_end = span.range_end
    if limit:
        request.limit = limit
    if revision:
        request.revision = revision
    if keys_only:
        request.keys_only = True
    if count_only:
        request.count_only = True
    if order != Order.KEY:
        if order not in _ORDERS:
            raise InvalidArgument(f"order is {order!r}, not one of Order")
        request.order = _ORDERS[order]
    if descending:
        request.descending = True
    if min_mod_revision or max_mod_revision:
        _check_bounds("mod_revision", min_mod_revision, max_mod_revision)
        request.min_mod_revision = min_mod_revision
        request.max_mod_revision = max_mod_revision
    if min_create_revision or max_create_revision:
        _check_bounds("create_revision", min_create_revision, max_create_revision)
        request.min_create_revision = min_create_revision
        request.max_create_revision = max_create_revision
    if cursor:
        request.cursor = cursor


def _check_bounds(name: str, least: int, most: int) -> None:
    check_u64(f"min_{name}", least)
    check_u64(f"max_{name}", most)
    if most and least > most:
        raise InvalidArgument(f"no pair can match: min_{name} is {least}, above max_{name}, {most}")


def check_size(size_bytes: int) -> None:
    """Raise InvalidArgument for an operation that no server takes."""
    if size_bytes > MAX_OPERATION_BYTES:
        raise InvalidArgument(f"the request is too large: {size_bytes} bytes, at most {MAX_OPERATION_BYTES}")


def check_u64(name: str, value: int) -> None:
    """Raise InvalidArgument unless `value` fits the wire's unsigned 64 bits."""
    if not isinstance(value, int):
        raise InvalidArgument(f"{name} is {value!r}, not a whole number")
    if not 0 <= value <= _MAX_U64:
        raise InvalidArgument(f"{name} is {value}, not a number from 0 to 2**64 - 1")


def size_estimate(*parts: bytes) -> int:
    """Return about how many bytes an operation with these parts takes in a message; never too few."""
    size_bytes = _OPERATION_OVERHEAD_BYTES
    for part in parts:
        size_bytes += len(part)
    return size_bytes


def to_put_result(answer: kv_pb2.PutResponse, receipt: WriteReceipt, revision: int = 0) -> PutResult:
    """Decode the answer to a put; one within a transaction is of the transaction's `revision`."""
    previous = to_key_value(answer.prev_kv, Guarantee.LINEARIZABLE) if answer.HasField("prev_kv") else None
    return PutResult(revision or answer.revision, previous, receipt)


def to_delete_result(answer: kv_pb2.DeleteResponse, receipt: WriteReceipt, revision: int = 0) -> DeleteResult:
    """Decode the answer to a delete; one within a transaction is of the transaction's `revision`."""
    previous = tuple(to_key_value(pair, Guarantee.LINEARIZABLE) for pair in answer.prev_kvs)
    deleted = answer.deleted if receipt.committed else None
    return DeleteResult(revision or answer.revision, deleted, previous, receipt)


def to_pair(answer: kv_pb2.RangeResponse, receipt: ReadReceipt) -> KeyValue | None:
    """Decode the answer to a read of one key."""
    kvs = answer.kvs
    return to_key_value(kvs[0], receipt.guarantee) if kvs else None


def to_range_result(answer: kv_pb2.RangeResponse, receipt: ReadReceipt) -> RangeResult:
    """Decode the answer to a read."""
    guarantee = receipt.guarantee
    return RangeResult(
        tuple(to_key_value(pair, guarantee) for pair in answer.kvs),
        answer.more,
        answer.count,
        answer.revision,
        guarantee,
        answer.cursor,
        receipt,
    )


def to_status(endpoint: str, answer: cluster_pb2.StatusResponse) -> Status:
    """Decode the answer to a Status request."""
    header = answer.header
    try:
        role = Role(answer.role)
    except ValueError:
        role = Role.UNSPECIFIED
    return Status(
        endpoint=endpoint,
        cluster_id=header.cluster_id,
        member_id=header.member_id,
        version=answer.version,
        role=role,
        term=header.raft_term,
        leader_id=header.leader_id,
        leader_address=header.leader_address,
        revision=header.revision,
        commit_index=answer.commit_index,
        applied_index=answer.applied_index,
        last_index=answer.last_index,
        durable_index=answer.durable_index,
        store_bytes=answer.store_bytes,
        log_bytes=answer.log_bytes,
        members=to_members(answer.members),
        progress=tuple(
            PeerProgress(
                one.id,
                one.match_index,
                one.state,
                one.recently_active,
                lag_s=one.lag_ms / 1000,
                connected=one.connected,
            )
            for one in answer.progress
        ),
        used_bytes=answer.used_bytes,
        quota_bytes=answer.quota_bytes,
        alarms=tuple(wire_status.to_alarm(raised) for raised in answer.alarms),
        compacted_revision=answer.compacted_revision,
        sessions=answer.sessions,
        leases=answer.leases,
        watches=answer.watches,
        disk=wire_status.to_disk(answer.disk),
        checkpoint=wire_status.to_checkpoint(answer.checkpoint),
        transfers=tuple(wire_status.to_transfer(one) for one in answer.transfers),
        scrub=wire_status.to_scrub(answer.scrub),
        comparison=wire_status.to_comparison(answer.comparison),
        certificates=tuple(wire_status.to_certificate(one) for one in answer.certificates),
        started_at=answer.started_at_ms / 1000,
        failover=wire_status.to_failover(answer.failover) if answer.HasField("failover") else None,
        http_address=answer.http_address,
        settings_hash=answer.settings_hash,
        drift=tuple(wire_status.to_drift(one) for one in answer.drift),
        protocol_version=answer.protocol_version,
    )


def to_members(members: Iterable[cluster_pb2.Member]) -> tuple[Member, ...]:
    """Decode members."""
    return tuple(
        Member(
            one.id,
            one.peer_address,
            one.client_address,
            _MEMBER_KINDS.get(one.kind, MemberKind.UNSPECIFIED),
            one.leaving,
        )
        for one in members
    )


def to_state_hash(endpoint: str, answer: cluster_pb2.StateHashResponse) -> StateHash:
    """Decode the answer to a StateHash request."""
    return StateHash(
        endpoint=endpoint,
        member_id=answer.header.member_id,
        applied_index=answer.applied_index,
        applied_term=answer.applied_term,
        hash=answer.hash,
    )


def to_error(error: common_pb2.Error) -> RaftKVError:
    """Decode an error. A code that this client does not know becomes a plain RaftKVError."""
    try:
        code = ErrorCode(error.code)
    except ValueError:
        code = ErrorCode.UNSPECIFIED
    failure = ERROR_TYPES.get(code, RaftKVError)(
        error.message,
        ambiguous=error.ambiguous,
        leader_id=error.leader_id,
        leader_address=error.leader_address,
        number=error.number,
    )
    failure.retryable = error.retryable
    return failure


_NO_SUCH_METHOD: Final = "Method not found!"
"""What gRPC's server says by itself."""


def to_rpc_error(endpoint: str, error: AioRpcError) -> RaftKVError:
    """Decode a failed unary call: the node's own error where it sent one, else what gRPC says.

    Without details nothing is known of the request's fate, so the error is ambiguous.
    """
    detail = _error_detail(error.trailing_metadata())
    if detail is not None:
        return to_error(detail)
    text = describe(endpoint, error)
    if error.code() is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(text, ambiguous=True)
    return ConnectionFailed(text, ambiguous=True)


def describe(endpoint: str, error: AioRpcError) -> str:
    """Say in one line what failed and where."""
    details = " ".join((error.details() or "").split())
    if error.code() is StatusCode.UNIMPLEMENTED and details == _NO_SUCH_METHOD:
        return f"{endpoint}: not a client address: what listens there (a port for peers?) does not know this call"
    return f"{endpoint}: {error.code().name}{': ' if details else ''}{details}"


def member_id(metadata: Metadata) -> int:
    """Return the id that a node gave in its initial metadata, 0 where it gave none that makes sense."""
    value = metadata.get(MEMBER_ID_KEY)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else 0


def cluster_id(metadata: Metadata) -> int:
    """Return the id of the cluster that a node gave in its initial metadata, 0 where it gave none that makes sense."""
    value = metadata.get(CLUSTER_ID_KEY)
    try:
        return int(value, 16) if isinstance(value, str) else 0
    except ValueError:
        return 0


def to_key_value(pair: kv_pb2.KeyValue, guarantee: Guarantee) -> KeyValue:
    """Decode a pair."""
    return KeyValue(pair.key, pair.value, pair.create_revision, pair.mod_revision, pair.version, guarantee, pair.lease)


def _error_detail(metadata: Metadata | None) -> common_pb2.Error | None:
    raw = None if metadata is None else metadata.get(_STATUS_DETAILS_KEY)
    if not isinstance(raw, bytes):
        return None
    found = common_pb2.Error()
    for detail in status_pb2.Status.FromString(raw).details:
        if detail.Unpack(found):
            return found
    return None
