"""Write concerns: what is sent, and what the answer says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.client import (
    AsyncClient,
    AtLeast,
    Client,
    DeleteResult,
    Guarantee,
    PutResult,
    ReadLevel,
    ReadToken,
    WriteReceipt,
    put,
    version,
)
from raftkv.errors import InvalidArgument, TooStale, WriteLost
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster


async def test_a_write_says_how_it_was_acknowledged(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster[1].address, dial_learned=False) as client:
        written = await client.put("k", "v")
        assert (written.committed, written.durable_on, written.receipt.wanted) == (True, 2, 2)
        assert (written.receipt.cluster_id, written.receipt.term, written.receipt.index) == (7, 1, 1)
        everywhere = await client.put("k", "v", concern="all")
        assert (everywhere.durable_on, everywhere.receipt.reached) == (3, True)
        result = await client.txn().when(version("k") == 2).then(put("k", "w")).commit(concern=2)
        assert result.receipt == WriteReceipt(7, 1, 3, committed=True, durable_on=2, wanted=2)
        (outcome,) = result.results
        assert isinstance(outcome, PutResult)
        assert outcome.receipt == result.receipt
        assert (await client.create("new", "v", concern="all")).durable_on == 3
    assert [one.put.write_concern for one in cluster[1].operations if one.HasField("put")] == [0, -2]
    assert [one.txn.write_concern for one in cluster[1].operations if one.HasField("txn")] == [2, -2]


async def test_a_write_that_is_not_committed_says_so_and_has_no_result(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        early = await client.put("k", "w", concern="leader")
        assert (early.committed, early.revision, early.durable_on) == (False, 0, 1)
        assert early.receipt.token == client.token
        gone = await client.delete("k", concern=1)
        assert (gone.committed, gone.deleted, gone.revision) == (False, None, 0)
        assert gone.receipt.index == 3


async def test_a_concern_that_is_not_reached_is_a_result_and_says_so(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        cluster[3].silent = True
        written = await client.put("k", "v", concern="all")
    assert (written.committed, written.durable_on, written.receipt.wanted) == (True, 2, 3)
    assert not written.receipt.reached
    assert written.receipt.words == "committed, on the disks of 2, 3 were asked for and not reached in time"


@pytest.mark.parametrize("concern", [0, -1, -2, "quorum", "ALL", "", 1.5, True, "0"])
async def test_what_is_no_concern_is_refused_before_it_is_sent(cluster: FakeCluster, concern: Any) -> None:
    async with AsyncClient(cluster.addresses) as client:
        for refused in (
            client.put("k", "v", concern=concern),
            client.delete("k", concern=concern),
            client.delete_prefix("k", concern=concern),
            client.create("k", "v", concern=concern),
            client.txn().then(put("k", "v")).commit(concern=concern),
        ):
            with pytest.raises(InvalidArgument, match="none of leader, majority, all, or a number of voters from 1 on"):
                await refused
    assert not cluster[1].operations


async def test_more_voters_than_there_are(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(InvalidArgument, match="write concern 4 is not possible: 1 to 3 voters"):
            await client.put("k", "v", concern=4)


async def test_what_has_a_result_needs_a_majority(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        for refused in (
            client.txn().then(put("k", "v")).commit(concern="leader"),
            client.create("k", "v", concern=1),
            client.update("k", "v", if_revision=1, concern=1),
            client.delete("k", if_revision=1, concern=1),
            client.put("k", "v", previous=True, concern=1),
            client.put("k", "v", lease=5, concern=1),
        ):
            with pytest.raises(InvalidArgument, match="below a majority: 2 to 3 voters"):
                await refused


@pytest.mark.parametrize("read_before", [False, True])
async def test_a_lost_write_is_told_once(cluster: FakeCluster, read_before: bool) -> None:
    """Also when how to ask at that level was worked out before the write."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        if read_before:
            await client.get("k", level=ReadLevel.LOCAL)
        await client.put("k", "w", concern="leader")
        cluster.elect(2)
        cluster.store.log.lose(cluster.term)
        with pytest.raises(WriteLost):
            await client.get("k", level=ReadLevel.LOCAL)
        pair = await client.get("k", level=ReadLevel.LOCAL)
        assert pair is not None
        assert pair.value == b"v"
        token = client.token
        assert token is not None
        assert token.committed


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("level", [ReadLevel.LINEARIZABLE, ReadLevel.LEASE])
@pytest.mark.parametrize("read_before", [False, True])
async def test_a_linearizable_read_sees_an_open_write_of_its_client(
    cluster: FakeCluster, level: ReadLevel, read_before: bool, monotonic: bool
) -> None:
    """The leader may not have committed it yet, or another one may lead. Nothing is added once its fate is known."""
    log = cluster.store.log
    async with AsyncClient(cluster.addresses, monotonic=monotonic) as client:
        await client.put("k", "v")
        if read_before:
            await client.get("k", level=level)
        early = await client.put("k", "w", concern="leader")
        assert early.receipt.index == log.applied + 1
        with pytest.raises(TooStale, match="has applied 1, not 2"):
            await client.get("k", level=level, timeout=0.2)
        log.applied = 2
        found = await client.read("k", level=level)
        assert (found.guarantee, found.receipt.applied_index) == (Guarantee.LINEARIZABLE, 2)
        carried = cluster[found.receipt.served_by].operations[-1].range
        assert (carried.level, carried.here) == (kv_pb2.ReadLevel.LINEARIZABLE, True)
        assert (carried.at_least.term, carried.at_least.index, carried.at_least.committed) == (1, 2, False)
        await client.get("k", level=level)
    plain = cluster[1].operations[-1].range
    assert not plain.HasField("at_least")
    assert not plain.here
    wire = kv_pb2.ReadLevel
    assert plain.level == (wire.LEASE if level is ReadLevel.LEASE else wire.LINEARIZABLE)


