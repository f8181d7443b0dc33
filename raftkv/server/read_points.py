"""How far a state must have come to be read linearizably: asked of the leader, and good on any node.

One question is under way at a time; who asks meanwhile shares the next one, because an answer says nothing of what was
acknowledged after its question was asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import grpc

from raftkv.errors import NotLeader, ShuttingDown
from raftkv.quorum import majority
from raftkv.server.forwarding import Forwarder
from raftkv.server.leadership import unless_replaced
from raftkv.server.node import Node
from raftkv.server.questions import Question

REMEMBERED = 8
"""Answers that are kept: the newest may be of entries that are not here yet."""


@dataclass(frozen=True, slots=True)
class ReadPoint:
    """A state that has applied `index` misses nothing that was acknowledged before `asked_ms`."""

    asked_ms: float
    """By this node's own clock, before the question left: however long the answer took, it claims no more than that."""
    index: int
    replicas: int
    """The majority that confirmed it."""


class ReadPoints:
    """Asks the leader, wherever it is."""

    def __init__(self, node: Node, forwarder: Forwarder, timeout_s: float) -> None:
        """A leader that says nothing for `timeout_s` seconds is given up."""
        self._node = node
        self._forwarder = forwarder
        self._timeout_s = timeout_s
        self._question = Question(self._ask, "read-points")
        self._known: deque[ReadPoint] = deque(maxlen=REMEMBERED)

    def newest(self, applied_index: int) -> ReadPoint | None:
        """Return the newest that a state which has applied `applied_index` has reached."""
        return next((point for point in reversed(self._known) if point.index <= applied_index), None)

    def next(self) -> asyncio.Future[ReadPoint]:
        """Return what a question that is asked from now on gives; many may share the future, so shield it.

        It raises NotLeader, which says that nobody answered as the leader, and ShuttingDown.
        """
        return self._question.next()

    def refresh(self) -> None:
        """See that there will be a newer one, without waiting for it."""
        if not self._question.under_way:
            self._question.next()

    async def _ask(self) -> ReadPoint:
        point = await self._ask_leader()
        self._known.append(point)
        return point

    async def _ask_leader(self) -> ReadPoint:
        node = self._node
        leader = node.leader
        if leader is None:
            raise NotLeader("no leader is known")
        asked_ms = node.now_ms()
        if leader == node.raft.node_id:
            try:
                async with asyncio.timeout(self._timeout_s):
                    index = await node.read_index()
            except TimeoutError:
                raise NotLeader("no majority confirmed that this node leads") from None
            return ReadPoint(asked_ms, index, majority(len(node.raft.voters)))
        try:
            answer = await unless_replaced(node, leader, self._forwarder.read_index(leader, self._timeout_s))
        except grpc.aio.AioRpcError as failure:
            raise NotLeader(f"leader {leader} does not answer: {failure.code().name}") from None
        except ShuttingDown as error:
            node.leadership_changed()  # raises where it is this node that ends
            raise NotLeader(f"leader {leader}: {error.message}") from None
        if answer is None:
            raise NotLeader(f"leader {leader} was replaced")
        return ReadPoint(asked_ms, answer.index, answer.replicas)
