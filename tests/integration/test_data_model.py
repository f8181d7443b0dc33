"""Transactions, conditions, orders and history, from the client through real nodes."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from raftkv.client import (
    AsyncClient,
    DeleteResult,
    KeyValue,
    Order,
    PutResult,
    RangeResult,
    TxnResult,
    count,
    create_revision,
    delete,
    delete_prefix,
    get,
    get_prefix,
    lease_of,
    mod_revision,
    put,
    value,
    version,
    when,
)
from raftkv.errors import (
    Compacted,
    FutureRevision,
    InvalidArgument,
    KeyExists,
    LeaseNotFound,
    RevisionMismatch,
)
from raftkv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def test_conflicts_have_types(client: AsyncClient, prefix: str) -> None:
    key = f"{prefix}k"
    created = await client.create(key, "1")
    with pytest.raises(KeyExists) as exists:
        await client.create(key, "2")
    assert (exists.value.pair.value, exists.value.pair.create_revision) == (b"1", created.revision)
    updated = await client.update(key, "2", if_revision=created.revision)
    with pytest.raises(RevisionMismatch) as mismatch:
        await client.update(key, "3", if_revision=created.revision)
    assert mismatch.value.pair is not None
    assert mismatch.value.pair.mod_revision == updated.revision
    with pytest.raises(RevisionMismatch):
        await client.delete(key, if_revision=created.revision)
    put_back = await client.put(key, "3", previous=True)
    assert put_back.previous is not None
    assert (put_back.previous.value, put_back.previous.version) == (b"2", 2)
    deleted = await client.delete(key, if_revision=put_back.revision, previous=True)
    assert deleted.deleted == 1
    assert [pair.value for pair in deleted.previous] == [b"3"]
    with pytest.raises(LeaseNotFound):
        await client.create(key, "4", lease=2**63)
    assert await client.get(key) is None


async def test_counters_by_conditions_lose_nothing(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    key = f"{prefix}count"
    await client.create(key, "0")

    async def work() -> None:
        for _ in range(10):
            while True:
                pair = await client.get(key)
                assert pair is not None
                try:
                    await client.update(key, str(int(pair.value) + 1), if_revision=pair.mod_revision)
                    break
                except RevisionMismatch:
                    continue

    await asyncio.gather(*(work() for _ in range(5)))
    pair = await client.get(key)
    assert pair is not None
    assert (pair.value, pair.version) == (b"50", 51)


async def test_a_transaction_sees_its_own_writes_and_makes_one_revision(client: AsyncClient, prefix: str) -> None:
    a, b, c = (f"{prefix}{name}" for name in "abc")
    before = (await client.put(a, "1")).revision
    txn = (
        client.txn()
        .when(value(a) == "1", version(b) == 0, mod_revision(a) == before, create_revision(prefix=prefix) > 0)
        .when(lease_of(a) == 0, version(prefix=f"{prefix}none") == 0)
        .then(put(a, "2", previous=True), get(a), count(prefix), delete_prefix(f"{prefix}none"))
        .then(when(version(b) == 0).then(put(b, "1"), get_prefix(prefix)).otherwise(delete(c)))
        .otherwise(get(a), get(c))
    )
    result = await txn.commit()
    assert (result.succeeded, result.revision) == (True, before + 1)
    written, read, number, deleted, nested = result.results
    assert isinstance(written, PutResult)
    assert written.previous is not None
    assert written.previous.value == b"1"
    assert isinstance(read, KeyValue)
    assert (read.value, read.mod_revision, read.version) == (b"2", before + 1, 2)
    assert number == 1
    assert isinstance(deleted, DeleteResult)
    assert deleted.deleted == 0
    assert isinstance(nested, TxnResult)
    assert nested.results[0] == PutResult(before + 1)
    assert isinstance(nested.results[1], RangeResult)
    assert [pair.key for pair in nested.results[1].pairs] == [a.encode(), b.encode()]
    again = await txn.commit()
    assert (again.succeeded, again.revision, again.results[1]) == (False, before + 1, None)
    for nonsense in (
        client.txn().then(put(a, "1"), put(a, "2")),
        client.txn().then(put(a, "1"), delete_prefix(prefix)),
    ):
        with pytest.raises(InvalidArgument):
            await nonsense.commit()


async def test_pages_go_on_in_every_order_at_one_revision(client: AsyncClient, prefix: str) -> None:
    numbers = [5, 3, 8, 1, 9, 2, 7]
    for number in numbers:
        await client.put(f"{prefix}{number}", str(10 - number))
    middle = (await client.get(f"{prefix}1")) or pytest.fail("it was put")
    by_key = sorted(numbers)
    for order, expected in (
        (Order.KEY, by_key),
        (Order.VALUE, by_key[::-1]),
        (Order.MOD_REVISION, numbers),
        (Order.CREATE_REVISION, numbers),
    ):
        for descending in (False, True):
            found = []
            async for pair in client.scan(prefix, page=2, order=order, descending=descending):
                found.append(int(pair.key.removeprefix(prefix.encode())))
                if len(found) == 1:
                    await client.put(f"{prefix}0", "")
                    await client.delete(f"{prefix}0")
            assert found == (expected[::-1] if descending else expected), (order, descending)
    late = await client.prefix(prefix, min_mod_revision=middle.mod_revision, order=Order.MOD_REVISION)
    assert [int(pair.key.removeprefix(prefix.encode())) for pair in late.pairs] == numbers[3:]
    early = [pair async for pair in client.scan(prefix, page=1, max_create_revision=middle.mod_revision - 1)]
    assert len(early) == 3


async def test_compaction_gives_history_up_and_nothing_else(client: AsyncClient, prefix: str) -> None:
    key = f"{prefix}k"
    first = (await client.put(key, "1")).revision
    second = (await client.put(key, "2")).revision
    old = await client.get(key, revision=first)
    assert old is not None
    assert old.value == b"1"
    assert await client.compact(second) == second
    with pytest.raises(Compacted) as compacted:
        await client.get(key, revision=first)
    assert compacted.value.compacted_revision == second
    now = await client.get(key, revision=second)
    assert now is not None
    assert now.value == b"2"
    with pytest.raises(FutureRevision):
        await client.compact(second + 1_000_000)
    with pytest.raises(Compacted):
        await client.compact(first)


async def test_the_synchronous_client_does_all_that(cluster: LocalCluster, prefix: str) -> None:
    script = """
