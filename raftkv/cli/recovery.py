"""Waiting for a node to be level with its cluster again."""

from __future__ import annotations

import asyncio
from typing import Final

from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import ClusterError, LocalCluster

POLL_S: Final = 0.02


async def caught_up(cluster: LocalCluster, client: AsyncClient, node_id: int, patience_s: float) -> int:
    """Wait until a node has applied all that its leader knows to be committed now. Return that index.

    Raises ClusterError when it takes longer than `patience_s`.
    """
    try:
        async with asyncio.timeout(patience_s):
            leader = await cluster.leader(patience_s)
            target = (await client.status(cluster.node(leader).client_address)).commit_index
            while True:
                if await _applied(client, cluster.node(node_id).client_address) >= target:
                    return target
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise ClusterError(
            f"node {node_id} has not caught up after {patience_s:g} s: {cluster.node(node_id).log_tail()}"
        ) from None


async def _applied(client: AsyncClient, endpoint: str) -> int:
    try:
        return (await client.status(endpoint, timeout=1.0)).applied_index
    except RaftKVError:
        return -1
