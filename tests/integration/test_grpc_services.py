"""Transactions, leases and locks as a client in any language meets them: raw single calls, on any node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc.aio
import pytest
import pytest_asyncio

from raftkv.testing.cluster import LocalCluster
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2, lease_pb2, lock_pb2
from tests.integration.stubs import Stubs, detail_of, stubs
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


@pytest_asyncio.fixture(loop_scope="package", params=["leader", "follower"])
async def asked(request: pytest.FixtureRequest, cluster: LocalCluster) -> AsyncIterator[Stubs]:
    leader = cluster.node(await cluster.leader())
    follower = next(node for node in cluster.nodes if node is not leader)
    async with stubs((leader if request.param == "leader" else follower).client_address) as asked:
        yield asked


async def granted(asked: Stubs, ttl_ms: int = 60_000) -> int:
    return (await asked.lease.Grant(lease_pb2.LeaseGrantRequest(ttl_ms=ttl_ms), timeout=PATIENCE_S)).id


async def test_a_lease_from_its_grant_to_its_end(asked: Stubs, prefix: str) -> None:
    key = f"{prefix}key".encode()
    lease_id = await granted(asked)
    await asked.kv.Put(kv_pb2.PutRequest(key=key, lease=lease_id), timeout=PATIENCE_S)
    kept = await asked.lease.KeepAlive(lease_pb2.LeaseKeepAliveRequest(ids=[lease_id]), timeout=PATIENCE_S)
    assert list(kept.ttls_ms) == [60_000]
    ask = lease_pb2.LeaseTimeToLiveRequest(id=lease_id, keys=True)
    shown = await asked.lease.TimeToLive(ask, timeout=PATIENCE_S)
    assert (shown.granted_ttl_ms, list(shown.keys)) == (60_000, [key])
    assert 0 < shown.ttl_ms <= 60_000
    assert lease_id in (await asked.lease.List(lease_pb2.LeaseListRequest(), timeout=PATIENCE_S)).ids
    revoked = await asked.lease.Revoke(lease_pb2.LeaseRevokeRequest(id=lease_id), timeout=PATIENCE_S)
    assert revoked.deleted == 1
    assert revoked.header.revision >= revoked.revision
    assert (await asked.lease.TimeToLive(ask, timeout=PATIENCE_S)).granted_ttl_ms == 0


async def test_a_lock_from_its_acquisition_to_its_release(asked: Stubs, prefix: str) -> None:
    name = f"{prefix}lock".encode()
    lease_id = await granted(asked)
    request = lock_pb2.LockAcquireRequest(name=name, lease=lease_id, value=b"me")
    held = await asked.lock.Acquire(request, timeout=PATIENCE_S)
    assert (await asked.lock.Acquire(request, timeout=PATIENCE_S)).token == held.token > 0
    show = lock_pb2.LockProclaimRequest(name=name, lease=lease_id, token=held.token, value=b"still me")
    await asked.lock.Proclaim(show, timeout=PATIENCE_S)
    line = await asked.lock.Query(lock_pb2.LockQueryRequest(name=name), timeout=PATIENCE_S)
    assert [(one.token, one.value) for one in line.contenders] == [(held.token, b"still me")]
    assert (await asked.lock.Release(lock_pb2.LockReleaseRequest(name=name, lease=lease_id), timeout=PATIENCE_S)).held


async def test_a_transaction_of_a_session_and_a_compaction(asked: Stubs, prefix: str) -> None:
    session = await asked.kv.RegisterSession(kv_pb2.RegisterSessionRequest(), timeout=PATIENCE_S)
    key = f"{prefix}key".encode()
    txn = kv_pb2.TxnRequest(
        stamp=common_pb2.WriteStamp(session=session.session, sequence=1),
        branch=kv_pb2.TxnBranch(
            compares=[kv_pb2.Compare(key=key, target=kv_pb2.Compare.VERSION)],
            then=[kv_pb2.TxnOperation(put=kv_pb2.PutRequest(key=key, value=b"1"))],
        ),
    )
    first = await asked.kv.Txn(txn, timeout=PATIENCE_S)
    assert first.branch.succeeded
    again = await asked.kv.Txn(txn, timeout=PATIENCE_S)
    assert (again.revision, again.branch) == (first.revision, first.branch)
    done = await asked.kv.Compact(kv_pb2.CompactRequest(revision=first.revision), timeout=PATIENCE_S)
    assert done.revision == first.revision


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, common_pb2.Error]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    detail = detail_of(error.value)
    assert detail is not None
    assert detail.message == error.value.details()
    assert not detail.ambiguous
    return error.value.code(), detail


async def test_each_refusal_has_its_own_status(asked: Stubs, prefix: str) -> None:
    name, lease_id, other = f"{prefix}lock".encode(), await granted(asked), await granted(asked)
    held = await asked.lock.Acquire(lock_pb2.LockAcquireRequest(name=name, lease=lease_id), timeout=PATIENCE_S)
    compacted = (await asked.kv.Put(kv_pb2.PutRequest(key=name), timeout=PATIENCE_S)).revision
    await asked.kv.Compact(kv_pb2.CompactRequest(revision=compacted), timeout=PATIENCE_S)
    status, code = grpc.StatusCode, common_pb2.ErrorCode
    calls: list[tuple[Callable[[], Awaitable[object]], grpc.StatusCode, int, int]] = [
        (lambda: asked.lease.Revoke(lease_pb2.LeaseRevokeRequest(id=2**60)), status.NOT_FOUND, code.LEASE_NOT_FOUND, 0),
        (
            lambda: asked.lease.Grant(lease_pb2.LeaseGrantRequest(id=lease_id, ttl_ms=1000)),
            status.ALREADY_EXISTS,
            code.LEASE_EXISTS,
            0,
        ),
        (
            lambda: asked.lease.Grant(lease_pb2.LeaseGrantRequest(ttl_ms=1)),
            status.INVALID_ARGUMENT,
            code.INVALID_ARGUMENT,
            0,
        ),
        (
            lambda: asked.lock.Acquire(lock_pb2.LockAcquireRequest(name=name, lease=other, no_wait=True)),
            status.FAILED_PRECONDITION,
            code.LOCK_BUSY,
            0,
        ),
        (
            lambda: asked.lock.Acquire(lock_pb2.LockAcquireRequest(name=name, lease=other, kind=lock_pb2.ELECTION)),
            status.FAILED_PRECONDITION,
            code.FAILED_PRECONDITION,
            0,
        ),
        (
            lambda: asked.kv.Put(kv_pb2.PutRequest(key=name, fences=[kv_pb2.Fence(lock=name, token=held.token + 1)])),
            status.FAILED_PRECONDITION,
            code.STALE_FENCE,
            held.token,
        ),
        (
            lambda: asked.kv.Range(kv_pb2.RangeRequest(key=name, revision=compacted - 1)),
            status.OUT_OF_RANGE,
            code.COMPACTED,
            compacted,
        ),
        (
            lambda: asked.kv.Compact(kv_pb2.CompactRequest(revision=2**60)),
            status.OUT_OF_RANGE,
            code.FUTURE_REVISION,
            0,
        ),
    ]
    for call, expected_status, expected_code, number in calls:
        found_status, detail = await refused(call())
        assert (found_status, detail.code, detail.number) == (expected_status, expected_code, number), detail.message


async def test_the_status_of_a_node_says_how_large_its_state_is(asked: Stubs) -> None:
    session = await asked.kv.RegisterSession(kv_pb2.RegisterSessionRequest(), timeout=PATIENCE_S)
    assert session.session
    await granted(asked)
    async with asyncio.timeout(PATIENCE_S):
        while True:  # a follower applies a little later than the leader has answered
            found = await asked.cluster.Status(cluster_pb2.StatusRequest())
            if found.sessions and found.leases:
                break
    assert 0 < found.used_bytes <= found.store_bytes
    assert found.quota_bytes == 8 << 30
    assert not found.alarms
