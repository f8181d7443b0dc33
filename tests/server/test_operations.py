"""Every kind of operation through whole nodes: on the leader, and forwarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from raftkv.v1 import common_pb2 as common
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from raftkv.v1 import lock_pb2 as lock
from tests.server.memory_cluster import MemoryCluster, MemoryNode

FOREVER_MS = 3_600_000


class Asked:
    """A client of one node, with a session."""

    def __init__(self, member: MemoryNode, session: int) -> None:
        self.member = member
        self.session = session
        self.sequences = count(1)

    async def run(self, operation: kv.Operation) -> kv.OperationResult:
        operation.id = next(self.sequences)
        answer = await self.member.run(operation, self.session)
        assert answer.id == operation.id
        again = await self.member.run(operation, self.session)
        if answer.WhichOneof("result") not in {"range", "lease_time_to_live", "lease_list", "lock_query"}:
            assert again == answer, "a repeated operation of a session is answered with its first answer"
        return answer

    async def put(self, key: bytes, value: bytes = b"", **fields: object) -> kv.OperationResult:
        return await self.run(kv.Operation(put=kv.PutRequest(key=key, value=value, **fields)))  # type: ignore[arg-type]

    async def get(self, key: bytes) -> kv.RangeResponse:
        return (await self.run(kv.Operation(range=kv.RangeRequest(key=key)))).range

    async def grant(self, ttl_ms: int = FOREVER_MS, lease_id: int = 0) -> int:
        answer = await self.run(kv.Operation(lease_grant=lease.LeaseGrantRequest(ttl_ms=ttl_ms, id=lease_id)))
        assert answer.lease_grant.ttl_ms == ttl_ms
        return answer.lease_grant.id

    async def acquire(self, name: bytes, lease_id: int, **fields: object) -> kv.OperationResult:
        request = lock.LockAcquireRequest(name=name, lease=lease_id, **fields)  # type: ignore[arg-type]
        return await self.run(kv.Operation(lock_acquire=request))

    async def query(self, name: bytes, limit: int = 0) -> lock.LockQueryResponse:
        request = lock.LockQueryRequest(name=name, limit=limit)
        return (await self.run(kv.Operation(lock_query=request))).lock_query


@pytest_asyncio.fixture(params=["leader", "follower"])
async def asked(request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        yield Asked(leader if request.param == "leader" else cluster.follower(leader), session)


async def test_transactions(asked: Asked) -> None:
    made = await asked.put(b"a", b"1")
    txn = kv.TxnRequest(
        branch=kv.TxnBranch(
            compares=[kv.Compare(key=b"a", value=b"1"), kv.Compare(key=b"b", target=kv.Compare.VERSION)],
            then=[
                kv.TxnOperation(put=kv.PutRequest(key=b"b", value=b"2")),
                kv.TxnOperation(put=kv.PutRequest(key=b"a", value=b"3", prev_kv=True)),
                kv.TxnOperation(range=kv.RangeRequest(key=b"a", range_end=b"z")),
            ],
            otherwise=[kv.TxnOperation(range=kv.RangeRequest(key=b"a"))],
        )
    )
    first = (await asked.run(kv.Operation(txn=txn))).txn
    assert (first.revision, first.branch.succeeded) == (made.put.revision + 1, True)
    put_b, put_a, page = first.branch.results
    assert put_b.put.revision == put_a.put.revision == first.revision
    assert put_a.put.prev_kv.value == b"1"
    assert [(pair.key, pair.value) for pair in page.range.kvs] == [(b"a", b"3"), (b"b", b"2")]
    second = (await asked.run(kv.Operation(txn=txn))).txn
    assert (second.revision, second.branch.succeeded) == (first.revision, False)
    assert second.branch.results[0].range.kvs[0].value == b"3"


async def test_a_transaction_that_only_reads_makes_no_entry(asked: Asked) -> None:
    await asked.put(b"a", b"1")
    before = asked.member.node.raft.log.last_index
    read = kv.TxnRequest(
        branch=kv.TxnBranch(
            compares=[kv.Compare(key=b"a", target=kv.Compare.VERSION, relation=kv.Compare.GREATER, number=7)],
            otherwise=[kv.TxnOperation(range=kv.RangeRequest(key=b"a"))],
        )
    )
    answer = (await asked.run(kv.Operation(txn=read))).txn
    assert not answer.branch.succeeded
    assert answer.branch.results[0].range.kvs[0].value == b"1"
    assert asked.member.node.raft.log.last_index == before
    early = kv.TxnRequest(branch=kv.TxnBranch(then=[kv.TxnOperation(range=kv.RangeRequest(key=b"a", revision=2**40))]))
    assert (await asked.run(kv.Operation(txn=early))).error.code == common.FUTURE_REVISION


async def test_puts_and_deletes_with_more_to_them(asked: Asked) -> None:
    first = (await asked.put(b"k", b"1", prev_kv=True)).put
    assert not first.HasField("prev_kv")
    second = (await asked.put(b"k", b"2", prev_kv=True)).put
    assert (second.prev_kv.value, second.prev_kv.mod_revision) == (b"1", first.revision)
    assert (await asked.put(b"k", b"3", lease=77)).error.code == common.LEASE_NOT_FOUND
    deleted = (await asked.run(kv.Operation(delete=kv.DeleteRequest(key=b"k", prev_kv=True)))).delete
    assert (deleted.deleted, deleted.prev_kvs[0].value, deleted.revision) == (1, b"2", second.revision + 1)


async def test_leases(asked: Asked) -> None:
    granted = await asked.grant()
    named = await asked.grant(lease_id=5)
    assert named == 5
    taken = await asked.run(kv.Operation(lease_grant=lease.LeaseGrantRequest(ttl_ms=1000, id=5)))
    assert taken.error.code == common.LEASE_EXISTS
    await asked.put(b"k1", lease=5)
    attached = (await asked.put(b"k2", lease=5)).put
    kept = await asked.run(kv.Operation(lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[5, 99])))
    assert list(kept.lease_keep_alive.ttls_ms) == [FOREVER_MS, 0]

    listed = (await asked.run(kv.Operation(lease_list=lease.LeaseListRequest()))).lease_list
    assert (list(listed.ids), listed.more) == (sorted([5, granted]), False)
    listed = (await asked.run(kv.Operation(lease_list=lease.LeaseListRequest(after=5)))).lease_list
    assert list(listed.ids) == [one for one in (granted,) if one > 5]

    ask = kv.Operation(lease_time_to_live=lease.LeaseTimeToLiveRequest(id=5, keys=True))
    shown = (await asked.run(ask)).lease_time_to_live
    assert shown.granted_ttl_ms == FOREVER_MS
    assert FOREVER_MS - 60_000 < shown.ttl_ms <= FOREVER_MS
    assert list(shown.keys) == [b"k1", b"k2"]
    ask.lease_time_to_live.keys = False
    assert not (await asked.run(ask)).lease_time_to_live.keys

    revoked = (await asked.run(kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=5)))).lease_revoke
    assert (revoked.revision, revoked.deleted) == (attached.revision + 1, 2)
    assert not (await asked.get(b"k1")).kvs
    gone = await asked.run(kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=5)))
    assert gone.error.code == common.LEASE_NOT_FOUND
    shown_again = await asked.run(ask)
    assert shown_again.HasField("lease_time_to_live")
    assert shown_again.lease_time_to_live.granted_ttl_ms == 0


async def test_locks_and_fences(asked: Asked) -> None:
    holder, waiter = await asked.grant(), await asked.grant()
    held = (await asked.acquire(b"lock", holder, value=b"me")).lock_acquire
    assert held.token > 0
    waits = (await asked.acquire(b"lock", waiter)).lock_acquire
    assert (waits.token, waits.ticket > held.ticket) == (0, True)
    busy = await asked.acquire(b"lock", await asked.grant(), no_wait=True)
    assert busy.error.code == common.LOCK_BUSY
    other_kind = await asked.acquire(b"lock", await asked.grant(), kind=lock.ELECTION)
    assert other_kind.error.code == common.FAILED_PRECONDITION

    fence = [kv.Fence(lock=b"lock", token=held.token)]
    assert (await asked.put(b"k", b"fenced", fences=fence)).put.revision == waits.revision + 1
    proclaim = lock.LockProclaimRequest(name=b"lock", lease=holder, token=held.token, value=b"still me")
    assert (await asked.run(kv.Operation(lock_proclaim=proclaim))).lock_proclaim.revision == waits.revision + 2
    line = await asked.query(b"lock")
    assert [(one.ticket, one.token, one.lease, one.value) for one in line.contenders] == [
        (held.ticket, held.token, holder, b"still me"),
        (waits.ticket, 0, waiter, b""),
    ]
    assert (line.newest_token, line.floor_token, line.more) == (held.token, held.token, False)
    assert line.revision == waits.revision + 2
    short = await asked.query(b"lock", 1)
    assert (len(short.contenders), short.more) == (1, True)

    give = lock.LockReleaseRequest(name=b"lock", lease=holder)
    given = (await asked.run(kv.Operation(lock_release=give))).lock_release
    assert given.held
    assert not (await asked.run(kv.Operation(lock_release=give))).lock_release.held
    taken = await asked.query(b"lock")
    assert (taken.contenders[0].lease, taken.newest_token > held.token) == (waiter, True)
    for refused in (
        await asked.put(b"k", b"too late", fences=fence),
        await asked.run(kv.Operation(delete=kv.DeleteRequest(key=b"k", fences=fence))),
        await asked.run(kv.Operation(txn=kv.TxnRequest(fences=fence))),
    ):
        assert (refused.error.code, refused.error.number) == (common.STALE_FENCE, taken.newest_token)
    assert (await asked.get(b"k")).kvs[0].value == b"fenced"
    assert not (await asked.query(b"never")).contenders


async def test_compaction(asked: Asked) -> None:
    first = (await asked.put(b"k", b"1")).put.revision
    second = (await asked.put(b"k", b"2")).put.revision
    done = await asked.run(kv.Operation(compact=kv.CompactRequest(revision=second)))
    assert done.compact.revision == second
    old = await asked.run(kv.Operation(range=kv.RangeRequest(key=b"k", revision=first)))
    assert (old.error.code, old.error.number) == (common.COMPACTED, second)
    again = await asked.run(kv.Operation(compact=kv.CompactRequest(revision=first)))
    assert (again.error.code, again.error.number) == (common.COMPACTED, second)
    future = await asked.run(kv.Operation(compact=kv.CompactRequest(revision=2**40)))
    assert future.error.code == common.FUTURE_REVISION
    assert (await asked.get(b"k")).kvs[0].value == b"2"


async def test_ranges_sorted_filtered_and_by_cursor(asked: Asked) -> None:
    revisions = {value: (await asked.put(value * 2, value)).put.revision for value in (b"c", b"a", b"d", b"b")}
    request = kv.RangeRequest(
        key=b"a", range_end=b"z", limit=2, order=kv.RangeRequest.VALUE, descending=True,
        min_mod_revision=revisions[b"a"],
    )  # fmt: skip
    page = (await asked.run(kv.Operation(range=request))).range
    assert ([pair.value for pair in page.kvs], page.more) == ([b"d", b"b"], True)
    request.cursor = page.cursor
    page = (await asked.run(kv.Operation(range=request))).range
    assert ([pair.value for pair in page.kvs], page.more, page.cursor) == ([b"a"], False, b"")
    request.cursor = b"nonsense"
    assert (await asked.run(kv.Operation(range=request))).error.code == common.INVALID_ARGUMENT
    one = kv.RangeRequest(key=b"aa", max_mod_revision=revisions[b"c"])
    assert not (await asked.run(kv.Operation(range=one))).range.kvs, "filters hold for a single key too"


async def test_a_verdict_of_the_state_machine_is_never_called_ambiguous() -> None:
    """An attempt with an open outcome, then one that is refused for good: had the first been applied, its session
    would have answered with that."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        session = await leader.register()
        stale = kv.PutRequest(key=b"k", fences=[kv.Fence(lock=b"lock", token=9)])
        late = kv.RangeRequest(key=b"k")
        batch = kv.BatchRequest(
            session=session,
            operations=[kv.Operation(id=1, put=stale), kv.Operation(id=2, range=late)],
        )
        cluster.cut_off.add(leader.id)
        running = asyncio.create_task(follower.requests.run(batch, forwarded=False))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert cluster.forwarded >= 1
        leader.node.transfer_leader(follower.id)
        answer = {result.id: result for result in (await running).results}
        assert answer[1].error.code == common.STALE_FENCE
        assert not answer[1].error.ambiguous
        assert answer[2].HasField("range")


