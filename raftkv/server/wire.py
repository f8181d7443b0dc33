"""Client operations between their protobuf form and commands, queries and results. No rule lives here.

`wire_range`, `wire_txn` and `wire_locks` have what belongs to one kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, assert_never

from raftkv.errors import ERROR_TYPES, ErrorCode, InvalidArgument, Overloaded, RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.kv.commands import (
    Branch,
    Command,
    Compact,
    Compacted,
    Delete,
    Deleted,
    DeleteDone,
    Expired,
    Fence,
    Group,
    KeptAlive,
    KeyValue,
    LeaseGranted,
    Place,
    Proclaimed,
    Put,
    PutDone,
    RegisterSession,
    Rejected,
    Released,
    Result,
    Revoked,
    SessionRegistered,
    StateChecked,
    Swept,
    Txn,
    TxnDelete,
    TxnDone,
    TxnPut,
    Written,
)
from raftkv.kv.limits import SESSION_TTL_MS, SESSION_WINDOW, put_fault, range_fault
from raftkv.kv.ranges import RangeQuery, RangeResult
from raftkv.quorum import Needed
from raftkv.server import wire_locks
from raftkv.server.queries import Query
from raftkv.server.wire_range import SHORT_KEY_BYTES, decode_range, fill_key_value, fill_page
from raftkv.server.wire_read import LOCAL, Asked, decode_asked
from raftkv.server.wire_txn import TxnDecoder, decode_fences, fill_delete, fill_put, fill_txn
from raftkv.v1 import common_pb2, kv_pb2

COMMAND_OVERHEAD_BYTES: Final = 24

_new_tuple: Final = tuple.__new__

MAX_PARTS_PER_BATCH: Final = 8_192
"""Parts of the transactions (operations, compares) and keepalives (leases) of one batch, and its fences, or hardly
more: they are decoded in one go, some microseconds each, and heartbeats wait meanwhile. What is left is asked to come
again."""

MAX_PORTION_WEIGHT: Final = 1_024
"""Commands of a batch share an entry up to this many; a transaction or keepalive counts once for each of its parts."""

LOCK_WEIGHT: Final = 3
"""What it takes to change a lock's line, in puts."""


class Work:
    """The operations of one batch, sorted by what has to happen to them."""

    __slots__ = (
        "by_lease",
        "commands",
        "concerns",
        "heavy",
        "here",
        "mixed",
        "parts",
        "plain",
        "reads",
        "refused",
        "size_bytes",
        "weight",
        "weights",
    )

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.concerns: dict[int, int] = {}
        """By sequence, the write concern of a command, where it has one of its own."""
        self.size_bytes = 0
        """What the commands take in the log, roughly."""
        self.weight = 0
        """What they take to apply, roughly, in puts."""
        self.parts = 0
        """See MAX_PARTS_PER_BATCH."""
        self.mixed = False
        """Some of them cannot share an entry or a group with others: see `portions`."""
        self.weights: dict[int, int] = {}
        """By sequence, what a command takes to apply, in puts, where that is more than one."""
        self.heavy: set[int] = set()
        """Commands that may take tens of milliseconds to apply, and an entry is applied in one go."""
        self.plain: set[int] = set()
        """Transactions that were asked for as a put or delete, and are to be answered as such."""
        self.reads: list[tuple[int, Query]] = []
        """(operation id, query): to be answered by the leader, linearizably."""
        self.by_lease: set[int] = set()
        """Which of them may be answered by its lease."""
        self.here: dict[Asked, list[tuple[int, Query]]] = {}
        """Reads that the node asked sees to, whether or not it leads, by what is asked of them."""
        self.refused: list[tuple[int, RaftKVError]] = []


