"""A rolling restart: every node in turn, never the next one before the cluster is whole again.

It asks for nothing but the public status, as a person with `raftkv endpoint status` can:

1. Wait until the cluster is *whole*: every node answers, all follow one leader in one term, the leader sends entries to
   every follower as they come, and every node has applied what was committed when it was looked at.
2. Stop one node by SIGTERM. A leader hands over first; a node answers what it was asked and goes, with exit code 0.
3. Start it, with whatever is new, and begin again at 1.

Clients of `raftkv.client` see no failed request meanwhile: what a node that goes has not answered, another one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from raftkv.client import AsyncClient, EndpointFailure, Role, Status, Tls
from raftkv.errors import RaftKVError

POLL_S: Final = 0.02
ASK_S: Final = 1.0
PATIENCE_S: Final = 60.0


class Restartable(Protocol):
    """What can be stopped and started: `raftkv.testing.cluster.NodeProcess`, or whatever runs a node elsewhere."""

    @property
    def id(self) -> int: ...

    async def stop(self) -> int:
        """Stop it as its supervisor would, by SIGTERM. Return the exit code."""
        ...

    async def start(self) -> None:
        """Start it; return when it answers."""
        ...


class NotWhole(RaftKVError):
    """The cluster did not become whole in time: the restart goes no further. The message says what is missing."""


async def rolling_restart(
    endpoints: Sequence[str],
    nodes: Sequence[Restartable],
    *,
    between: Callable[[], Awaitable[None]] | None = None,
    patience_s: float = PATIENCE_S,
    tls: Tls | None = None,
) -> None:
    """Restart `nodes`, in this order. `between` is awaited after each stop and after each start.

    Returns when the cluster is whole again. Raises NotWhole, and RaftKVError when a node does not stop cleanly or does
    not start; the nodes after it have not been touched then.
    """
    async with AsyncClient(endpoints, tls=tls) as client:
        for node in nodes:
            await whole(client, endpoints, patience_s)
            code = await node.stop()
            if code != 0:
                raise RaftKVError(f"node {node.id} ended with exit code {code} when it was told to stop")
            if between is not None:
                await between()
            await node.start()
            if between is not None:
                await between()
        await whole(client, endpoints, patience_s)


async def whole(client: AsyncClient, endpoints: Sequence[str], patience_s: float = PATIENCE_S) -> int:
    """Wait until every node follows one leader and has caught up. Return the leader's id. Raises NotWhole."""
    missing: list[str] = ["nobody was asked"]
    committed = 0
    try:
        async with asyncio.timeout(patience_s):
            while True:
                answers = await asyncio.gather(*(_ask(client, endpoint) for endpoint in endpoints))
                leader = leader_of(answers)
                # Writing goes on: what was committed at the first look is what a node must have, not the newest.
                committed = committed or (leader.commit_index if leader is not None else 0)
                missing = shortfalls(answers, committed)
                if leader is not None and not missing:
                    return leader.member_id
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NotWhole(f"not whole after {patience_s:g} s: {'; '.join(missing)}") from None


def leader_of(answers: Sequence[Status | EndpointFailure]) -> Status | None:
    """Return the leader of the newest term that any node is in, if it answered."""
    statuses = [one for one in answers if isinstance(one, Status)]
    newest = max((one.term for one in statuses), default=0)
    return next((one for one in statuses if one.role is Role.LEADER and one.term == newest), None)


def shortfalls(answers: Sequence[Status | EndpointFailure], committed: int) -> list[str]:
    """Return what keeps a cluster from being whole. `committed`: what every node must have applied."""
    leader = leader_of(answers)
    if leader is None:
        return ["no leader answers"]
    followers = {one.id: one for one in leader.progress}
    found = []
    for one in answers:
        if isinstance(one, EndpointFailure):
            found.append(f"{one.endpoint} does not answer: {one.error.message}")
        elif (one.leader_id, one.term) != (leader.member_id, leader.term):
            found.append(f"node {one.member_id} follows node {one.leader_id} in term {one.term}")
        elif not one.is_witness and one.applied_index < committed:
            found.append(f"node {one.member_id} has applied {one.applied_index} of {committed} entries")
        elif one is not leader:
            known = followers.get(one.member_id)
            if known is None or not known.recently_active or known.state != "replicate":
                found.append(f"the leader has not found node {one.member_id} again")
    return found


def in_order(nodes: Sequence[Restartable], leader: int, *, leader_first: bool) -> list[Restartable]:
    """Return the nodes with the leader first, or last: then leadership moves only once."""
    return sorted(nodes, key=lambda one: (one.id == leader) != leader_first)


async def _ask(client: AsyncClient, endpoint: str) -> Status | EndpointFailure:
    try:
        return await client.status(endpoint, timeout=ASK_S)
    except RaftKVError as error:
        return EndpointFailure(endpoint=endpoint, error=error)