async def test_a_batch_of_everything_is_answered_once_each() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        operations = [
            kv.Operation(put=kv.PutRequest(key=b"k", lease=1)),
            kv.Operation(range=kv.RangeRequest(key=b"k")),
            kv.Operation(range=kv.RangeRequest(key=b"k", level=kv.LOCAL)),
            kv.Operation(delete=kv.DeleteRequest(key=b"a", range_end=b"b")),
            kv.Operation(register_session=kv.RegisterSessionRequest()),
            kv.Operation(txn=kv.TxnRequest()),
            kv.Operation(compact=kv.CompactRequest(revision=2**40)),
            kv.Operation(lease_grant=lease.LeaseGrantRequest(ttl_ms=1000)),
            kv.Operation(lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[4])),
            kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=4)),
            kv.Operation(lease_time_to_live=lease.LeaseTimeToLiveRequest(id=4)),
            kv.Operation(lease_list=lease.LeaseListRequest()),
            kv.Operation(lock_acquire=lock.LockAcquireRequest(name=b"lock", lease=4)),
            kv.Operation(lock_release=lock.LockReleaseRequest(name=b"lock", lease=4)),
            kv.Operation(lock_proclaim=lock.LockProclaimRequest(name=b"lock", lease=4, token=3)),
            kv.Operation(lock_query=lock.LockQueryRequest(name=b"lock")),
            kv.Operation(),
        ]
        for number, operation in enumerate(operations, 1):
            operation.id = number
        kinds = [descriptor.name for descriptor in kv.Operation.DESCRIPTOR.oneofs[0].fields]
        assert {operation.WhichOneof("operation") for operation in operations} == {*kinds, None}
        for member in (leader, cluster.follower(leader)):
            answer = await member.requests.run(kv.BatchRequest(operations=operations), forwarded=False)
            assert sorted(result.id for result in answer.results) == list(range(1, len(operations) + 1))


