"""A leader that is parted from the others answers by its lease for a while, and never what has become stale."""

from __future__ import annotations

import asyncio
import time

import pytest

from raftkv.checker.history import Operation
from raftkv.client import AsyncClient, Guarantee, KeyValue, ReadLevel
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster
from raftkv.testing.links import PeerLinks
from raftkv.testing.toxiproxy import ToxiproxyServer
from tests.integration.waiting import PATIENCE_S, until
from tests.partition.conftest import ELECTION_MS
from tests.partition.history import read, seconds, violations
from tests.partition.traffic import Traffic

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

READERS = 3


class LeaseReaders:
    """They ask one node for one key, over and over, and remember what it answered by its lease."""

    def __init__(self, address: str, key: str) -> None:
        self.by_lease: list[Operation] = []
        self.refused: list[float] = []
        self._address = address
        self._key = key

    async def run(self) -> None:
        async with AsyncClient([self._address], timeout=0.5) as client, asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(self._read(client))

    async def _read(self, client: AsyncClient) -> None:
        while True:
            began = time.monotonic()
            try:
                pair = await client.get(self._key, level=ReadLevel.LEASE, endpoint=self._address)
            except RaftKVError:
                self.refused.append(began)
                continue
            if pair is not None and pair.guarantee is Guarantee.LEASE:
                self.by_lease.append(_operation(began, pair))


def _operation(began: float, pair: KeyValue) -> Operation:
    return read(began, time.monotonic(), pair.mod_revision, pair.value)


async def test_a_lease_outlives_the_connection_to_the_others_and_never_the_leadership(
    toxiproxy_server: ToxiproxyServer,
) -> None:
    cluster = LocalCluster(3, arguments=["--election-ms", str(ELECTION_MS), "--lease-drift-ppm", "1000"])
    links = PeerLinks(
        toxiproxy_server,
        peers={node.id: node.peer_address for node in cluster.nodes},
        clients={node.id: node.client_address for node in cluster.nodes},
        name="leases",
    )
    async with links:
        cluster.dial = links.dial_address
        async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            old = await cluster.leader()
            traffic = Traffic(client, "leases/")
            readers = LeaseReaders(cluster.node(old).client_address, traffic.register)
            reading = asyncio.create_task(readers.run())
            try:
                async with traffic:
                    await traffic.progress()
                    await until("it answers by its lease", lambda: bool(readers.by_lease))

                    await links.isolate(old, "blackhole")
                    cut = time.monotonic()
                    await links.verify_isolated(old)
                    await cluster.leader(other_than=old)
                    await traffic.progress()
                    await until("it answers no more", lambda: bool(readers.refused) and readers.refused[-1] > cut)
                    await links.heal()
                    await traffic.progress()
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await cluster.converged()
            await traffic.verify(cluster)

    alone = [one for one in readers.by_lease if one.began > seconds(cut)]
    assert alone, "it asked nobody, so it needed nobody for a while"
    assert violations(traffic.operations + readers.by_lease) == []