import sys, threading
from raftkv.client import Client, InstanceEventKind, put, version

prefix = sys.argv[1]
with Client.from_env(timeout=60.0) as client:
    order = []
    def work(number):
        with client.lock(prefix + "lock") as held:
            order.append(held.token)
            client.put(prefix + "k", str(number), fence=held.fence())
    first = client.lock(prefix + "lock")
    first.acquire()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    first.release()
    for thread in threads:
        thread.join()
    assert order == sorted(set(order)) and len(order) == 4
    assert client.txn().when(version(prefix + "k") == 4).then(put(prefix + "k", "5")).commit().succeeded
    service = client.service("sync")
    events = service.watch()
    with service.register("h:1", instance_id="1"):
        event = next(events)
        assert (event.kind, event.instance.address) == (InstanceEventKind.JOIN, "h:1")
    assert next(events).kind is InstanceEventKind.LEAVE
    events.close()
    election = client.election(prefix + "e", "me")
    observed = election.observe()
    assert next(observed) is None
    with election:
        assert next(observed).value == b"me"
    assert next(observed) is None
    observed.close()
    print("done")
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        script,
        prefix,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"RAFTKV_ENDPOINTS": ",".join(cluster.endpoints)},
    )
    out, _ = await process.communicate()
    assert out.decode() == "done\n"
    assert process.returncode == 0
