"""A repaired voter comes back as a learner with a new id (ADR 9), and asks to vote again once it is caught up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from raftkv.errors import RaftKVError, ShuttingDown
from raftkv.server.node import Node
from raftkv.server.services.members import MembershipChanges
from raftkv.v1 import cluster_pb2 as pb

log = structlog.get_logger("raftkv.promotion")

PAUSE_S: Final = 0.5


async def promote_when_caught_up(node: Node, changes: MembershipChanges, pause_s: float = PAUSE_S) -> None:
    """Ask the leader to promote this node for as long as it is a learner. Ends when it votes, or with the node.

    Whether it lags is for the leader to say, which refuses until it does not.
    """
    node_id = node.raft.node_id
    request = pb.ChangeMembersRequest(promote=[node_id])
    with contextlib.suppress(ShuttingDown):
        while node_id not in node.raft.configuration.voters:
            raft = node.raft
            if node_id in raft.configuration.learners and node.leader is not None:
                try:
                    await changes.run(request)
                except RaftKVError as error:
                    # Mostly that it lags. Whatever else it is: there is nothing that it could do but ask again.
                    log.debug("not promoted yet", reason=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await node.leadership_changed()
        log.info("promoted: this node votes again")
