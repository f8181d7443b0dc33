"""Quorum reads as a node coordinates them: which state may answer, found out without a leader (rules: raftkv.quorum).

All reads of one R that come while a round is under way share the next one: the ends of the logs must be asked for after
a read began. A voter is asked one question at a time as well, so that one which does not answer costs no more than
that; a round that finds a question under way waits for the next.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

import grpc

from raftkv.errors import QuorumUnavailable, RaftKVError
from raftkv.quorum import (
    Answer,
    Begin,
    LogEnd,
    Membership,
    Target,
    counts,
    decide,
    is_rinsed,
    majority,
    required_replicas,
)
from raftkv.raft import NodeId
from raftkv.server.forwarding import Forwarder
from raftkv.server.log_end import answer_of, membership_of, own_answer, voters_of
from raftkv.server.node import Node
from raftkv.server.questions import Question
from raftkv.v1 import kv_pb2

ROUND_TIMEOUT_S = 0.8
"""What a round waits for its voters. Clients ask another node after a second, unless told otherwise: what keeps this
one from answering must reach them before that."""


class Found(NamedTuple):
    """What a round came to: a state that has this may answer."""

    target: LogEnd
    replicas: int
    """R: how many voters it may claim to have asked."""
    membership: Membership
    holders: tuple[NodeId, ...]
    """Voters that said to have applied it already, and hold data."""


class QuorumReads:
    """Rounds under way, and those to come."""

    def __init__(self, node: Node, forwarder: Forwarder, timeout_s: float = ROUND_TIMEOUT_S) -> None:
        self._node = node
        self._forwarder = forwarder
        self._timeout_s = timeout_s
        self._questions: dict[int, Question[Found]] = {}
        """By R."""
        self._rounds: dict[int, _Round] = {}
        """The newest of each R."""
        self._voters: dict[NodeId, Question[kv_pb2.LogEndResponse]] = {}

    async def find(self, replicas: int, until: float) -> Found:
        """Return what a round that begins from now on finds for R = `replicas`, 0 for a majority.

        Raises QuorumUnavailable when that takes too long, or it is `until` (event loop time), and InvalidArgument.
        """
        now = asyncio.get_running_loop().time()
        until = min(until, now + self._timeout_s)
        found = await self._join(self._number(replicas), until)
        if found.replicas < required_replicas(replicas, len(found.membership.voters)):
            # Others are the members by now, and a majority is another number.
            found = await self._join(replicas, until)
        return found

    async def _join(self, replicas: int, until: float) -> Found:
        question = self._questions.get(replicas)
        if question is None:
            question = self._questions[replicas] = Question(partial(self._find, replicas), f"quorum-{replicas}")
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.shield(question.next())
        except TimeoutError:
            raise self.unavailable(replicas) from None

    def unavailable(self, replicas: int) -> QuorumUnavailable:
        """Return what keeps the newest round for R = `replicas` from its end."""
        raft = self._node.raft
        membership = membership_of(raft.configuration, raft.configuration_index)
        newest = self._rounds.get(replicas or majority(len(membership.voters)))
        return (newest or _Round(membership)).unavailable(replicas)

    def _number(self, replicas: int) -> int:
        """Return which rounds answer this R: those for a majority are those for its number.

        Raises InvalidArgument before anything is kept for a number that is not possible: there are as many others as
        a client likes to send. Where no round can be asked now, it is not told what is possible: 0, of a majority.
        """
        raft = self._node.raft
        membership = membership_of(raft.configuration, raft.configuration_index)
        if membership.joint or not membership.voters:
            return 0
        return required_replicas(replicas, len(membership.voters))

    async def _find(self, replicas: int) -> Found:
        raft = self._node.raft
        membership = membership_of(raft.configuration, raft.configuration_index)
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    round_ = self._rounds[replicas] = _Round(membership)
                    found = await self._ask(round_, replicas)
                    if isinstance(found, Found):
                        return found
                    membership = found.membership
        except TimeoutError:
            raise self.unavailable(replicas) from None

    async def _ask(self, round_: _Round, replicas: int) -> Found | Begin:
        """Ask the voters of one configuration, once."""
        membership, own = round_.membership, self._node.raft.node_id
        if membership.joint:
            raise QuorumUnavailable(
                "the voters are being changed, and neither the old nor the new ones decide alone: ask again"
            )
        if not membership.voters:
            raise QuorumUnavailable(f"node {own} joins the cluster, and does not know its voters yet: ask again")
        needed = required_replicas(replicas, len(membership.voters))
        open_: set[asyncio.Future[kv_pb2.LogEndResponse]] = set()
        asked: dict[asyncio.Future[kv_pb2.LogEndResponse], NodeId] = {}
        for voter in voters_of(membership):
            if voter == own:
                round_.take_own(self._node)
            else:
                question = self._voter(voter).next()
                open_.add(question)
                asked[question] = voter
        while True:
            decision = decide(membership, round_.answers, needed)
            if isinstance(decision, Target):
                return Found(decision.end, needed, membership, round_.holders(decision.end))
            if isinstance(decision, Begin):
                return decision
            if not open_:
                raise round_.unavailable(replicas)
            done, open_ = await asyncio.wait(open_, return_when=asyncio.FIRST_COMPLETED)
            for question in done:
                round_.take(asked[question], question)

    def _voter(self, voter: NodeId) -> Question[kv_pb2.LogEndResponse]:
        known = self._voters.get(voter)
        if known is None:
            ask = partial(self._forwarder.log_end, voter, self._timeout_s)
            known = self._voters[voter] = Question(ask, f"log-end-{voter}")
        return known


class _Round:
    """What the voters of one configuration have said."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.answers: dict[int, Answer] = {}
        self._applied: dict[NodeId, tuple[int, int]] = {}
        self._failures: dict[int, str] = {}

    def take_own(self, node: Node) -> None:
        try:
            self.answers[node.raft.node_id] = own_answer(node)
        except QuorumUnavailable as error:
            self._failures[node.raft.node_id] = error.message

    def take(self, voter: NodeId, question: asyncio.Future[kv_pb2.LogEndResponse]) -> None:
        error = question.exception()
        if error is None:
            response = question.result()
            self.answers[voter] = answer_of(response)
            self._applied[voter] = response.applied_term, response.applied_index
        elif isinstance(error, grpc.aio.AioRpcError):
            self._failures[voter] = error.code().name
        elif isinstance(error, RaftKVError):
            self._failures[voter] = error.message
        else:
            raise error

    def holders(self, target: LogEnd) -> tuple[NodeId, ...]:
        """Return who may answer at once."""
        witnesses = self.membership.witnesses
        return tuple(
            [voter for voter, at in self._applied.items() if voter not in witnesses and is_rinsed(target, *at)]
        )

    def unavailable(self, replicas: int) -> QuorumUnavailable:
        """Return why the round came to nothing: who did not answer, or not so that it counts."""
        voters = sorted(self.membership.voters)
        replicas = replicas or majority(len(voters))
        counted = [voter for voter in voters if voter in self.answers and counts(self.membership, self.answers[voter])]
        reasons = [f"node {voter} ({self._why_not(voter)})" for voter in voters if voter not in counted]
        return QuorumUnavailable(
            f"QUORUM({replicas}) of {len(voters)} voters: {len(counted)} answered, and not {', '.join(reasons)}"
        )

    def _why_not(self, voter: int) -> str:
        if voter in self.answers:
            return "its log has come to other members, or not to these yet"
        return self._failures.get(voter, "no answer in time")
