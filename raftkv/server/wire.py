"""Client operations between their protobuf form and commands, queries and results. No rule lives here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from raftkv.errors import ERROR_TYPES, ErrorCode, InvalidArgument, RaftKVError
from raftkv.kv.commands import (
    Command,
    Delete,
    Deleted,
    Group,
    KeyValue,
    Put,
    RegisterSession,
    Rejected,
    Result,
    SessionRegistered,
    Written,
)
from raftkv.kv.limits import SESSION_TTL_MS, SESSION_WINDOW, put_fault, range_fault
from raftkv.kv.ranges import RangeQuery, RangeResult
from raftkv.v1 import common_pb2, kv_pb2

COMMAND_OVERHEAD_BYTES = 24


class Work:
    """The operations of one batch, sorted by what has to happen to them."""

    __slots__ = ("by_lease", "commands", "local_reads", "malformed", "mixed", "reads", "size_bytes")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.size_bytes = 0
        """What the commands take in the log, roughly."""
        self.mixed = False
        """Some of them cannot share an entry or a group with others: see `portions`."""
        self.reads: list[tuple[int, RangeQuery]] = []
        """(operation id, query): to be answered by the leader, linearizably."""
        self.by_lease: set[int] = set()
        """Which of them may be answered by its lease."""
        self.local_reads: list[tuple[int, RangeQuery]] = []
        self.malformed: list[tuple[int, InvalidArgument]] = []


def decode(batch: kv_pb2.BatchRequest) -> Work:
    """Sort the operations of `batch`. What breaks a limit lands in `malformed`, alone: its neighbours go on."""
    work = Work()
    if len({operation.id for operation in batch.operations}) < len(batch.operations):
        ambiguity = InvalidArgument(
            "two operations of the batch have the same id: nobody could tell their answers apart"
        )
        work.malformed = [(operation.id, ambiguity) for operation in batch.operations]
        return work
    commands = work.commands
    size_bytes = 0
    for operation in batch.operations:
        if operation.HasField("put"):
            put = operation.put
            key, value = put.key, put.value
            fault = put_fault(key, value)
            if fault is None:
                commands.append(Put(operation.id, key, value))
                size_bytes += len(key) + len(value) + COMMAND_OVERHEAD_BYTES
            else:
                work.malformed.append((operation.id, InvalidArgument(fault)))
            continue
        kind = operation.WhichOneof("operation")
        if kind == "range":
            _decode_range(operation, work)
        elif kind == "delete":
            delete = operation.delete
            fault = range_fault(delete.key, delete.range_end)
            if fault is None:
                commands.append(Delete(operation.id, delete.key, delete.range_end))
                work.mixed = work.mixed or bool(delete.range_end)
                size_bytes += len(delete.key) + len(delete.range_end) + COMMAND_OVERHEAD_BYTES
            else:
                work.malformed.append((operation.id, InvalidArgument(fault)))
        elif kind == "register_session":
            commands.append(RegisterSession(operation.id))
            size_bytes += COMMAND_OVERHEAD_BYTES
            work.mixed = True
        else:
            work.malformed.append(
                (operation.id, InvalidArgument("an operation of a kind that this node does not know"))
            )
    work.size_bytes = size_bytes
    return work


class Portion(NamedTuple):
    """Commands that are proposed together."""

    group: Group
    size_bytes: int
    alone: bool
    """They need an entry for themselves."""


def portions(work: Work, batch: kv_pb2.BatchRequest) -> Iterator[Portion]:
    """Yield the commands of a batch as they are to be proposed.

    All together, but for two kinds. A range delete may take tens of milliseconds to apply, and an entry is applied in
    one go: each gets its own. A registration is of no session: the one that the batch's writes are of may have expired.
    """
    if not work.mixed:
        yield Portion(Group(batch.session, batch.acknowledged_below, tuple(work.commands)), work.size_bytes, False)
        return
    light: list[Command] = []
    registrations: list[Command] = []
    for command in work.commands:
        if isinstance(command, RegisterSession):
            registrations.append(command)
        elif isinstance(command, Delete) and command.range_end:
            group = Group(batch.session, batch.acknowledged_below, (command,))
            yield Portion(group, _command_bytes(command), True)
        else:
            light.append(command)
    if light:
        size_bytes = sum(map(_command_bytes, light))
        yield Portion(Group(batch.session, batch.acknowledged_below, tuple(light)), size_bytes, False)
    if registrations:
        yield Portion(Group(0, 0, tuple(registrations)), COMMAND_OVERHEAD_BYTES * len(registrations), False)


def _command_bytes(command: Command) -> int:
    match command:
        case Put(_, key, value):
            return len(key) + len(value) + COMMAND_OVERHEAD_BYTES
        case Delete(_, key, range_end):
            return len(key) + len(range_end) + COMMAND_OVERHEAD_BYTES
        case RegisterSession():
            return COMMAND_OVERHEAD_BYTES


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
    elif request.level == kv_pb2.LEASE:
        work.reads.append((operation.id, query))
        work.by_lease.add(operation.id)
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
    if type(result) is Written:
        # Most of what comes here; field by field, since naming the fields in constructors takes three times as long.
        answer = response.results.add()
        answer.id = operation_id
        answer.put.revision = result.revision
        return
    match result:
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
    answer = response.results.add()
    answer.id = operation_id
    page = answer.range
    page.more = result.more
    page.count = result.count
    page.revision = result.revision
    page.guarantee = guarantee
    add = page.kvs.add
    for pair in result.pairs:
        fill_key_value(add(), pair)


def add_get(
    response: kv_pb2.BatchResponse,
    operation_id: int,
    pair: KeyValue | None,
    revision: int,
    guarantee: kv_pb2.Guarantee.ValueType,
) -> None:
    """Append a single key's read to `response`."""
    answer = response.results.add()
    answer.id = operation_id
    page = answer.range
    page.revision = revision
    page.guarantee = guarantee
    if pair is not None:
        page.count = 1
        fill_key_value(page.kvs.add(), pair)


def fill_key_value(target: kv_pb2.KeyValue, pair: KeyValue) -> None:
    """Write a pair into its wire form."""
    target.key, target.create_revision, target.mod_revision, target.version, target.lease, target.value = pair


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
    """Return the error whose wire form this is."""
    kind = ERROR_TYPES.get(ErrorCode(error.code), RaftKVError)
    return kind(
        error.message, ambiguous=error.ambiguous, leader_id=error.leader_id, leader_address=error.leader_address
    )
