"""Nodes that come and go while the cluster runs, with proxies on their links like the others."""

from __future__ import annotations

from raftkv.client import MemberKind
from raftkv.errors import RaftKVError
from raftkv.jepsen.nemeses.patience import allowed
from raftkv.jepsen.testbed import Testbed
from raftkv.testing.cluster import NodeProcess

PATIENCE_S = 20.0
LEAVE_S = 60.0


async def prepare(testbed: Testbed, *, in_place_of: NodeProcess | None = None) -> NodeProcess:
    """Make a node that is to join, and everything that it needs, so that it may be started once it is a member.

    It has an id that no node has had. `in_place_of`: it takes over that one's addresses. That one must not run again.
    """
    cluster = testbed.cluster
    number = max(testbed.levers) + 1
    node = NodeProcess(cluster, number, joins=True)
    if in_place_of is not None:
        node.client_address, node.peer_address = in_place_of.client_address, in_place_of.peer_address
        node.joins = [address for address in node.joins if address != node.client_address]
    model = min(testbed.levers)
    testbed.levers[number], environment = testbed.levers[model].for_another(number)
    node.environment |= environment
    await testbed.links.add(number, node.peer_address, node.client_address)
    founder = cluster.node(next(one.id for one in cluster.nodes))
    given = list(founder.extra_arguments)
    if "--advertise" in given:
        place = given.index("--advertise")
        del given[place : place + 2]
    node.extra_arguments += [*given, "--advertise", testbed.links.client_address(number)]
    cluster.nodes.append(node)
    _tell_everybody(testbed)
    return node


async def discard(testbed: Testbed, node: NodeProcess) -> None:
    """End a node that is no member any more, and take its proxies away."""
    await node.kill()
    if node in testbed.cluster.nodes:
        testbed.cluster.nodes.remove(node)
    testbed.down.discard(node.id)
    await testbed.links.remove(node.id)


async def kind_of(testbed: Testbed, node: int) -> MemberKind | None:
    """Return what the leader says that a node is; None: no member. Raises RaftKVError."""
    return next((one.kind for one in await testbed.admin.members(timeout=2.0) if one.id == node), None)


async def join(testbed: Testbed, node: NodeProcess, timeout_s: float = PATIENCE_S) -> None:
    """Make a node a learner, unless it is a member. Raises RaftKVError."""

    async def change() -> None:
        if await kind_of(testbed, node.id) is None:
            await testbed.admin.add_member(node.id, node.peer_address)

    await allowed(change, timeout_s)


async def start(node: NodeProcess, timeout_s: float = PATIENCE_S) -> None:
    """Start a node, again if it ends because nobody lets it in. Raises RaftKVError."""

    async def change() -> None:
        if not node.running:
            await node.start()

    await allowed(change, timeout_s)


async def promote(testbed: Testbed, node: NodeProcess, timeout_s: float = PATIENCE_S) -> None:
    """Make a learner a voter as soon as it has caught up. Raises RaftKVError."""

    async def change() -> None:
        if await kind_of(testbed, node.id) is not MemberKind.VOTER:
            await testbed.admin.promote_members(node.id)

    await allowed(change, timeout_s)


async def replace(testbed: Testbed, old: int, new: NodeProcess, timeout_s: float = PATIENCE_S) -> None:
    """Remove a member and make another node a learner, in one step. Raises RaftKVError."""

    async def change() -> None:
        if await kind_of(testbed, new.id) is None:
            await testbed.admin.replace_member(old, new.id, new.peer_address)

    await allowed(change, timeout_s)


async def leave(testbed: Testbed, node: int, timeout_s: float = LEAVE_S) -> None:
    """See to it that a node is no member. Raises RaftKVError."""

    async def change() -> None:
        if await kind_of(testbed, node) is not None:
            await testbed.admin.remove_members(node)
            if await kind_of(testbed, node) is not None:
                raise RaftKVError(f"node {node} is still a member")

    await allowed(change, timeout_s)


def _tell_everybody(testbed: Testbed) -> None:
    """Nodes that run dial those that join through proxies too."""
    numbers = [node.id for node in testbed.cluster.nodes]
    for source in numbers:
        testbed.levers[source].dial(
            {target: testbed.links.dial_address(source, target) for target in numbers if target != source}
        )
