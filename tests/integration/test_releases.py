"""Nodes of other releases and with other settings, as real processes: who goes together, and what is said if not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import raftkv
from raftkv.client import AsyncClient, SettingsDrift
from raftkv.testing.cluster import PROGRAM, LocalCluster
from raftkv.testing.release import release
from raftkv.transport.greetings import PROTOCOL_VERSION, Versions
from tests.integration.waiting import PATIENCE_S, POLL_S, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

THIS = Versions(PROTOCOL_VERSION, PROTOCOL_VERSION)


@pytest_asyncio.fixture(loop_scope="package")
async def mixed() -> AsyncIterator[LocalCluster]:
    """Two nodes of this release, and the last one of the release before."""
    cluster = LocalCluster(3)
    cluster.nodes[2].program = release("0.0.9", speaks=THIS, early=True)
    cluster.nodes[2].extra_arguments = ["--election-ms", "300"]
    async with cluster:
        yield cluster


async def test_releases_and_settings_that_differ(mixed: LocalCluster) -> None:
    """One cluster for all of it: starts cost more than what is tested."""
    first, _, last = mixed.nodes
    async with AsyncClient(mixed.url) as client:

        async def drift() -> tuple[SettingsDrift, ...]:
            return (await client.status(first.client_address)).drift

        await client.put("who", "the release before, and this one")
        statuses = [await client.status(node.client_address) for node in mixed.nodes]
        assert [status.version for status in statuses] == [raftkv.__version__, raftkv.__version__, "0.0.9"]
        assert {status.protocol_version for status in statuses} == {PROTOCOL_VERSION}
        assert await drift() == (), "it does not tell its settings"

        await last.stop()
        last.program = PROGRAM
        await last.start()
        async with asyncio.timeout(PATIENCE_S):
            while not await drift():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        assert await drift() == (SettingsDrift(last.id, "election_ms", "250", "300"),)
        await until("it is logged", lambda: "--election-ms is 250 on node 1 and 300 on node 3" in first.log())

        await last.stop()
        last.program = release("9.0.0", speaks=Versions(PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2))
        last.extra_arguments = []
        await last.start()
        await client.put("who", "goes on without it")
        await until(
            "both say why they do not talk", lambda: all("upgrade one release" in n.log() for n in (first, last))
        )
        assert (await last.answers()).leader_id == 0, "it has heard nobody"
        assert (await client.status(first.client_address)).protocol_version == PROTOCOL_VERSION
