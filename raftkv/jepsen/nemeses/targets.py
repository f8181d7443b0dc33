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


def members(testbed: Testbed) -> list[int]:
    """Return the nodes of the cluster that have proxies, up or not."""
    return sorted(node.id for node in testbed.cluster.nodes if node.id in testbed.links.nodes)


def reachable(testbed: Testbed) -> list[int]:
    """Return those that are not down: nothing is shown by breaking a dead node's links. All, if hardly any is up."""
    up = [node for node in members(testbed) if node not in testbed.down]
    return up if len(up) > 1 else members(testbed)


def running(testbed: Testbed) -> list[NodeProcess]:
    """Return the nodes that no fault has taken down."""
    return [node for node in testbed.cluster.nodes if node.running and node.id not in testbed.down]


def called(node: int, leader: int | None) -> str:
    """Return what to call a node."""
    return f"node {node}, who leads," if node == leader else f"node {node}"


def listed(nodes: list[int]) -> str:
    return " ".join(map(str, nodes))