async def test_answers_of_many_transactions_that_read_fit_into_a_message(asked: Asked) -> None:
    """Each may read a megabyte, and a client sends in one batch whatever is called at the same time."""
    await asked.put(b"large", bytes(1_000_000))
    batch = kv.BatchRequest(session=asked.session, timeout_ms=5_000)
    for number in range(600):
        then = [
            kv.TxnOperation(range=kv.RangeRequest(key=b"large")),
            kv.TxnOperation(put=kv.PutRequest(key=b"%d" % number)),
        ]
        txn = kv.TxnRequest(branch=kv.TxnBranch(then=then))
        batch.operations.add(id=next(asked.sequences)).txn.CopyFrom(txn)
    waiting = {operation.id for operation in batch.operations}
    doubtful = 0
    for _ in range(2):
        answer = await asked.member.requests.run(batch, forwarded=False)
        assert answer.ByteSize() < 8 << 20
        assert {result.id for result in answer.results} == {operation.id for operation in batch.operations}
        refused = {result.id: result.error for result in answer.results if result.HasField("error")}
        assert {error.code for error in refused.values()} == {common.OVERLOADED}
        doubtful += sum(error.ambiguous for error in refused.values())
        assert len(waiting - refused.keys()) == 5
        waiting &= refused.keys()
        # What was answered is not asked for again.
        rest = [operation for operation in batch.operations if operation.id in waiting]
        del batch.operations[:]
        batch.operations.extend(rest)
    assert doubtful, "some had taken effect, and said so"