def decode(batch: kv_pb2.BatchRequest) -> Work:
    """Sort the operations of `batch`. What breaks a limit lands in `refused`, alone: its neighbours go on."""
    work = Work()
    operations = list(batch.operations)  # each of them is made here, as a Python object: once
    if len({operation.id for operation in operations}) < len(operations):
        ambiguity = InvalidArgument(
            "two operations of the batch have the same id: nobody could tell their answers apart"
        )
        work.refused = [(operation.id, ambiguity) for operation in operations]
        return work
    commands = work.commands
    size_bytes = puts = 0
    for operation in operations:
        put = operation.put  # one without a key, where the operation is something else
        key = put.key
        if key and not (put.lease or put.prev_kv or put.fences):
            value = put.value
            fault = put_fault(key, value)
            if fault is None:
                commands.append(_new_tuple(Put, (operation.id, key, value)))  # as Put(...), at half its cost
                size_bytes += len(key) + len(value) + COMMAND_OVERHEAD_BYTES
                puts += 1
                concern = put.write_concern
                if concern:
                    work.concerns[operation.id] = concern
            else:
                work.refused.append((operation.id, InvalidArgument(fault)))
            continue
        kind = operation.WhichOneof("operation")
        decoder = _DECODERS.get(kind) if kind is not None else None
        try:
            if decoder is None:
                raise InvalidArgument("an operation of a kind that this node does not know")
            decoder(operation, work)
            if kind in _WITH_CONCERN:
                concern = getattr(operation, kind).write_concern
                if concern:
                    work.concerns[operation.id] = concern
        except (InvalidArgument, Overloaded) as error:
            work.refused.append((operation.id, error))
    # Where there is more than puts, the size on the wire is near enough.
    others = len(commands) - puts
    work.size_bytes = batch.ByteSize() + others * COMMAND_OVERHEAD_BYTES if others else size_bytes
    work.weight += puts
    work.mixed = work.mixed or (work.weight > MAX_PORTION_WEIGHT and work.weight > len(commands))
    return work


def _decode_put(operation: kv_pb2.Operation, work: Work) -> None:
    """Decode a put that is more than a put."""
    put = operation.put
    fault = put_fault(put.key, put.value)
    if fault is not None:
        raise InvalidArgument(fault)
    fences = _decode_fences(put.fences, work)
    only = TxnPut(put.key, put.value, put.lease, put.prev_kv)
    work.plain.add(operation.id)
    _add(work, Txn(operation.id, fences, Branch((), (only,), ())), 1 + len(fences))


def _decode_delete(operation: kv_pb2.Operation, work: Work) -> None:
    delete = operation.delete
    fault = range_fault(delete.key, delete.range_end)
    if fault is not None:
        raise InvalidArgument(fault)
    alone = bool(delete.range_end)
    if not (delete.prev_kv or delete.fences):
        _add(work, Delete(operation.id, delete.key, delete.range_end), alone=alone)
        return
    fences = _decode_fences(delete.fences, work)
    only = TxnDelete(delete.key, delete.range_end, delete.prev_kv)
    work.plain.add(operation.id)
    _add(work, Txn(operation.id, fences, Branch((), (only,), ())), 1 + len(fences), alone=alone)


def _decode_range(operation: kv_pb2.Operation, work: Work) -> None:
    request = operation.range
    key = request.key
    if 0 < len(key) <= SHORT_KEY_BYTES:
        # Most reads have nothing in them but the key, or the key and the level: no need to look at twenty fields.
        others = request.ByteSize() - len(key) - 2
        if not others:
            work.reads.append((operation.id, RangeQuery(key)))
            return
        if others == 2 and request.level == kv_pb2.LOCAL:
            work.here.setdefault(LOCAL, []).append((operation.id, RangeQuery(key)))
            return
    asked = decode_asked(request)
    query = decode_range(request)
    if asked is not None:
        work.here.setdefault(asked, []).append((operation.id, query))
        return
    work.reads.append((operation.id, query))
    if request.level == kv_pb2.LEASE:
        work.by_lease.add(operation.id)


def _decode_register_session(operation: kv_pb2.Operation, work: Work) -> None:
    _add(work, RegisterSession(operation.id))
    work.mixed = True


def _decode_txn(operation: kv_pb2.Operation, work: Work) -> None:
    _limit_parts(work)
    decoder = TxnDecoder()
    try:
        txn = decoder.decode(operation.id, operation.txn)
    finally:
        work.parts += decoder.parts
    if decoder.writes:
        _add(work, txn, decoder.parts, alone=decoder.heavy)
    else:
        work.reads.append((operation.id, txn))