@pytest.mark.parametrize("level", [ReadLevel.LINEARIZABLE, ReadLevel.LEASE])
async def test_a_linearizable_read_tells_of_a_lost_write_once(cluster: FakeCluster, level: ReadLevel) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        await client.put("k", "w", concern="leader")
        cluster.elect(2)
        cluster.store.log.lose(cluster.term)
        with pytest.raises(WriteLost):
            await client.get("k", level=level)
        pair = await client.get("k", level=level)
        assert pair is not None
        assert pair.value == b"v"


@pytest.mark.parametrize("one_node", [False, True])
@pytest.mark.parametrize("level", [ReadLevel.LINEARIZABLE, AtLeast()])
async def test_an_earlier_lost_write_is_told_of_after_a_later_one(
    cluster: FakeCluster, level: ReadLevel | AtLeast, one_node: bool
) -> None:
    """The first write is lost with its leader; the second one, in a later term, is not."""
    endpoint = cluster[2].address if one_node else None
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        await client.put("k", "lost", concern="leader")
        cluster.elect(2)
        cluster.store.log.lose(cluster.term)
        kept = await client.put("k", "kept", concern="leader")
        assert kept.receipt.token == client.token == ReadToken(7, 2, 3, committed=False)
        cluster.store.log.applied = 3
        with pytest.raises(WriteLost, match=r"the write at .*1-2\b.* lost"):
            await client.get("k", level=level, endpoint=endpoint)
        found = await client.read("k", level=level, endpoint=endpoint)
        assert found.receipt.applied_index == 3
        assert not client._seen.is_open


async def test_several_open_writes_are_settled_by_one_read(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v", concern="leader")
        cluster.elect(2)
        await client.put("k", "w", concern="leader")
        cluster.elect(3)
        cluster.store.log.applied = cluster.store.log.append(cluster.term)
        assert (await client.read("k")).receipt.applied_index == 3
        assert not client._seen.is_open


async def test_one_node_that_answers_settles_an_open_write_too(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "w", concern="leader")
        cluster.elect(2)
        cluster.store.log.applied = cluster.store.log.append(cluster.term)
        await client.get("k", level=AtLeast(), endpoint=cluster[2].address)
        assert not client._seen.is_open


async def test_of_several_reads_that_carry_a_lost_write_one_is_told(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        await client.put("k", "w", concern="leader")
        cluster.elect(2)
        cluster.store.log.lose(cluster.term)
        found = await asyncio.gather(*(client.get("k", level=AtLeast()) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, WriteLost) for one in found) == 1
    assert sum(getattr(one, "value", None) == b"v" for one in found) == 4


def test_results_without_a_receipt_are_committed() -> None:
    """As those of a node that has none: it acknowledges nothing else."""
    assert PutResult(3).committed
    assert DeleteResult(3, 1).receipt.token is None


def test_the_twins_take_concerns() -> None:
    with Client("127.0.0.1:1", timeout=0.1) as client, pytest.raises(InvalidArgument, match="none of leader"):
        client.put("k", "v", concern=0)
