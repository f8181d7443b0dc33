"""A rolling upgrade: nodes of two releases that share a version of the protocol serve as one; others do not talk.

It is here because the nodes of two releases that share none are as good as cut off from each other.
"""

from __future__ import annotations

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import PROGRAM, LocalCluster, NodeProcess
from raftkv.testing.release import release
from raftkv.testing.rolling import in_order, rolling_restart, whole
from raftkv.transport.greetings import Versions
from tests.integration.everyday import Everyday
from tests.integration.waiting import until

pytestmark = pytest.mark.processes

EARLY = release("0.0.9", speaks=Versions(1, 1), early=True)
"""It does not say which versions it speaks, and listens to its own alone."""
PREVIOUS = release("0.1.9", speaks=Versions(1, 1))
NEXT = release("0.2.0", speaks=Versions(1, 2))
LATER = release("0.3.0", speaks=Versions(2, 2))
"""It has forgotten version 1."""


async def versions(cluster: LocalCluster) -> set[int]:
    """The versions of the protocol that the nodes say all of them speak."""
    async with AsyncClient(cluster.url) as client:
        return {(await client.status(endpoint)).protocol_version for endpoint in cluster.endpoints}


class Upgraded:
    """A node that comes back with another program."""

    def __init__(
        self, node: NodeProcess, program: tuple[str, ...], mixed: list[set[int]], cluster: LocalCluster
    ) -> None:
        self.id = node.id
        self._node = node
        self._program = program
        self._mixed = mixed
        self._cluster = cluster

    async def stop(self) -> int:
        self._mixed.append(await versions(self._cluster))
        code = await self._node.stop()
        self._node.program = self._program
        return code

    async def start(self) -> None:
        await self._node.start()


@pytest.mark.parametrize(
    ("before", "after", "spoken"),
    [(EARLY, PROGRAM, [1, 1, 1, 1]), (PREVIOUS, NEXT, [1, 1, 1, 2])],
    ids=["from before versions were negotiated", "to a newer version"],
)
async def test_a_release_at_a_time(before: tuple[str, ...], after: tuple[str, ...], spoken: list[int]) -> None:
    seen: list[set[int]] = []
    async with LocalCluster(3, program=before) as cluster, AsyncClient(cluster.url) as client:
        leader = await cluster.leader()
        async with Everyday(client, "upgrade/") as load:
            await load.progress()
            nodes = [Upgraded(node, after, seen, cluster) for node in cluster.nodes]
            await rolling_restart(cluster.endpoints, in_order(nodes, leader, leader_first=False), between=load.progress)
            await load.finish()
        load.verify()
        await cluster.converged()
        seen.append(await versions(cluster))
        assert seen == [{one} for one in spoken], "the newest version is spoken once all know it, and not before"
        releases = {(await client.status(endpoint)).version for endpoint in cluster.endpoints}
        assert len(releases) == 1


async def test_a_release_too_far_is_kept_out_and_the_way_out_is_told() -> None:
    async with LocalCluster(3, program=PREVIOUS) as cluster, AsyncClient(cluster.url) as client:
        await whole(client, cluster.endpoints)
        node = next(one for one in cluster.nodes if one.id != 1)
        await node.stop()
        node.program = LATER
        node.launch()
        line = "they have none in common and do not talk. The way out: upgrade one release at a time"
        await until("the new node to say why", lambda: line in node.log())
        others = [one for one in cluster.nodes if one is not node]
        await until("the others to say why", lambda: all(line in one.log() for one in others))
        assert f"node {node.id} runs raftkv 0.3.0, which speaks version 2 of the protocol" in node.log()
        assert (await client.put("k", "served meanwhile")).revision > 0
        assert (await node.answers()).leader_id == 0

        node.program = PREVIOUS
        await node.restart()
        await whole(client, cluster.endpoints)
        await cluster.converged()
