"""Quorum reads that the client coordinates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from raftkv.client import AsyncClient, Guarantee, Quorum, ReadToken, coordinator
from raftkv.errors import ErrorCode, InvalidArgument, QuorumUnavailable
from raftkv.quorum import LogEnd, Membership
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, refusal

MINE = Quorum(coordinator="client")


async def test_it_needs_no_leader(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        for node in cluster.nodes.values():
            node.script = refusal(ErrorCode.NO_LEADER)
        await cluster[1].stop()
        found = await client.read("k", level=MINE)
        assert found.pair is not None
        assert found.pair.value == b"v"
        assert found.guarantee is Guarantee.LINEARIZABLE
        assert (found.receipt.replicas, found.receipt.sees_writes_at) == (2, 2)
        assert found.receipt.served_by in (2, 3)
        assert found.receipt.configuration_index == 0
        assert client.token == ReadToken(7, 1, 1)
    assert not cluster[2].ids("range")
    assert not cluster[3].ids("range"), "no operation of the pipeline has any part in it"


async def test_below_a_majority_it_claims_no_more_than_it_has(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        found = await client.read("k", level=Quorum(1, coordinator="client"))
        assert (found.guarantee, found.receipt.sees_writes_at) == (Guarantee.SEES_WRITES_AT_W_GE, 3)
        pair = await client.get("k", level=Quorum(3, coordinator="client"))
        assert pair is not None
        assert pair.guarantee is Guarantee.LINEARIZABLE
        with pytest.raises(InvalidArgument, match=r"QUORUM\(4\) is not possible: 1 to 3 voters"):
            await client.get("k", level=Quorum(4, coordinator="client"))


async def test_the_state_that_answers_has_the_end_of_the_logs(cluster: FakeCluster) -> None:
    """Control of the rinse: the node that lags is asked as well, and is not what answers."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "old")
        cluster[2].freeze()
        await client.put("k", "new")
        for _ in range(5):
            found = await client.read("k", level=MINE)
            assert found.pair is not None
            assert found.pair.value == b"new"
    asked = [one for node in cluster.nodes.values() for one in node.ranges]
    assert {(one.level, one.after.term, one.after.index) for one in asked} == {(kv_pb2.ReadLevel.AT_LEAST, 1, 2)}


async def test_an_end_that_nobody_has_applied_is_waited_for(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "old")
        await client.put("k", "new", concern="leader")
        with pytest.raises(QuorumUnavailable, match=r"index 2 of term 1.* is not known without a leader"):
            await client.get("k", level=Quorum(3, coordinator="client"), timeout=0.3)


async def test_an_entry_of_a_later_term_rinses_as_well(cluster: FakeCluster) -> None:
    """A log's end that was never committed: the next leader's log has other entries there, and is shorter."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("a", "v")
        for node in cluster.nodes.values():
            node.log_end = LogEnd(1, 99)
        cluster.elect(2)
        await client.put("k", "new")
        assert cluster.store.log.end == LogEnd(2, 2)
        pair = await client.get("k", level=MINE)
        assert pair is not None
        assert pair.value == b"new"


async def test_too_few_voters(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses, attempt_timeout=0.1) as client:
        await client.put("k", "v")
        await cluster[2].stop()
        await cluster[3].stop()
        with pytest.raises(QuorumUnavailable, match=r"1 of 3 voters .* 2 are needed; no answer from \[2, 3\]"):
            await client.get("k", level=MINE, timeout=0.4)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes' answers come in the order of their ids."""
    real = coordinator._log_ends

    async def ordered(*arguments: Any) -> AsyncGenerator[Any, None]:
        for one in sorted([one async for one in real(*arguments)], key=lambda one: one.member_id):
            yield one

    monkeypatch.setattr(coordinator, "_log_ends", ordered)


@pytest.mark.usefixtures("in_order")
async def test_a_newer_configuration_begins_it_anew(cluster: FakeCluster) -> None:
    """Answers that count the voters of another configuration do not make a quorum of this one. Node 1 does not know of
    it yet, and answers first."""
    newer = Membership(5, frozenset({2, 3}), frozenset(), joint=False)
    async with AsyncClient(cluster.addresses) as client:
        for number in range(5):
            await client.put("k", f"{number}")
        cluster[3].membership = newer
        cluster[2].membership = newer
        found = await client.read("k", level=MINE)
        assert found.receipt.configuration_index == 5
        assert found.receipt.replicas == 2
    assert [node.log_ends for node in cluster.nodes.values()] == [2, 2, 2]


