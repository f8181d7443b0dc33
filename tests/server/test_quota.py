"""The quota: what is refused when the state is large, what is not, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.errors import SpaceExceeded
from raftkv.server.quota import LOOK_S, Quota
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.v1 import common_pb2 as common
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from raftkv.v1 import lock_pb2 as lock
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until


class Store:
    def __init__(self) -> None:
        self.used = 0
        self.looks = 0
        self.now_s = 0.0

    def used_bytes(self) -> int:
        self.looks += 1
        return self.used

    def later(self, used: int) -> None:
        self.used = used
        self.now_s += LOOK_S


def test_the_alarm_ends_when_a_twentieth_is_free_again() -> None:
    store = Store()
    quota = Quota(1000, store.used_bytes, lambda: store.now_s)
    seen = []
    for used in (999, 1000, 999, 951, 950, 949, 999, 1001):
        store.later(used)
        seen.append(quota.exceeded)
    assert seen == [False, True, True, True, True, False, False, True]
    assert isinstance(quota.refusal(), SpaceExceeded)
    assert "1001 of 1000 bytes" in quota.refusal().message


def test_the_store_is_looked_at_once_in_a_while() -> None:
    store = Store()
    quota = Quota(1000, store.used_bytes, lambda: store.now_s)
    assert not any(quota.exceeded for _ in range(1000))
    assert store.looks == 1
    unlimited = Quota(0, store.used_bytes, lambda: store.now_s)
    store.later(1 << 60)
    assert not unlimited.exceeded
    assert store.looks == 1


def undone(store: LmdbStore | MemoryOrderedStore) -> None:
    with store.write() as writer:
        writer.put(b"0/0", bytes(100_000))
        writer.delete(b"1/0")
        _ = 1 // 0


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_what_is_deleted_is_not_used(kind: str, tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", map_size=64 << 20) if kind == "lmdb" else MemoryOrderedStore()
    try:
        assert store.used_bytes() <= 4096
        for number in range(20):
            with store.write() as writer:
                for row in range(50):
                    writer.put(b"%d/%d" % (number, row), bytes(2000))
                writer.put(b"0/0", bytes(number))
        assert 1_900_000 < store.used_bytes() < 4_500_000
        before = store.used_bytes()
        with pytest.raises(ZeroDivisionError):
            undone(store)
        assert store.used_bytes() == before
        for number in range(20):
            with store.write() as writer:
                for row in range(50):
                    writer.delete(b"%d/%d" % (number, row))
        assert store.used_bytes() <= 8192
    finally:
        store.close()


def test_a_copy_of_a_store_in_memory_knows_its_size() -> None:
    store = MemoryOrderedStore()
    with store.write() as writer:
        writer.put(b"key", b"value")
    with store.copy() as blocks:
        assert MemoryOrderedStore.of_copy(b"".join(blocks)).used_bytes() == store.used_bytes() == 8


async def fill(member: MemoryNode) -> kv.OperationResult:
    async def refused() -> kv.OperationResult | None:
        for number in range(20):
            answer = await member.put(b"key-%d" % number, bytes(2000))
            if answer.HasField("error"):
                return answer
        return None

    while (answer := await refused()) is None:
        pass
    return answer


async def test_reads_and_what_frees_space_go_on_and_the_alarm_ends_by_itself() -> None:
    async with MemoryCluster(quota_bytes=100_000) as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        session = await leader.register()
        lease_id = (
            await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=3_600_000)))
        ).lease_grant.id
        held = await leader.run(kv.Operation(id=1, lock_acquire=lock.LockAcquireRequest(name=b"lock", lease=lease_id)))
        full = await fill(follower)
        assert full.error.code == common.SPACE_EXCEEDED
        assert not full.error.retryable
        assert not full.error.ambiguous
        assert "of 100000 bytes" in full.error.message
        assert "--quota-bytes" in full.error.message
        assert leader.requests.quota.exceeded

        put = kv.TxnOperation(put=kv.PutRequest(key=b"k"))
        refused = [
            kv.Operation(put=kv.PutRequest(key=b"k")),
            kv.Operation(put=kv.PutRequest(key=b"k", prev_kv=True)),
            kv.Operation(txn=kv.TxnRequest(branch=kv.TxnBranch(otherwise=[put]))),
            kv.Operation(lease_grant=lease.LeaseGrantRequest(ttl_ms=1000)),
            kv.Operation(lock_acquire=lock.LockAcquireRequest(name=b"other", lease=lease_id)),
            kv.Operation(
                lock_proclaim=lock.LockProclaimRequest(name=b"lock", lease=lease_id, token=held.lock_acquire.token)
            ),
        ]
        revision = leader.node.machine.revision
        taken = [
            kv.Operation(range=kv.RangeRequest(key=b"key-0")),
            kv.Operation(
                txn=kv.TxnRequest(branch=kv.TxnBranch(then=[kv.TxnOperation(range=kv.RangeRequest(key=b"a"))]))
            ),
            kv.Operation(register_session=kv.RegisterSessionRequest()),
            kv.Operation(lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[lease_id])),
            kv.Operation(lock_release=lock.LockReleaseRequest(name=b"lock", lease=lease_id)),
            kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=lease_id)),
            kv.Operation(delete=kv.DeleteRequest(key=b"k", range_end=b"l")),
        ]
        batch = kv.BatchRequest(session=session, operations=refused + taken)
        for number, operation in enumerate(batch.operations, 1):
            operation.id = number
        answer = {result.id: result for result in (await follower.requests.run(batch, forwarded=False)).results}
        assert [answer[number].error.code for number in range(1, 7)] == [common.SPACE_EXCEEDED] * 6
        assert not any(answer[number].HasField("error") for number in range(7, 14)), answer
        assert leader.node.machine.revision > revision

        compact = kv.CompactRequest(revision=leader.node.machine.revision)
        assert (await leader.run(kv.Operation(id=1, compact=compact))).HasField("compact")
        await until(lambda: not leader.requests.quota.exceeded)
        assert (await follower.put(b"k", b"v")).put.revision > compact.revision
