"""Who is there to be struck."""

from __future__ import annotations

from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import ClusterError, NodeProcess

LEADER_S = 5.0


async def leader_of(testbed: Testbed) -> int | None:
    """Return who leads; None when nobody is found to within some seconds, as other faults may see to it."""
    try:
        return await testbed.leader(LEADER_S)
    except ClusterError:
        return None


def reachable(testbed: Testbed) -> list[int]:
    """Return the nodes with proxies that are not down: what is done to a dead node's links cannot be proven.

    All nodes with proxies, when hardly any is up.
    """
    up = [node for node in testbed.links.nodes if node not in testbed.down]
    return up if len(up) > 1 else list(testbed.links.nodes)


def running(testbed: Testbed) -> list[NodeProcess]:
    """Return the nodes that no fault has taken down."""
    return [node for node in testbed.cluster.nodes if node.running and node.id not in testbed.down]


def called(node: int, leader: int | None) -> str:
    """Return what to call a node."""
    return f"node {node}, who leads," if node == leader else f"node {node}"


def listed(nodes: list[int]) -> str:
    return " ".join(map(str, nodes))