def _decode_compact(operation: kv_pb2.Operation, work: Work) -> None:
    revision = operation.compact.revision
    if not revision:
        raise InvalidArgument("the revision to compact to is missing: revisions begin at 1")
    _add(work, Compact(operation.id, revision))


def _decode_lease_grant(operation: kv_pb2.Operation, work: Work) -> None:
    grant = wire_locks.decode_grant(operation.id, operation.lease_grant)
    # An id that was given may be that of a dead lease, which is ended first, with all its keys.
    _add(work, grant, alone=bool(grant.lease))


def _decode_lease_keep_alive(operation: kv_pb2.Operation, work: Work) -> None:
    _limit_parts(work)
    keep_alive = wire_locks.decode_keep_alive(operation.id, operation.lease_keep_alive)
    work.parts += len(keep_alive.leases)
    _add(work, keep_alive, len(keep_alive.leases))


def _decode_lease_revoke(operation: kv_pb2.Operation, work: Work) -> None:
    _add(work, wire_locks.decode_revoke(operation.id, operation.lease_revoke), alone=True)


def _decode_lock_acquire(operation: kv_pb2.Operation, work: Work) -> None:
    _add(work, wire_locks.decode_acquire(operation.id, operation.lock_acquire), LOCK_WEIGHT)


def _decode_lock_release(operation: kv_pb2.Operation, work: Work) -> None:
    _add(work, wire_locks.decode_release(operation.id, operation.lock_release), LOCK_WEIGHT)


def _decode_lock_proclaim(operation: kv_pb2.Operation, work: Work) -> None:
    _add(work, wire_locks.decode_proclaim(operation.id, operation.lock_proclaim), LOCK_WEIGHT)


_WITH_CONCERN: Final = frozenset(
    {
        "put",
        "delete",
        "txn",
        "compact",
        "lease_grant",
        "lease_revoke",
        "lock_acquire",
        "lock_release",
        "lock_proclaim",
    }
)
"""Operations that may name a write concern. Sessions and keepalives are acknowledged by a majority, always: while a
voter is down, all clients would wait for nothing."""

_DECODERS: Final[dict[str, Callable[[kv_pb2.Operation, Work], None]]] = {
    "put": _decode_put,
    "range": _decode_range,
    "delete": _decode_delete,
    "register_session": _decode_register_session,
    "txn": _decode_txn,
    "compact": _decode_compact,
    "lease_grant": _decode_lease_grant,
    "lease_keep_alive": _decode_lease_keep_alive,
    "lease_revoke": _decode_lease_revoke,
    "lease_time_to_live": lambda operation, work: work.reads.append(
        (operation.id, wire_locks.decode_time_to_live(operation.lease_time_to_live))
    ),
    "lease_list": lambda operation, work: work.reads.append(
        (operation.id, wire_locks.decode_lease_list(operation.lease_list))
    ),
    "lock_acquire": _decode_lock_acquire,
    "lock_release": _decode_lock_release,
    "lock_proclaim": _decode_lock_proclaim,
    "lock_query": lambda operation, work: work.reads.append(
        (operation.id, wire_locks.decode_lock_query(operation.lock_query))
    ),
}


def _add(work: Work, command: Command, weight: int = 1, *, alone: bool = False) -> None:
    work.commands.append(command)
    work.weight += weight
    if weight > 1:
        work.weights[command.sequence] = weight
    if alone:
        work.heavy.add(command.sequence)
        work.mixed = True


def _decode_fences(fences: Sequence[kv_pb2.Fence], work: Work) -> tuple[Fence, ...]:
    if not fences:
        return ()
    _limit_parts(work)
    work.parts += len(fences)
    return decode_fences(fences)


def _limit_parts(work: Work) -> None:
    if work.parts > MAX_PARTS_PER_BATCH:
        raise Overloaded(
            f"the writes of the batch have more than {MAX_PARTS_PER_BATCH} operations, compares, leases and fences in "
            "them: send this one again, or smaller batches"
        )


