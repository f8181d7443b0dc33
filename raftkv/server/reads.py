"""Reads that the node asked answers from its own state, or sees to without a leader: when they may be answered.

    LOCAL          at once
    LINEARIZABLE   (with `here`) once the state has come to an index that the leader confirms (read_points)
    BOUNDED        when such an index is not older than the bound
    AT_LEAST       once the state has come to what the client has seen
    QUORUM         once a state has come to what enough voters' logs end with (quorum_reads)

What only the leader answers is in `requests`. Nothing here has an effect, so everything may be tried again anywhere.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import grpc

from raftkv.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NoLeader,
    NotLeader,
    QuorumUnavailable,
    RaftKVError,
    ShuttingDown,
    StorageError,
    TooStale,
)
from raftkv.quorum import Guarantee, LogEnd, is_rinsed, majority, of_quorum_read
from raftkv.raft import NodeId
from raftkv.server import read_receipts, wire
from raftkv.server.answered import Answered
from raftkv.server.deadlines import way_back_s
from raftkv.server.forwarding import Forwarder
from raftkv.server.leadership import another_leader
from raftkv.server.log_end import log_end
from raftkv.server.node import Node
from raftkv.server.queries import Query
from raftkv.server.quorum_reads import ROUND_TIMEOUT_S, Found, QuorumReads
from raftkv.server.read_points import ReadPoint, ReadPoints
from raftkv.server.read_receipts import Basis
from raftkv.server.state_reader import StateReader
from raftkv.server.tokens import Tokens
from raftkv.server.wire_read import Asked
from raftkv.v1 import common_pb2, kv_pb2, peer_pb2


class Reads:
    """Answers them on one node."""

    def __init__(
        self, node: Node, forwarder: Forwarder, reader: StateReader, *, cluster_id: int, leader_wait_s: float
    ) -> None:
        self._node = node
        self._forwarder = forwarder
        self._reader = reader
        self._leader_wait_s = min(leader_wait_s, ROUND_TIMEOUT_S)  # for the same reason: others may do better
        self._points = ReadPoints(node, forwarder, self._leader_wait_s)
        self._quorum = QuorumReads(node, forwarder)
        self._tokens = Tokens(node, cluster_id)

    async def answer(
        self,
        batch: kv_pb2.BatchRequest,
        reads: Mapping[Asked, Sequence[tuple[int, Query]]],
        response: kv_pb2.BatchResponse,
        answered: Answered,
        timeout_s: float,
    ) -> None:
        """Answer `reads`, which are operations of `batch`, in `response`, and note them in `answered`.

        Those of one kind wait together, and nobody for those of another kind.
        """
        deadline = _now() + timeout_s
        until = deadline - way_back_s(timeout_s)
        groups = [
            _Group(batch, asked, list(some), response, answered, deadline, until) for asked, some in reads.items()
        ]
        if len(groups) == 1:
            await self._answer(groups[0])
        else:
            await asyncio.gather(*[self._answer(group) for group in groups])

    async def read_index(self) -> peer_pb2.ReadIndexResponse:
        """Tell a peer how far its state must have come to be read linearizably. Raises NotLeader and ShuttingDown."""
        index = await self._node.read_index()
        return peer_pb2.ReadIndexResponse(index=index, replicas=majority(len(self._node.raft.voters)))

    async def catch_up(self, timeout_s: float) -> None:
        """Return once this node's state has all that was acknowledged before. Raises NoLeader, TooStale, and more."""
        self._require_readable()
        point = await self._point()
        reached = self._applied(LogEnd(0, point.index))
        if reached is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await reached
            except TimeoutError:
                raise self._lags(point.index) from None

    async def confirm(self, timeout_s: float) -> None:
        """Return once it is shown that this node can serve linearizable reads: that it has what a leader has confirmed.

        A witness, which holds no data, only has to reach the leader, who answers for it. Raises NoLeader, TooStale,
        CorruptState, and more.
        """
        if self._node.raft.is_witness:
            await self._point()
        else:
            await self.catch_up(timeout_s)

    def require_state(self) -> None:
        """Raise FailedPrecondition or CorruptState where there is no state to read here, however stale."""
        self._node.require_sound()
        if self._node.raft.is_witness:
            raise FailedPrecondition(f"node {self._id} is a witness: it holds no data to read")

    def log_end(self) -> kv_pb2.LogEndResponse:
        """Return what this node's log ends with, without a header. Raises QuorumUnavailable."""
        return log_end(self._node)

    async def _answer(self, group: _Group) -> None:
        try:
            self._require_readable()
            async with asyncio.timeout_at(group.deadline):
                await self._serve(group)
        except TimeoutError:
            group.fail(group.late() if group.late is not None else DeadlineExceeded("no time to read in the deadline"))
        except StorageError as error:
            group.fail(ShuttingDown(f"the node stops: {error.message}"))
        except RaftKVError as error:
            group.fail(error)

    async def _serve(self, group: _Group) -> None:
        asked = group.asked
        match asked.level:
            case kv_pb2.LOCAL:
                await self._read(group, self._basis(Guarantee.STALE_PREFIX))
            case kv_pb2.LINEARIZABLE:
                await self._come_to(group)
                await self._linearizable(group)
            case kv_pb2.AT_LEAST:
                await self._come_to(group)
                await self._read(group, self._basis(Guarantee.AT_LEAST))
            case kv_pb2.BOUNDED:
                await self._come_to(group)
                await self._bounded(group)
            case kv_pb2.QUORUM:
                await self._quorum_read(group)
            case _:
                raise InvalidArgument(f"read level {asked.level} is unknown")

    # --- LINEARIZABLE -------------------------------------------------------------------------------------------------

    async def _linearizable(self, group: _Group) -> None:
        group.late = _unconfirmed
        point = await self._point()
        group.late = None
        await self._wait(group, self._applied(LogEnd(0, point.index)), partial(self._lags, point.index))
        await self._read(group, self._basis(Guarantee.LINEARIZABLE, point.replicas))

    def _lags(self, index: int) -> TooStale:
        return TooStale(
            f"node {self._id} has applied entry {self._node.machine.applied_index}, and the read needs entry {index}: "
            "the node lags too much for the deadline"
        )

    async def _point(self) -> ReadPoint:
        """Have the leader confirm a read point, whoever that is. Raises NoLeader."""
        node = self._node
        while True:
            leader, term = node.leader, node.raft.term
            reason = "no leader is known: an election, or no majority"
            if leader is not None:
                try:
                    return await asyncio.shield(self._points.next())
                except NotLeader as error:
                    reason = error.message
            if not await another_leader(node, leader, term, _now() + self._leader_wait_s):
                raise NoLeader(reason)
            self._require_readable()

    # --- BOUNDED ------------------------------------------------------------------------------------------------------

    async def _bounded(self, group: _Group) -> None:
        node, bound_ms = self._node, group.asked.max_staleness_ms
        until = min(group.until, _now() + self._leader_wait_s)
        while True:
            point = self._points.newest(node.machine.applied_index)
            age_ms = math.inf if point is None else node.now_ms() - point.asked_ms
            if point is not None and age_ms <= bound_ms:
                if age_ms > bound_ms / 2:
                    self._points.refresh()
                try:
                    basis = partial(self._not_older, point, bound_ms)
                    await self._reader.read(group.response, group.answered, group.reads, basis)
                except TooStale:
                    continue  # it took too long to begin
                return
            late = partial(self._too_old, bound_ms, point)
            if _now() >= until:
                raise late()
            await self._wait(group, self._fresher(), late, until)

    def _too_old(self, bound_ms: int, point: ReadPoint | None) -> TooStale:
        age = "no leader has told how old it is"
        if point is not None:
            age = f"it is {math.ceil(self._node.now_ms() - point.asked_ms)} ms old"
        return TooStale(
            f"BOUNDED({bound_ms} ms) is not possible at node {self._id}: of its state, {age}, and no leader confirmed "
            "a newer one in time"
        )

    def _not_older(self, point: ReadPoint, bound_ms: int) -> Basis:
        """Return what a state that has just been opened is, by a read point. Raises TooStale."""
        staleness_ms = math.ceil(self._node.now_ms() - point.asked_ms)
        if staleness_ms > bound_ms:
            raise TooStale("the state has become too old meanwhile")
        return self._basis(Guarantee.BOUNDED, point.replicas, staleness_ms=staleness_ms)

    async def _fresher(self) -> None:
        """Come to a newer read point."""
        point = await self._point()
        reached = self._applied(LogEnd(0, point.index))
        if reached is not None:
            await reached

    # --- AT_LEAST -----------------------------------------------------------------------------------------------------

    async def _come_to(self, group: _Group) -> None:
        """Wait for the state to have what a token names, and a place in the log.

        Raises TooStale, and what is wrong with the token.
        """
        token, after = group.asked.at_least, group.asked.after
        if token is not None:
            self._tokens.check(token)
            seen = LogEnd(token.term, token.index)
            while not self._tokens.reached(token):
                await self._wait(group, self._node.applied(seen, or_later_term=True), partial(self._behind, seen))
        if after is not None:
            await self._wait(group, self._node.rinsed(after), partial(self._behind, after))

    def _behind(self, asked: LogEnd) -> TooStale:
        machine = self._node.machine
        return TooStale(
            f"node {self._id} has applied entry {machine.applied_index} (term {machine.applied_term}), and the read "
            f"asks for entry {asked.last_index} (term {asked.last_term}). Its log ends at "
            f"{self._node.raft.log.last_index}: what is beyond may be still on its way, or not of this cluster"
        )

    # --- QUORUM -------------------------------------------------------------------------------------------------------

    async def _quorum_read(self, group: _Group) -> None:
        group.late = partial(self._quorum.unavailable, group.asked.replicas)
        found = await self._quorum.find(group.asked.replicas, group.until)
        group.late = None
        reached = self._node.rinsed(found.target)
        if reached is not None:
            try:
                for holder in found.holders:
                    # A holder that hangs must not keep the reads from a state that has come so far meanwhile.
                    handing = asyncio.create_task(self._hand_over(group, found, holder))
                    try:
                        await asyncio.wait((handing, reached), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        handing.cancel()  # without effect on one that is done
                    if not handing.done():
                        break
                    handing.result()
                    if not group.reads:
                        return
                await self._wait(group, reached, partial(self._not_rinsed, found.target))
            finally:
                reached.cancel()
        await self._come_to(group)
        await self._read(group, _quorum_basis(found))

    def _not_rinsed(self, end: LogEnd) -> QuorumUnavailable:
        return QuorumUnavailable(
            f"the voters' logs end with entry {end.last_index} (term {end.last_term}), and it is not known to be "
            f"committed: that needs a leader. Node {self._id} has applied entry {self._node.machine.applied_index}"
        )

    async def _hand_over(self, group: _Group, found: Found, holder: NodeId) -> None:
        """Have a voter answer that said to have come so far. What it does not answer stays in the group."""
        left_s = min(group.until - _now(), self._leader_wait_s)
        if left_s <= 0:
            return
        batch = group.request(max(1, int(left_s * 1000)))
        for operation in batch.operations:
            asked = operation.range
            asked.level = kv_pb2.AT_LEAST
            asked.replicas = 0
            asked.after.term, asked.after.index = found.target
        try:
            answer = await self._forwarder.forward(holder, batch, left_s)
        except grpc.aio.AioRpcError:
            return
        basis = _quorum_basis(found)
        for result in answer.results:
            if result.HasField("error"):
                if result.error.retryable:
                    continue  # this node may do better, or another one
            else:
                receipt = common_pb2.ReadReceipt()
                receipt.CopyFrom(read_receipts.receipt_of(answer, result))
                if not is_rinsed(found.target, receipt.applied_term, receipt.applied_index):
                    continue  # it is not what was asked for, whatever the voter takes it for
                receipt.guarantee = common_pb2.Guarantee.ValueType(basis.guarantee)
                receipt.replicas = basis.replicas
                receipt.sees_writes_at = basis.sees_writes_at
                receipt.configuration_index = basis.configuration_index
                result.ClearField("read")
                group.take(result)
                read_receipts.attach(group.response, receipt, (result.id,))
                continue
            group.take(result)
        group.drop_answered()

    # --- what they share ----------------------------------------------------------------------------------------------

    @property
    def _id(self) -> NodeId:
        return self._node.raft.node_id

    def _require_readable(self) -> None:
        self.require_state()
        if self._node.was_removed:
            raise NoLeader(f"node {self._id} is not a member of the cluster any more")

    async def _wait(
        self,
        group: _Group,
        wait: Awaitable[None] | None,
        late: Callable[[], RaftKVError],
        until: float | None = None,
    ) -> None:
        """Wait (None: there is nothing to wait for). Raises what `late` returns when there is no time for that."""
        if wait is None:
            return
        group.late = late
        try:
            async with asyncio.timeout_at(group.until if until is None else until):
                await wait
        except TimeoutError:
            raise late() from None
        group.late = None

    def _applied(self, target: LogEnd) -> asyncio.Future[None] | None:
        return self._node.applied(target)

    def _basis(self, guarantee: Guarantee, replicas: int = 1, *, staleness_ms: int = 0) -> Basis:
        index = self._node.raft.configuration_index
        return Basis(guarantee, index, replicas, staleness_ms=staleness_ms)

    async def _read(self, group: _Group, basis: Basis) -> None:
        await self._reader.read(group.response, group.answered, group.reads, basis)


@dataclass(slots=True)
class _Group:
    """Reads of one batch that are asked for in the same way, and where their answers go."""

    batch: kv_pb2.BatchRequest
    asked: Asked
    reads: list[tuple[int, Query]]
    """Those that are open."""
    response: kv_pb2.BatchResponse
    answered: Answered
    deadline: float
    until: float
    """Until when to wait for something: a little time is left to say so."""
    late: Callable[[], RaftKVError] | None = None
    """What to answer if the deadline passes now."""

    def request(self, timeout_ms: int) -> kv_pb2.BatchRequest:
        """Return a batch of those that are open."""
        wanted = {operation_id for operation_id, _ in self.reads}
        operations = [operation for operation in self.batch.operations if operation.id in wanted]
        return kv_pb2.BatchRequest(timeout_ms=timeout_ms, operations=operations)

    def take(self, result: kv_pb2.OperationResult) -> None:
        """Put an answer from elsewhere into the response."""
        self.response.results.append(result)
        self.answered.add(result.id)
        if result.HasField("error"):
            self.answered.failed = True

    def drop_answered(self) -> None:
        self.reads = [read for read in self.reads if read[0] not in self.answered]

    def fail(self, error: RaftKVError) -> None:
        """Answer whatever is open with `error`."""
        for operation_id, _ in self.reads:
            if operation_id not in self.answered:
                wire.add_error(self.response, operation_id, error)
                self.answered.add(operation_id)
                self.answered.failed = True


def _quorum_basis(found: Found) -> Basis:
    guarantee, sees_writes_at = of_quorum_read(found.replicas, len(found.membership.voters))
    return Basis(guarantee, found.membership.configuration_index, found.replicas, sees_writes_at)


def _unconfirmed() -> RaftKVError:
    return DeadlineExceeded("no majority confirmed the read in time")


def _now() -> float:
    return asyncio.get_running_loop().time()
