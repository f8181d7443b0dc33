"""Comparing the states of all members that hold data: the leader asks, and judges by `quorum.states`.

It has an entry made at which every node hashes its state (`state_hashes`), asks all for the hash there, and tells all
who answered what that came to. Each judges itself by its own hash: nobody is taken out of service by hearsay.

What this finds: a row that changed behind the store's back, a bug that made one node apply something else. What it
cannot: a state that is wrong in the same way at a majority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc
import structlog

from raftkv.errors import FailedPrecondition, NotLeader, RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.kv.commands import CheckState, Group
from raftkv.quorum import StatesVerdict, judge_states
from raftkv.raft import NodeId, Term
from raftkv.server.forwarding import StatePeers
from raftkv.server.node import Node
from raftkv.server.questions import Question
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1 import peer_pb2

log = structlog.get_logger("raftkv.comparison")

PROPOSE_S: Final = 5.0
"""A proposal that finds no entry for so long is given up."""

HASHING_S: Final = 300.0
"""How long to wait for a node's hash: a state of gigabytes takes minutes."""

TOLD_S: Final = 5.0
"""How long to wait for a node that is told the outcome, or asked whether it understands the question."""

SIZE_BYTES: Final = 32


class Comparison:
    """Of one node. Every node can be told an outcome; the leader brings them about."""

    def __init__(
        self,
        node: Node,
        peers: StatePeers,
        *,
        interval_s: float,
        now_s: Callable[[], float],
        hashing_s: float = HASHING_S,
    ) -> None:
        """`interval_s` between comparisons; 0: only on demand. `now_s` gives seconds since 1970, for people to read."""
        self._node = node
        self._peers = peers
        self._interval_s = interval_s
        self._now_s = now_s
        self._hashing_s = hashing_s
        self._question = Question(self._compare, "compare-states")
        self._understood: dict[NodeId, Term] = {}
        """Who has shown to be of a build that can apply such an entry, and the term in which it did, lest an older
        build has taken its place since. Others would stop (`kv.codec`).
        """
        self.newest = pb.StateComparison()
        """The newest that this node brought about; its index is 0 if there was none."""

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return what is to be run for as long as the node runs, by name."""
        return [("compare-states", self._run())] if self._interval_s else []

    async def compare(self) -> pb.StateComparison:
        """Compare the states now. Who asks while that is done shares the next one.

        Raises NotLeader, FailedPrecondition, and what a proposal raises.
        """
        return await asyncio.shield(self._question.next())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            if self._node.may_propose and len(self._asked()) > 1:
                try:
                    await self._require_understood_by_all()
                    await self.compare()
                except RaftKVError as error:
                    log.info("states were not compared", reason=error.message)

    # --- on the leader ------------------------------------------------------------------------------------------------

    def _asked(self) -> list[NodeId]:
        configuration = self._node.raft.configuration
        return sorted(configuration.members - configuration.witnesses)

    def _answering(self) -> list[NodeId]:
        """Return the others of them that answer this leader at all."""
        raft = self._node.raft
        followers = raft.followers()
        return [
            node for node in self._asked() if node in followers and followers[node].silent_ticks < raft.election_ticks
        ]

    async def _compare(self) -> pb.StateComparison:
        node = self._node
        if not node.is_leader:
            raise NotLeader(f"node {node.raft.node_id} is not the leader")
        await asyncio.gather(*(self._require_understood(peer) for peer in self._answering()))
        loop = asyncio.get_running_loop()
        group = Group(0, 0, (CheckState(0),))
        decided = await node.propose(group, SIZE_BYTES, loop.time() + PROPOSE_S, alone=True)
        if decided.results is None:
            raise InvariantViolation("a comparison asks for no early acknowledgement")
        index = decided.index
        hashes = await self._hashes(index)
        configuration = node.raft.configuration
        verdict = judge_states(configuration.majorities, configuration.members, configuration.witnesses, hashes)
        self.newest = pb.StateComparison(
            index=index,
            hash=verdict.hash,
            agreed=verdict.agreed,
            differ=verdict.differ,
            silent=verdict.silent,
            finished_at_ms=int(self._now_s() * 1000),
        )
        found, say = self.newest, log.error if verdict.differ else log.info
        say("states compared", index=index, agreed=[*found.agreed], differ=[*found.differ], silent=[*found.silent])
        await self._tell(index, verdict)
        return found

    async def _require_understood_by_all(self) -> None:
        """Raise FailedPrecondition unless all who hold data have shown in this term that they can apply such an entry:
        one that is silent now may be of an earlier build, and will find the entry when it comes back.

        Who asks for a comparison can tell, and is not held up by a member that is down.
        """
        raft = self._node.raft
        await asyncio.gather(*(self._require_understood(peer) for peer in self._answering()))
        unknown = [one for one in self._asked() if one != raft.node_id and self._understood.get(one) != raft.term]
        if unknown:
            raise FailedPrecondition(f"nodes {unknown} have not said in this term whether they can be compared")

    async def _require_understood(self, peer: NodeId) -> None:
        term = self._node.raft.term
        if self._understood.get(peer) == term:
            return
        try:
            await self._peers.state_hash_at(peer, 0, TOLD_S)
        except grpc.aio.AioRpcError as failure:
            if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise FailedPrecondition(
                    f"node {peer} is of an earlier raftkv, which cannot apply what a comparison writes into the log: "
                    "upgrade it first"
                ) from None
        else:
            self._understood[peer] = term

    async def _hashes(self, index: int) -> dict[int, bytes]:
        node, until = self._node, asyncio.get_running_loop().time() + self._hashing_s
        asked = [node.raft.node_id, *self._answering()]
        found = await asyncio.gather(node.states.at(index, until), *(self._ask(peer, index) for peer in asked[1:]))
        return {peer: state.hash for peer, state in zip(asked, found, strict=True) if state is not None and state.hash}

    async def _ask(self, peer: NodeId, index: int) -> peer_pb2.StateHashAtResponse | None:
        try:
            return await self._peers.state_hash_at(peer, index, self._hashing_s)
        except grpc.aio.AioRpcError as failure:
            log.info("a node did not tell the hash of its state", peer=peer, reason=failure.code().name)
            return None

    async def _tell(self, index: int, verdict: StatesVerdict) -> None:
        """Tell all who answered; this node last, since it may be the one that must not lead any more."""
        request = peer_pb2.CondemnRequest(index=index, hash=verdict.hash, agreed=verdict.agreed)
        own = self._node.raft.node_id
        if not verdict.hash and not verdict.differ:
            return  # too few to say anything
        await asyncio.gather(
            *(self._condemn(NodeId(peer), request) for peer in (*verdict.agreed, *verdict.differ) if peer != own)
        )
        await self.told(request)

    async def _condemn(self, peer: NodeId, request: peer_pb2.CondemnRequest) -> None:
        try:
            await self._peers.condemn(peer, request, TOLD_S)
        except grpc.aio.AioRpcError as failure:
            log.warning("a node was not told what its state is worth", peer=peer, reason=failure.code().name)

    # --- on all nodes -------------------------------------------------------------------------------------------------

    async def hash_at(self, index: int, timeout_s: float) -> peer_pb2.StateHashAtResponse:
        """Answer a peer; an empty hash: not known."""
        found = await self._node.states.at(index, asyncio.get_running_loop().time() + timeout_s) if index else None
        if found is None:
            return peer_pb2.StateHashAtResponse(index=index)
        return peer_pb2.StateHashAtResponse(index=index, term=found.term, hash=found.hash)

    async def told(self, verdict: peer_pb2.CondemnRequest) -> bool:
        """Take up what a comparison came to. Return whether this node has taken itself out of service for it."""
        node, alarms = self._node, self._node.alarms
        own = node.states.known(verdict.index)
        if own is None:
            return False
        if not verdict.hash:
            alarms.set(
                pb.DIVERGED,
                f"after entry {verdict.index} the members' states differ, this one's has the hash {own.hash.hex()}, "
                "and no majority says which one is right (`raftkv endpoint compare`). The way out: find out which node "
                "is right, and `raftkv repair` the others",
            )
            return False
        if own.hash == verdict.hash:
            alarms.clear(pb.DIVERGED)
            return False
        mark = CorruptMark(verdict.index, own.hash, verdict.hash, tuple(verdict.agreed), self._now_s())
        await node.condemn(mark)
        return True