class Portion(NamedTuple):
    """Commands that are proposed together."""

    group: Group
    size_bytes: int
    weight: int
    alone: bool
    """They need an entry for themselves."""
    needed: Needed | None = None
    """What their write concern comes to; None: a majority."""


class _Light:
    """Commands that are gathered into one portion."""

    __slots__ = ("commands", "size_bytes", "weight")

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.size_bytes = self.weight = 0


def portions(
    work: Work, batch: kv_pb2.BatchRequest, needs: Mapping[int, Needed] = MappingProxyType({})
) -> Iterator[Portion]:
    """Yield the commands of a batch as they are to be proposed. `needs`: by sequence, see `Portion.needed`.

    All together, but for four kinds. What may take tens of milliseconds to apply gets an entry of its own. A
    registration is of no session: the one that the batch's writes are of may have expired. What is too much for one
    entry is spread over several. And what is acknowledged by other rules is a group of its own.
    """
    session, acknowledged_below = batch.session, batch.acknowledged_below
    if not work.mixed:
        # Mostly none has needs, or all have the same.
        kinds = set(needs.values())
        if not kinds or (len(kinds) == 1 and len(needs) == len(work.commands)):
            group = Group(session, acknowledged_below, tuple(work.commands))
            yield Portion(group, work.size_bytes, work.weight, alone=False, needed=kinds.pop() if kinds else None)
            return
    sizes = {operation.id: operation.ByteSize() + COMMAND_OVERHEAD_BYTES for operation in batch.operations}
    light: dict[Needed | None, _Light] = {}
    registrations: list[Command] = []
    for command in work.commands:
        sequence = command.sequence
        weight = work.weights.get(sequence, 1)
        if isinstance(command, RegisterSession):
            registrations.append(command)
        elif sequence in work.heavy:
            group = Group(session, acknowledged_below, (command,))
            yield Portion(group, sizes[sequence], weight, alone=True, needed=needs.get(sequence))
        else:
            needed = needs.get(sequence)
            gathered = light.get(needed)
            if gathered is not None and gathered.weight + weight > MAX_PORTION_WEIGHT:
                yield _portion(batch, gathered, needed)
                gathered = None
            if gathered is None:
                gathered = light[needed] = _Light()
            gathered.commands.append(command)
            gathered.size_bytes += sizes[sequence]
            gathered.weight += weight
    for needed, gathered in light.items():
        yield _portion(batch, gathered, needed)
    if registrations:
        size_bytes = COMMAND_OVERHEAD_BYTES * len(registrations)
        yield Portion(Group(0, 0, tuple(registrations)), size_bytes, len(registrations), alone=False)


def _portion(batch: kv_pb2.BatchRequest, gathered: _Light, needed: Needed | None) -> Portion:
    group = Group(batch.session, batch.acknowledged_below, tuple(gathered.commands))
    return Portion(group, gathered.size_bytes, gathered.weight, alone=False, needed=needed)


def remaining(batch: kv_pb2.BatchRequest, answered: set[int], timeout_ms: int) -> kv_pb2.BatchRequest:
    """Return `batch` without the operations that have an answer, for the leader to run."""
    rest = kv_pb2.BatchRequest(
        session=batch.session, acknowledged_below=batch.acknowledged_below, timeout_ms=timeout_ms
    )
    rest.operations.extend(operation for operation in batch.operations if operation.id not in answered)
    return rest


