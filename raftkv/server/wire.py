"""Client operations between their protobuf form and commands, queries and results. No rule lives here."""

from __future__ import annotations

from collections.abc import Iterator

from raftkv.errors import ERROR_TYPES, ErrorCode, InvalidArgument, RaftKVError
from raftkv.kv.commands import (
    Command,
    Delete,
    Deleted,
    Put,
    RegisterSession,
    Rejected,
    Result,
    SessionRegistered,
    Written,
)
from raftkv.kv.limits import SESSION_TTL_MS, SESSION_WINDOW, put_fault, range_fault
from raftkv.kv.ranges import KeyValue, RangeQuery, RangeResult
from raftkv.v1 import common_pb2, kv_pb2

COMMAND_OVERHEAD_BYTES = 24


class Work:
    """The operations of one batch, sorted by what has to happen to them."""

    __slots__ = ("commands", "has_range_deletes", "local_reads", "malformed", "reads", "size_bytes")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.size_bytes = 0
        """What the commands take in the log, roughly."""
        self.has_range_deletes = False
        self.reads: list[tuple[int, RangeQuery]] = []
        """(operation id, query): to be answered linearizably."""
        self.local_reads: list[tuple[int, RangeQuery]] = []
        self.malformed: list[tuple[int, InvalidArgument]] = []


def decode(batch: kv_pb2.BatchRequest) -> Work:
    """Sort the operations of `batch`. What breaks a limit lands in `malformed`, alone: its neighbours go on."""
    work = Work()
    commands = work.commands
    for operation in batch.operations:
        kind = operation.WhichOneof("operation")
        if kind == "put":
            put = operation.put
            key, value = put.key, put.value
            fault = put_fault(key, value)
            if fault is None:
                commands.append(Put(operation.id, key, value))
                work.size_bytes += len(key) + len(value) + COMMAND_OVERHEAD_BYTES
            else:
                work.malformed.append((operation.id, InvalidArgument(fault)))
        elif kind == "range":
            _decode_range(operation, work)
        elif kind == "delete":
            delete = operation.delete
            fault = range_fault(delete.key, delete.range_end)
            if fault is None:
                commands.append(Delete(operation.id, delete.key, delete.range_end))
                work.has_range_deletes = work.has_range_deletes or bool(delete.range_end)
                work.size_bytes += len(delete.key) + len(delete.range_end) + COMMAND_OVERHEAD_BYTES
            else:
                work.malformed.append((operation.id, InvalidArgument(fault)))
        elif kind == "register_session":
            commands.append(RegisterSession(operation.id))
            work.size_bytes += COMMAND_OVERHEAD_BYTES
        else:
            work.malformed.append(
                (operation.id, InvalidArgument("an operation of a kind that this node does not know"))
            )
    return work


def portions(work: Work) -> Iterator[tuple[tuple[Command, ...], bool]]:
    """Yield the commands that may share an entry, and whether they need one for themselves.

    A range delete may take tens of milliseconds to apply, and an entry is applied in one go: each gets its own.
    """
    if not work.has_range_deletes:
        yield tuple(work.commands), False
        return
    light = tuple(command for command in work.commands if not _is_range_delete(command))
    if light:
        yield light, False
    for command in work.commands:
        if _is_range_delete(command):
            yield (command,), True


def _is_range_delete(command: Command) -> bool:
    return isinstance(command, Delete) and bool(command.range_end)


def _decode_range(operation: kv_pb2.Operation, work: Work) -> None:
    request = operation.range
    fault = range_fault(request.key, request.range_end)
    if fault is not None:
        work.malformed.append((operation.id, InvalidArgument(fault)))
        return
    query = RangeQuery(
        request.key, request.range_end, request.limit, request.revision, request.keys_only, request.count_only
    )
    if request.level == kv_pb2.LINEARIZABLE:
        work.reads.append((operation.id, query))
    elif request.level == kv_pb2.LOCAL:
        work.local_reads.append((operation.id, query))
    else:
        work.malformed.append((operation.id, InvalidArgument(f"read level {request.level} is unknown")))


def remaining(batch: kv_pb2.BatchRequest, answered: set[int], timeout_ms: int) -> kv_pb2.BatchRequest:
    """Return `batch` without the operations that have an answer, for the leader to run."""
    rest = kv_pb2.BatchRequest(
        session=batch.session, acknowledged_below=batch.acknowledged_below, timeout_ms=timeout_ms
    )
    rest.operations.extend(operation for operation in batch.operations if operation.id not in answered)
    return rest


def add_result(response: kv_pb2.BatchResponse, operation_id: int, result: Result) -> None:
    """Append a command's result to `response`."""
    match result:
        case Written(revision):
            response.results.add(id=operation_id, put=kv_pb2.PutResponse(revision=revision))
        case Deleted(revision, deleted):
            response.results.add(id=operation_id, delete=kv_pb2.DeleteResponse(revision=revision, deleted=deleted))
        case SessionRegistered(session):
            response.results.add(
                id=operation_id,
                register_session=kv_pb2.RegisterSessionResponse(
                    session=session, ttl_ms=SESSION_TTL_MS, window=SESSION_WINDOW
                ),
            )
        case Rejected(code, message):
            add_error(response, operation_id, ERROR_TYPES[code](message))


def add_error(response: kv_pb2.BatchResponse, operation_id: int, error: RaftKVError) -> None:
    """Append a failure to `response`."""
    response.results.add(id=operation_id, error=to_error(error))


def add_range(
    response: kv_pb2.BatchResponse, operation_id: int, result: RangeResult, guarantee: kv_pb2.Guarantee.ValueType
) -> None:
    """Append a range's page to `response`."""
    response.results.add(
        id=operation_id,
        range=kv_pb2.RangeResponse(
            kvs=[to_key_value(pair) for pair in result.pairs],
            more=result.more,
            count=result.count,
            revision=result.revision,
            guarantee=guarantee,
        ),
    )


def add_get(
    response: kv_pb2.BatchResponse,
    operation_id: int,
    pair: KeyValue | None,
    revision: int,
    guarantee: kv_pb2.Guarantee.ValueType,
) -> None:
    """Append a single key's read to `response`."""
    if pair is None:
        answer = kv_pb2.RangeResponse(revision=revision, guarantee=guarantee)
    else:
        answer = kv_pb2.RangeResponse(kvs=[to_key_value(pair)], count=1, revision=revision, guarantee=guarantee)
    response.results.add(id=operation_id, range=answer)


def to_key_value(pair: KeyValue) -> kv_pb2.KeyValue:
    """Return the wire form of a pair."""
    return kv_pb2.KeyValue(
        key=pair.key,
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        version=pair.version,
        value=pair.value,
        lease=pair.lease,
    )


def to_error(error: RaftKVError) -> common_pb2.Error:
    """Return the wire form of an error."""
    return common_pb2.Error(
        code=common_pb2.ErrorCode.ValueType(error.code),
        message=error.message,
        retryable=error.retryable,
        ambiguous=error.ambiguous,
        leader_id=error.leader_id,
        leader_address=error.leader_address,
    )


def from_error(error: common_pb2.Error) -> RaftKVError:
    """Return the exception that a wire error stands for; one of a code unknown here keeps its text."""
    try:
        kind = ERROR_TYPES[ErrorCode(error.code)]
    except (ValueError, KeyError):
        kind = RaftKVError
    return kind(
        error.message,
        ambiguous=error.ambiguous,
        leader_id=error.leader_id,
        leader_address=error.leader_address,
    )
