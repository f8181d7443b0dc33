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
    node = cluster.node(node_id)
    target, applied, trouble = 0, 0, "no answer"
    try:
        async with asyncio.timeout(patience_s):
            leader = await cluster.leader(patience_s)
            target = (await client.status(cluster.node(leader).client_address)).commit_index
            while True:
                try:
                    applied, trouble = (await client.status(node.client_address, timeout=1.0)).applied_index, ""
                except RaftKVError as error:
                    trouble = error.message
                if applied >= target > 0:
                    return target
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        where = f"it has applied {applied} of {target} entries" + (f" ({trouble})" if trouble else "")
        raise ClusterError(
            f"node {node_id} has not caught up after {patience_s:g} s: {where}; {node.log_tail()}"
        ) from None