def add_result(response: kv_pb2.BatchResponse, command: Command, result: Result, *, plain: bool = False) -> bool:
    """Append a command's result to `response`; `plain`: see `Work.plain`. Return whether it was rejected."""
    if isinstance(result, Written):
        # Most of what comes here; field by field, since naming the fields in constructors takes three times as long.
        answer = response.results.add()
        answer.id = command.sequence
        answer.put.revision = result.revision
        return False
    if isinstance(result, Rejected):
        add_error(response, command.sequence, ERROR_TYPES[result.code](result.message, number=result.number))
        return True
    answer = response.results.add()
    answer.id = command.sequence
    match result:
        case TxnDone():
            if not (plain and _add_plain(answer, result)):
                fill_txn(answer.txn, result, command.branch if isinstance(command, Txn) else None)
        case Deleted(revision, deleted):
            answer.delete.revision = revision
            answer.delete.deleted = deleted
        case SessionRegistered(session):
            answer.register_session.session = session
            answer.register_session.ttl_ms = SESSION_TTL_MS
            answer.register_session.window = SESSION_WINDOW
        case Compacted(revision):
            answer.compact.revision = revision
        case LeaseGranted(lease, ttl_ms):
            answer.lease_grant.id = lease
            answer.lease_grant.ttl_ms = ttl_ms
        case KeptAlive(ttls_ms):
            answer.lease_keep_alive.ttls_ms.extend(ttls_ms)
        case Revoked(revision, deleted):
            answer.lease_revoke.revision = revision
            answer.lease_revoke.deleted = deleted
        case Place(token, ticket, revision):
            answer.lock_acquire.token = token
            answer.lock_acquire.ticket = ticket
            answer.lock_acquire.revision = revision
        case Released(held, revision):
            answer.lock_release.held = held
            answer.lock_release.revision = revision
        case Proclaimed(revision):
            answer.lock_proclaim.revision = revision
        case Expired() | Swept() | StateChecked():
            raise InvariantViolation(f"no client can ask for what {type(result).__name__} answers")
        case _:
            assert_never(result)
    return False


def add_early(response: kv_pb2.BatchResponse, command: Command) -> None:
    """Append the answer to a command that is acknowledged before its result is known: no revision, nothing deleted."""
    answer = response.results.add()
    answer.id = command.sequence
    if isinstance(command, Put):
        answer.put.revision = 0
    elif isinstance(command, Delete):
        answer.delete.revision = 0
    else:
        raise InvariantViolation(f"{type(command).__name__} is never acknowledged before it is applied")


def _add_plain(answer: kv_pb2.OperationResult, result: TxnDone) -> bool:
    """Answer a put or delete that was turned into a transaction; False: this is no result of one."""
    match result.branch.results:
        case (PutDone() as done,):
            fill_put(answer.put, done, result.revision)
        case (DeleteDone() as done,):
            fill_delete(answer.delete, done, result.revision)
        case _:
            return False
    return True


def add_error(response: kv_pb2.BatchResponse, operation_id: int, error: RaftKVError) -> None:
    """Append a failure to `response`."""
    response.results.add(id=operation_id, error=to_error(error))


def add_range(response: kv_pb2.BatchResponse, operation_id: int, result: RangeResult) -> None:
    """Append a range's page to `response`."""
    answer = response.results.add()
    answer.id = operation_id
    page = answer.range
    page.more = result.more
    page.count = result.count
    page.cursor = result.cursor
    fill_page(page, result.pairs, result.revision)


def add_get(response: kv_pb2.BatchResponse, operation_id: int, pair: KeyValue | None, revision: int) -> None:
    """Append a single key's read to `response`."""
    answer = response.results.add()
    answer.id = operation_id
    page = answer.range
    page.revision = revision
    if pair is not None:
        page.count = 1
        fill_key_value(page.kvs.add(), pair)


def to_error(error: RaftKVError) -> common_pb2.Error:
    """Return the wire form of an error."""
    return common_pb2.Error(
        code=common_pb2.ErrorCode.ValueType(error.code),
        message=error.message,
        retryable=error.retryable,
        ambiguous=error.ambiguous,
        leader_id=error.leader_id,
        leader_address=error.leader_address,
        number=error.number,
    )


def from_error(error: common_pb2.Error) -> RaftKVError:
    """Return the error whose wire form this is."""
    kind = ERROR_TYPES.get(ErrorCode(error.code), RaftKVError)
    return kind(
        error.message,
        ambiguous=error.ambiguous,
        leader_id=error.leader_id,
        leader_address=error.leader_address,
        number=error.number,
    )