async def test_in_a_joint_configuration_there_is_no_quorum_read(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        settled = cluster.membership
        cluster.membership = settled._replace(joint=True)
        with pytest.raises(QuorumUnavailable, match="a change of the members is under way"):
            await client.get("k", level=MINE, timeout=0.2)
        reading = asyncio.ensure_future(client.get("k", level=MINE))
        asked = cluster[1].log_ends
        async with asyncio.timeout(60):
            while cluster[1].log_ends < asked + 2:
                await client.status()
        cluster.membership = settled
        assert await reading is not None


@pytest.mark.usefixtures("in_order")
async def test_a_witness_tells_the_end_of_its_log_and_answers_no_read(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        cluster[2].witness = True
        cluster.membership = Membership(0, frozenset({1, 2, 3}), frozenset({2}), joint=False)
        await cluster[1].stop()
        found = await client.read("k", level=MINE)
        assert (found.receipt.served_by, found.receipt.replicas) == (3, 2)
    assert not cluster[2].ranges


async def test_voters_that_were_never_named_are_learned(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster[1].address) as client:
        assert (await client.read("k", level=MINE)).guarantee is Guarantee.LINEARIZABLE
        assert (await client.read("k", level=Quorum(3, coordinator="client"))).receipt.replicas == 3


async def test_voters_that_are_not_asked_are_not_said_to_be_silent(cluster: FakeCluster) -> None:
    addresses = [cluster[1].address, cluster[2].address]
    async with AsyncClient(addresses, dial_learned=False, attempt_timeout=0.1) as client:
        await client.put("k", "v")
        async with asyncio.timeout(60):
            while not all(one.member_id for one in client.endpoint_states()):
                await client.status()
        await cluster[2].stop()
        with pytest.raises(
            QuorumUnavailable, match=r"1 of 3 .*; no answer from \[2\]; not asked, .* not among the endpoints: \[3\]"
        ):
            await client.get("k", level=MINE, timeout=0.3)
    async with AsyncClient(cluster[1].address, dial_learned=False) as client:
        with pytest.raises(QuorumUnavailable, match=r"1 of 3 .* needed; not asked, .* the endpoints: \[2, 3\]"):
            await client.get("k", level=MINE, timeout=0.2)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("seen", [False, True])
async def test_what_another_cluster_says_does_not_count(cluster: FakeCluster, seen: bool) -> None:
    """An address that was reused: its node has voters of the same numbers, and places that mean nothing here."""
    async with AsyncClient(cluster.addresses) as writer, AsyncClient(cluster.addresses) as client:
        await writer.put("k", "v")
        if seen:
            await client.get("k")
        for foreign in (cluster[2], cluster[3]):
            foreign.cluster_id = 99
            foreign.log_end = LogEnd(9, 99)
        with pytest.raises(QuorumUnavailable, match="1 of 3 voters"):
            await client.get("k", level=MINE, timeout=0.3)
        cluster[2].cluster_id = 7
        cluster[2].log_end = None
        found = await client.read("k", level=MINE)
        assert found.receipt.replicas == 2
        assert found.receipt.served_by in (1, 2)
    assert cluster[1].asked_as[0] == (7 if seen else 0)


@pytest.mark.usefixtures("in_order")
async def test_another_clusters_state_is_no_answer(cluster: FakeCluster) -> None:
    """It may have come farther than the target, in a log of its own."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "v")
        cluster[1].freeze()
        cluster[3].cluster_id = 99
        await client.put("k", "w")
        await cluster[2].stop()
        cluster[1].log_end = LogEnd(1, 2)
        cluster[2].log_end = LogEnd(1, 2)
        with pytest.raises(QuorumUnavailable, match="applied by no node that was asked"):
            await client.get("k", level=Quorum(1, coordinator="client"), timeout=0.3)


async def test_it_does_not_go_back_in_time(cluster: FakeCluster) -> None:
    """R = 1 may be less than what the client has seen."""
    async with AsyncClient(cluster.addresses) as client:
        await client.put("k", "old")
        cluster[2].freeze()
        cluster[2].log_end = LogEnd(1, 1)
        await client.put("k", "new")
        await cluster[1].stop()
        for _ in range(5):
            pair = await client.get("k", level=Quorum(1, coordinator="client"))
            assert pair is not None
            assert pair.value == b"new"


async def test_one_endpoint_cannot_be_asked_for_it(cluster: FakeCluster) -> None:
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(InvalidArgument, match='coordinator="client" asks the voters itself'):
            await client.get("k", level=MINE, endpoint=cluster[1].address)
