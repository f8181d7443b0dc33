"""Operations as they come in and answers as they go out: what is refused, what shares an entry, how it is answered."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from raftkv.errors import ERROR_TYPES, ErrorCode, InvalidArgument, Overloaded, StaleFence
from raftkv.kv.codec import decode_batch, encode_batch
from raftkv.kv.commands import (
    Batch,
    Branch,
    BranchDone,
    CheckState,
    Command,
    Compare,
    Delete,
    Deleted,
    DeleteDone,
    Expire,
    Fence,
    Group,
    KeyValue,
    Put,
    PutDone,
    RangeDone,
    RegisterSession,
    Rejected,
    RevokeLease,
    Sweep,
    Txn,
    TxnDelete,
    TxnDone,
    TxnPut,
    TxnRange,
    Written,
)
from raftkv.kv.limits import (
    MAX_FENCES,
    MAX_KEPT_ALIVE,
    MAX_KEY_BYTES,
    MAX_LEASE_TTL_MS,
    MAX_LOCK_NAME_BYTES,
    MAX_LOCK_VALUE_BYTES,
    MAX_SEMAPHORE_LIMIT,
    MAX_TXN_COMPARES,
    MAX_TXN_DEPTH,
    MAX_TXN_OPERATIONS,
    MAX_VALUE_BYTES,
    MIN_LEASE_TTL_MS,
)
from raftkv.kv.ranges import RangeQuery
from raftkv.quorum import Needed
from raftkv.server import wire
from raftkv.server.quota import grows
from raftkv.server.services.status import _STATUS
from raftkv.server.wire_read import LOCAL
from raftkv.v1 import common_pb2 as common
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from raftkv.v1 import lock_pb2 as lock

STAMP = common.WriteStamp(session=1, sequence=1)
FENCE = kv.Fence(lock=b"lock", token=7)


Fields = dict[str, Any]


def put_in(**fields: Any) -> kv.TxnOperation:
    return kv.TxnOperation(put=kv.PutRequest(**(Fields(key=b"k") | fields)))


def range_in(**fields: Any) -> kv.TxnOperation:
    return kv.TxnOperation(range=kv.RangeRequest(**(Fields(key=b"k") | fields)))


def delete_in(**fields: Any) -> kv.TxnOperation:
    return kv.TxnOperation(delete=kv.DeleteRequest(**(Fields(key=b"k") | fields)))


def txn(*then: kv.TxnOperation, compares: tuple[kv.Compare, ...] = (), **fields: Any) -> kv.Operation:
    return kv.Operation(txn=kv.TxnRequest(branch=kv.TxnBranch(compares=compares, then=then), **fields))


def comparing(**fields: Any) -> kv.Operation:
    return txn(put_in(), compares=(kv.Compare(**(Fields(key=b"k") | fields)),))


def nested(depth: int) -> kv.Operation:
    branch = kv.TxnBranch(then=[put_in()])
    for _ in range(depth - 1):
        branch = kv.TxnBranch(then=[kv.TxnOperation(branch=branch)])
    return kv.Operation(txn=kv.TxnRequest(branch=branch))


def puts(count: int) -> tuple[kv.TxnOperation, ...]:
    return tuple(put_in(key=b"%d" % number) for number in range(count))


def put(**fields: Any) -> kv.Operation:
    return kv.Operation(put=kv.PutRequest(**(Fields(key=b"k") | fields)))


def ranging(**fields: Any) -> kv.Operation:
    return kv.Operation(range=kv.RangeRequest(**(Fields(key=b"k", range_end=b"l") | fields)))


def acquire(**fields: Any) -> kv.Operation:
    return kv.Operation(lock_acquire=lock.LockAcquireRequest(**(Fields(name=b"lock", lease=1) | fields)))


def release(**fields: Any) -> kv.Operation:
    return kv.Operation(lock_release=lock.LockReleaseRequest(**(Fields(name=b"lock", lease=1) | fields)))


def proclaim(**fields: Any) -> kv.Operation:
    return kv.Operation(lock_proclaim=lock.LockProclaimRequest(**(Fields(name=b"lock", lease=1, token=1) | fields)))


def grant(**fields: Any) -> kv.Operation:
    return kv.Operation(lease_grant=lease.LeaseGrantRequest(**(Fields(ttl_ms=1000) | fields)))


def keep_alive(*ids: int) -> kv.Operation:
    return kv.Operation(lease_keep_alive=lease.LeaseKeepAliveRequest(ids=ids))


REFUSED: dict[str, tuple[kv.Operation, str]] = {
    "no operation": (kv.Operation(), "kind that this node does not know"),
    "put without a key": (put(key=b""), "key is empty"),
    "put with a lease and without a key": (put(key=b"", lease=1), "key is empty"),
    "put with a lease and too large": (put(lease=1, value=bytes(MAX_VALUE_BYTES + 1)), f"at most {MAX_VALUE_BYTES}"),
    "put with too many fences": (put(fences=[FENCE] * (MAX_FENCES + 1)), f"at most {MAX_FENCES}"),
    "fence of an unknown mode": (put(fences=[kv.Fence(lock=b"l", token=1, mode=9)]), "mode 9"),  # type: ignore[arg-type]
    "fence of no lock": (put(fences=[kv.Fence(token=1)]), "name of the lock is empty"),
    "fence without a token": (put(fences=[kv.Fence(lock=b"l")]), "token is 0"),
    "delete with fences and without a key": (
        kv.Operation(delete=kv.DeleteRequest(fences=[FENCE])),
        "key is empty",
    ),
    "range of an unknown level": (ranging(level=9), "level 9"),
    "range in an unknown order": (ranging(order=9), "order 9"),
    "range backwards": (ranging(range_end=b"a"), "range_end lies before key"),
    "range backwards and sorted": (ranging(range_end=b"a", descending=True), "range_end lies before key"),
    "range of no mod_revision": (ranging(min_mod_revision=5, max_mod_revision=4), "min_mod_revision 5"),
    "range of no create_revision": (ranging(min_create_revision=5, max_create_revision=4), "min_create_revision 5"),
    "count with a cursor": (ranging(count_only=True, cursor=b"c"), "cursor"),
    "txn of too many operations": (txn(*puts(MAX_TXN_OPERATIONS + 1)), f"at most {MAX_TXN_OPERATIONS}"),
    "txn of too many nested operations": (
        txn(*puts(100), kv.TxnOperation(branch=kv.TxnBranch(otherwise=puts(100)))),
        f"at most {MAX_TXN_OPERATIONS}",
    ),
    "txn of too many compares": (
        txn(compares=(kv.Compare(key=b"k"),) * (MAX_TXN_COMPARES + 1)),
        f"at most {MAX_TXN_COMPARES}",
    ),
    "txn too deep": (nested(MAX_TXN_DEPTH + 1), f"more than {MAX_TXN_DEPTH} deep"),
    "txn as deep as protobuf goes": (nested(40), f"more than {MAX_TXN_DEPTH} deep"),
    "txn with too many fences": (txn(put_in(), fences=[FENCE] * (MAX_FENCES + 1)), f"at most {MAX_FENCES}"),
    "txn that puts a key twice": (txn(put_in(), put_in()), "put twice"),
    "txn that puts and deletes a key": (txn(put_in(), delete_in()), "both put and deleted"),
    "txn with an empty operation": (txn(kv.TxnOperation()), "kind that this node does not know"),
    "txn with a put without a key": (txn(put_in(key=b"")), "key is empty"),
    "txn with a long key": (txn(put_in(key=bytes(MAX_KEY_BYTES))), f"at most {MAX_KEY_BYTES}"),
    "txn with a large value": (txn(put_in(value=bytes(MAX_VALUE_BYTES + 1))), f"at most {MAX_VALUE_BYTES}"),
    "txn with a delete backwards": (txn(delete_in(range_end=b"a")), "range_end lies before key"),
    "txn with a range backwards": (txn(range_in(range_end=b"a")), "range_end lies before key"),
    "txn with a fence in a put": (txn(put_in(fences=[FENCE])), "TxnRequest.fences"),
    "txn with a fence in a delete": (txn(delete_in(fences=[FENCE])), "TxnRequest.fences"),
    "txn with a stamp in a put": (txn(put_in(stamp=STAMP)), "put in the transaction has a stamp"),
    "txn with a stamp in a delete": (txn(delete_in(stamp=STAMP)), "delete in the transaction has a stamp"),
    "txn with a sorted range": (txn(range_in(order=kv.RangeRequest.VALUE)), "order, revision bounds or a cursor"),
    "txn with a range the other way": (txn(range_in(descending=True)), "order, revision bounds or a cursor"),
    "txn with a filtered range": (txn(range_in(min_mod_revision=1)), "order, revision bounds or a cursor"),
    "txn with a range by a cursor": (txn(range_in(cursor=b"c")), "order, revision bounds or a cursor"),
    "txn with a range of a level": (txn(range_in(level=kv.LOCAL)), "has a level"),
    "compare of an unknown target": (comparing(target=9), "target 9"),
    "compare of an unknown relation": (comparing(relation=9), "relation 9"),
    "compare without a key": (comparing(key=b""), "key is empty"),
    "compare backwards": (comparing(range_end=b"a"), "range_end lies before key"),
    "compare of a value with a number": (comparing(number=1), "operand is `value`"),
    "compare of a number with a value": (
        comparing(target=kv.Compare.VERSION, value=b"v"),
        "operand is `number`",
    ),
    "compaction to nothing": (kv.Operation(compact=kv.CompactRequest()), "revision to compact to is missing"),
    "lease without a ttl": (grant(ttl_ms=0), f"from {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms"),
    "short lease": (grant(ttl_ms=MIN_LEASE_TTL_MS - 1), f"from {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms"),
    "long lease": (grant(ttl_ms=MAX_LEASE_TTL_MS + 1), f"from {MIN_LEASE_TTL_MS} to {MAX_LEASE_TTL_MS} ms"),
    "negative ttl, as other languages write it": (grant(ttl_ms=2**64 - 1), f"to {MAX_LEASE_TTL_MS} ms"),
    "lease of a large id": (grant(id=2**63), "lease id"),
    "keepalive of nothing": (keep_alive(), "no lease is named"),
    "keepalive of too many": (keep_alive(*range(1, MAX_KEPT_ALIVE + 2)), f"at most {MAX_KEPT_ALIVE}"),
    "revocation of nothing": (kv.Operation(lease_revoke=lease.LeaseRevokeRequest()), "lease is 0"),
    "time to live of nothing": (kv.Operation(lease_time_to_live=lease.LeaseTimeToLiveRequest()), "lease is 0"),
    "lock without a name": (acquire(name=b""), "name of the lock is empty"),
    "lock of a long name": (acquire(name=b"n" * (MAX_LOCK_NAME_BYTES + 1)), f"at most {MAX_LOCK_NAME_BYTES}"),
    "lock without a lease": (acquire(lease=0), "lease is 0"),
    "lock of an unknown kind": (acquire(kind=9), "kind of lock 9"),
    "lock with a large value": (acquire(value=bytes(MAX_LOCK_VALUE_BYTES + 1)), f"at most {MAX_LOCK_VALUE_BYTES}"),
    "semaphore without a limit": (acquire(kind=lock.SEMAPHORE), f"from 1 to {MAX_SEMAPHORE_LIMIT}"),
    "semaphore of a large limit": (
        acquire(kind=lock.SEMAPHORE, limit=MAX_SEMAPHORE_LIMIT + 1),
        f"from 1 to {MAX_SEMAPHORE_LIMIT}",
    ),
    "exclusive semaphore": (acquire(kind=lock.SEMAPHORE, limit=2, exclusive=True), "cannot be held exclusively"),
    "mutex with a limit": (acquire(limit=2), "no semaphore"),
    "release of no lock": (release(name=b""), "name of the lock is empty"),
    "release without a lease": (release(lease=0), "lease is 0"),
    "proclaim without a token": (proclaim(token=0), "token is 0"),
    "proclaim of a large value": (proclaim(value=bytes(MAX_LOCK_VALUE_BYTES + 1)), f"at most {MAX_LOCK_VALUE_BYTES}"),
    "query of no lock": (kv.Operation(lock_query=lock.LockQueryRequest()), "name of the lock is empty"),
}


@pytest.mark.parametrize(("operation", "complaint"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_limit_is_refused_alone_and_the_limit_is_named(operation: kv.Operation, complaint: str) -> None:
    bad = kv.Operation()
    bad.CopyFrom(operation)
    bad.id = 1
    neighbour = put()
    neighbour.id = 2
    work = wire.decode(kv.BatchRequest.FromString(kv.BatchRequest(operations=[bad, neighbour]).SerializeToString()))
    ((refused, error),) = work.refused
    assert refused == 1
    assert isinstance(error, InvalidArgument)
    assert complaint in error.message
    assert work.commands == [Put(2, b"k", b"")]
    assert not work.reads


def decode(*operations: kv.Operation) -> wire.Work:
    batch = numbered(*operations)
    work = wire.decode(batch)
    assert not work.refused
    return work


def numbered(*operations: kv.Operation) -> kv.BatchRequest:
    batch = kv.BatchRequest(session=3, acknowledged_below=1, operations=operations)
    for number, operation in enumerate(batch.operations, 1):
        operation.id = number
    return batch


@pytest.mark.parametrize(
    "operation",
    [acquire(kind=kind) for kind in (lock.MUTEX, lock.ELECTION)]
    + [acquire(kind=lock.READ_WRITE, exclusive=exclusive) for exclusive in (False, True)]
    + [acquire(kind=lock.SEMAPHORE, limit=1), nested(MAX_TXN_DEPTH), txn(*puts(MAX_TXN_OPERATIONS))]
    + [keep_alive(*range(1, MAX_KEPT_ALIVE + 1)), grant(ttl_ms=MIN_LEASE_TTL_MS), grant(ttl_ms=MAX_LEASE_TTL_MS)],
    ids=lambda operation: operation.WhichOneof("operation"),
)
def test_what_just_fits_is_taken(operation: kv.Operation) -> None:
    assert len(decode(operation).commands) == 1


def test_puts_and_deletes_with_more_to_them_are_transactions_of_one_operation() -> None:
    fenced = (Fence(b"lock", 7, 0),)
    work = decode(
        put(value=b"v"),
        put(value=b"v", lease=5),
        put(value=b"v", prev_kv=True),
        put(value=b"v", fences=[FENCE]),
        kv.Operation(delete=kv.DeleteRequest(key=b"k")),
        kv.Operation(delete=kv.DeleteRequest(key=b"k", prev_kv=True)),
        kv.Operation(delete=kv.DeleteRequest(key=b"k", fences=[FENCE])),
    )
    assert work.commands == [
        Put(1, b"k", b"v"),
        Txn(2, (), Branch((), (TxnPut(b"k", b"v", 5, False),), ())),
        Txn(3, (), Branch((), (TxnPut(b"k", b"v", 0, True),), ())),
        Txn(4, fenced, Branch((), (TxnPut(b"k", b"v", 0, False),), ())),
        Delete(5, b"k", b""),
        Txn(6, (), Branch((), (TxnDelete(b"k", b"", True),), ())),
        Txn(7, fenced, Branch((), (TxnDelete(b"k", b"", False),), ())),
    ]
    assert work.plain == {2, 3, 4, 6, 7}


def exact(value: Any) -> Any:
    """A bool is no int, and a tuple of one type none of another."""
    return (type(value), [exact(one) for one in value] if isinstance(value, tuple) else value)


def test_what_was_decoded_from_the_wire_is_what_the_entry_says() -> None:
    """The leader applies the commands as they came, the others what they read in the entry."""
    every_put = put_in(value=b"v", lease=3, prev_kv=True)
    every_range = range_in(range_end=b"z", limit=3, revision=9, keys_only=True, count_only=True)
    inner = kv.TxnOperation(branch=kv.TxnBranch(compares=[kv.Compare(key=b"b")], then=[every_put]))
    work = decode(
        put(value=b"v"),
        put(value=b"v", lease=5, prev_kv=True, fences=[FENCE]),
        kv.Operation(delete=kv.DeleteRequest(key=b"k", range_end=b"l")),
        kv.Operation(delete=kv.DeleteRequest(key=b"k", prev_kv=True)),
        kv.Operation(register_session=kv.RegisterSessionRequest()),
        txn(put_in()),
        txn(
            every_range,
            delete_in(key=b"d", range_end=b"e", prev_kv=True),
            inner,
            compares=(
                kv.Compare(key=b"a", relation=kv.Compare.LESS, value=b"v"),
                kv.Compare(key=b"a", range_end=b"b", target=kv.Compare.LEASE, number=4),
            ),
            fences=[kv.Fence(lock=b"lock", token=7, mode=kv.MAX_SEEN)],
        ),
        kv.Operation(compact=kv.CompactRequest(revision=3)),
        grant(),
        keep_alive(1, 2, 3),
        kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=3)),
        acquire(value=b"v"),
        release(),
        proclaim(),
    )
    assert {type(command) for command in work.commands} == set(get_args(Command)) - {Expire, Sweep, CheckState}
    batch = Batch(5, (Group(3, 1, tuple(work.commands)),))
    assert exact(decode_batch(encode_batch(batch))) == exact(batch)


def test_a_transaction_becomes_a_command() -> None:
    request = kv.TxnRequest(
        fences=[FENCE],
        branch=kv.TxnBranch(
            compares=[
                kv.Compare(key=b"a", relation=kv.Compare.LESS, value=b"v"),
                kv.Compare(key=b"a", range_end=b"b", target=kv.Compare.LEASE, number=4),
            ],
            then=[put_in(lease=3, prev_kv=True), delete_in(key=b"d", range_end=b"e", prev_kv=True)],
            otherwise=[
                range_in(range_end=b"z", limit=3, revision=9, keys_only=True, count_only=True),
                kv.TxnOperation(branch=kv.TxnBranch(then=[put_in()])),
            ],
        ),
    )
    (command,) = decode(kv.Operation(txn=request)).commands
    assert command == Txn(
        1,
        (Fence(b"lock", 7, 0),),
        Branch(
            (Compare(b"a", b"", 0, 2, b"v"), Compare(b"a", b"b", 4, 0, 4)),
            (TxnPut(b"k", b"", 3, True), TxnDelete(b"d", b"e", True)),
            (TxnRange(b"k", b"z", 3, 9, True, True), Branch((), (TxnPut(b"k", b"", 0, False),), ())),
        ),
    )


def test_a_transaction_that_writes_nothing_is_a_query_and_one_with_a_fence_is_none() -> None:
    work = decode(txn(range_in()), txn(range_in(), fences=[FENCE]), txn(), comparing())
    assert [read for read, _ in work.reads] == [1, 3]
    assert [command.sequence for command in work.commands] == [2, 4]


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 1},
        {"revision": 3},
        {"keys_only": True},
        {"count_only": True},
        {"order": kv.RangeRequest.VALUE},
        {"descending": True},
        {"min_mod_revision": 1},
        {"max_mod_revision": 1},
        {"min_create_revision": 1},
        {"max_create_revision": 1},
        {"cursor": b"c"},
        {"range_end": b"z"},
        {"key": b"k" * 200},
        {},
    ],
    ids=str,
)
def test_no_field_of_a_range_gets_lost(fields: dict[str, Any]) -> None:
    """The read of a single key takes a short cut."""
    asked = {"key": b"k"} | fields
    work = decode(kv.Operation(range=kv.RangeRequest(**asked)))
    assert work.reads == [(1, RangeQuery(**asked))]
    local = decode(kv.Operation(range=kv.RangeRequest(level=kv.LOCAL, **asked)))
    assert local.here == {LOCAL: [(1, RangeQuery(**asked))]}


# --- what shares an entry ---------------------------------------------------------------------------------------------


def portions(*operations: kv.Operation) -> list[wire.Portion]:
    batch = numbered(*operations)
    work = wire.decode(batch)
    assert not work.refused
    found = list(wire.portions(work, batch))
    everything = [command for portion in found for command in portion.group.commands]
    assert sorted(everything, key=lambda command: command.sequence) == work.commands
    return found


HEAVY = [
    kv.Operation(delete=kv.DeleteRequest(key=b"a", range_end=b"b")),
    kv.Operation(delete=kv.DeleteRequest(key=b"a", range_end=b"b", prev_kv=True)),
    txn(delete_in(range_end=b"z")),
    txn(put_in(), range_in(range_end=b"z")),
    comparing(range_end=b"z"),
    kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=1)),
    grant(id=5),  # it may be that of a dead lease, whose keys go first
]


@pytest.mark.parametrize("heavy", HEAVY, ids=lambda operation: str(operation.WhichOneof("operation")))
def test_what_may_take_long_to_apply_is_alone_in_its_entry(heavy: kv.Operation) -> None:
    found = portions(put(), heavy, put())
    assert [(len(one.group.commands), one.alone) for one in found] == [(1, True), (2, False)]
    assert found[0].group.commands[0].sequence == 2


def test_what_is_light_shares_one() -> None:
    others = [put(), comparing(), put(lease=1), grant(), acquire(), release(), keep_alive(1)]
    others.append(kv.Operation(compact=kv.CompactRequest(revision=1)))
    (portion,) = portions(*others)
    assert not portion.alone
    assert portion.weight > len(others)
    assert portion.size_bytes > sum(operation.ByteSize() for operation in others)


def test_what_is_acknowledged_by_other_rules_is_a_group_of_its_own() -> None:
    all_of_them, two = Needed(3, early=False, waits=True), Needed(2, early=False, waits=True)
    batch = numbered(*[put() for _ in range(5)], HEAVY[0])
    found = list(wire.portions(wire.decode(batch), batch, {1: all_of_them, 3: two, 5: all_of_them, 6: two}))
    assert [([one.sequence for one in portion.group.commands], portion.alone, portion.needed) for portion in found] == [
        ([6], True, two),
        ([1, 5], False, all_of_them),
        ([2, 4], False, None),
        ([3], False, two),
    ]
    assert {(portion.group.session, portion.group.acknowledged_below) for portion in found} == {(3, 1)}
    assert [portion.weight for portion in found[1:]] == [2, 2, 1]


@pytest.mark.parametrize("needed", [None, Needed(1, early=True, waits=False)])
def test_puts_with_one_write_concern_are_one_group(needed: Needed | None) -> None:
    batch = numbered(*[put() for _ in range(5)])
    work = wire.decode(batch)
    (portion,) = wire.portions(work, batch, {} if needed is None else dict.fromkeys(range(1, 6), needed))
    assert (portion.group.commands, portion.needed) == (tuple(work.commands), needed)


def test_a_write_inside_a_transaction_has_no_write_concern() -> None:
    for inside in (put_in(write_concern=2), delete_in(write_concern=2)):
        work = wire.decode(numbered(txn(inside)))
        ((_, error),) = work.refused
        assert "TxnRequest.write_concern" in error.message


def test_large_transactions_are_spread_over_entries() -> None:
    """Else a batch of small size would hold up the loop for seconds where it is applied."""
    found = portions(*[txn(*puts(100)) for _ in range(40)])
    assert [portion.weight for portion in found] == [1000, 1000, 1000, 1000]
    assert {(portion.group.session, portion.group.acknowledged_below) for portion in found} == {(3, 1)}


def test_a_registration_is_of_no_session() -> None:
    found = portions(put(), kv.Operation(register_session=kv.RegisterSessionRequest()))
    assert [portion.group.session for portion in found] == [3, 0]
    assert isinstance(found[1].group.commands[0], RegisterSession)


def test_more_transactions_than_can_be_decoded_in_one_go_are_asked_to_come_again() -> None:
    batch = numbered(*[txn(*puts(128)) for _ in range(80)], put())
    work = wire.decode(batch)
    assert 60 < len(work.commands) < 70
    assert {type(error) for _, error in work.refused} == {Overloaded}
    assert str(wire.MAX_PARTS_PER_BATCH) in work.refused[0][1].message
    # Also those that are malformed, and those that only read: they cost as much.
    bad = txn(*puts(127), put_in(value=bytes(1)), compares=(kv.Compare(key=b"k", relation=9),))  # type: ignore[arg-type]
    work = wire.decode(numbered(*[bad for _ in range(80)]))
    assert {type(error) for _, error in work.refused} == {InvalidArgument, Overloaded}
    work = wire.decode(numbered(*[txn(*[range_in()] * 128) for _ in range(80)]))
    assert {type(error) for _, error in work.refused} == {Overloaded}
    # And fences, which any write may have.
    fenced = [put(fences=[FENCE] * MAX_FENCES), kv.Operation(delete=kv.DeleteRequest(key=b"k", fences=[FENCE] * 16))]
    work = wire.decode(numbered(*fenced * 400))
    assert len(work.commands) == wire.MAX_PARTS_PER_BATCH // 16 + 1
    assert {type(error) for _, error in work.refused} == {Overloaded}


# --- answers ----------------------------------------------------------------------------------------------------------

PAIR = KeyValue(b"k", 2, 3, 2, 9, b"old")
PAIR_PB = kv.KeyValue(key=b"k", create_revision=2, mod_revision=3, version=2, lease=9, value=b"old")


def answered(command: Any, result: Any, *, plain: bool = False) -> kv.OperationResult:
    response = kv.BatchResponse()
    wire.add_result(response, command, result, plain=plain)
    (answer,) = kv.BatchResponse.FromString(response.SerializeToString()).results
    assert answer.id == command.sequence
    return answer


def test_a_plain_put_or_delete_is_answered_as_such_whatever_it_was_turned_into() -> None:
    put = Txn(4, (), Branch((), (TxnPut(b"k", b"v", 0, True),), ()))
    answer = answered(put, TxnDone(7, BranchDone(True, (PutDone(PAIR),))), plain=True)
    assert answer.put == kv.PutResponse(revision=7, prev_kv=PAIR_PB)
    answer = answered(put, TxnDone(7, BranchDone(True, (PutDone(None),))), plain=True)
    assert answer.put == kv.PutResponse(revision=7)
    delete = Txn(4, (), Branch((), (TxnDelete(b"k", b"", True),), ()))
    answer = answered(delete, TxnDone(7, BranchDone(True, (DeleteDone(1, (PAIR,)),))), plain=True)
    assert answer.delete == kv.DeleteResponse(revision=7, deleted=1, prev_kvs=[PAIR_PB])


def test_a_transaction_is_answered_as_it_was_asked() -> None:
    branch = Branch((), (TxnRange(b"k", b"", 0, 5, False, False), TxnRange(b"k", b"", 0, 0, False, False)), ())
    done = TxnDone(7, BranchDone(True, (RangeDone((PAIR,), True, 1), RangeDone((), False, 0))))
    first, second = answered(Txn(4, (), branch), done).txn.branch.results
    assert (first.range.revision, first.range.more, first.range.kvs[0]) == (5, True, PAIR_PB)
    assert second.range.revision == 7, "what it shows is the store as the transaction left it"

    inner = BranchDone(False, ())
    nested_txn = Txn(4, (), Branch((), (Branch((), (), ()),), ()))
    answer = answered(nested_txn, TxnDone(7, BranchDone(True, (inner,))))
    assert answer.txn.branch.results[0].WhichOneof("result") == "branch"
    failed = answered(nested_txn, TxnDone(7, BranchDone(False, ())))
    assert failed.WhichOneof("result") == "txn"
    assert failed.txn.HasField("branch")
    assert not failed.txn.branch.succeeded


def test_a_client_that_uses_a_sequence_twice_gets_the_first_answer_and_harms_nobody() -> None:
    done = TxnDone(7, BranchDone(True, (PutDone(None), PutDone(None))))
    assert len(answered(Put(4, b"k", b"v"), done, plain=True).txn.branch.results) == 2
    other = Txn(4, (), Branch((), (TxnPut(b"k", b"v", 0, False),), ()))
    assert len(answered(other, done, plain=True).txn.branch.results) == 2
    assert answered(other, Written(7), plain=True).put.revision == 7
    assert answered(RevokeLease(4, 1), Deleted(7, 1)).delete.deleted == 1


def test_every_rejection_keeps_its_number() -> None:
    answer = answered(Put(4, b"k", b"v"), Rejected(ErrorCode.STALE_FENCE, "too old", 77))
    assert (answer.error.code, answer.error.number) == (common.STALE_FENCE, 77)
    error = wire.from_error(answer.error)
    assert isinstance(error, StaleFence)
    assert error.current_token == 77
    assert wire.to_error(error) == answer.error


def test_every_error_has_a_code_on_the_wire_and_a_status() -> None:
    assert {int(code) for code in ERROR_TYPES} | {0} == set(common.ErrorCode.values())
    assert set(_STATUS) == set(ERROR_TYPES)


def test_what_makes_the_state_grow_is_known() -> None:
    growing = decode(put(), put(lease=1), txn(put_in()), nested(5), grant(), acquire(), proclaim()).commands
    assert all(map(grows, growing))
    others = decode(
        kv.Operation(delete=kv.DeleteRequest(key=b"k")),
        kv.Operation(delete=kv.DeleteRequest(key=b"k", fences=[FENCE])),
        txn(delete_in()),
        release(),
        keep_alive(1),
        kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=1)),
        kv.Operation(compact=kv.CompactRequest(revision=1)),
        kv.Operation(register_session=kv.RegisterSessionRequest()),
    ).commands
    assert not any(map(grows, others))
