"""A disk that has been a witness's does not come back as a member that holds data, nor the other way round."""

from __future__ import annotations

import asyncio

import pytest

from raftkv.client import AsyncClient, MemberKind
from raftkv.testing.cluster import LocalCluster
from tests.integration.promotion import promote
from tests.integration.waiting import PATIENCE_S

pytestmark = pytest.mark.processes

WAY_OUT = "The way out: `raftkv member remove 3`, and join with --join, under a new id and with an empty data directory"


@pytest.mark.parametrize("witness_first", [True, False], ids=["a-witness-returns-with-data", "a-data-node-as-witness"])
@pytest.mark.parametrize("restarts", [True, False], ids=["restarted", "running"])
async def test_a_disk_stays_of_its_kind(*, witness_first: bool, restarts: bool) -> None:
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        await cluster.add()
        await promote(client, 2)
        node = await cluster.add(witness=witness_first)
        await client.put("k", "v")
        await cluster.converged()
        await client.remove_members(node.id)
        if restarts:
            await node.stop()
        await client.add_member(node.id, node.peer_address, witness=not witness_first)
        if restarts:
            await node.start()
        async with asyncio.timeout(PATIENCE_S):
            assert await node.wait_ended() == 1
        assert WAY_OUT in node.log()

        # It has promised nothing, so the others go on, and take it out again.
        members = await client.remove_members(node.id)
        assert {member.id: member.kind for member in members} == {1: MemberKind.VOTER, 2: MemberKind.VOTER}
