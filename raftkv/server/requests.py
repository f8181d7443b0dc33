"""Client operations, whichever node they come to: run here when this node leads, else forwarded to the leader.

What may be tried again, and where:
  - an attempt that had no effect (NotLeader): always;
  - an attempt with an open outcome (LeaderChanged, a broken connection to the leader): only reads, and writes of a
    session, which are applied once however often they arrive (raft-bugs 44);
  - what was forwarded to this node: never forwarded again, so no request can circle.
Everything ends at the caller's deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from raftkv.errors import DeadlineExceeded, LeaderChanged, NoLeader, NotLeader, Overloaded, RaftKVError, ShuttingDown
from raftkv.kv.commands import Command, Group, Result
from raftkv.kv.machine import StateMachine
from raftkv.kv.ranges import RangeQuery
from raftkv.kv.view import View
from raftkv.raft import NodeId
from raftkv.server import wire
from raftkv.server.node import Node
from raftkv.server.proposals import Outcome
from raftkv.v1 import common_pb2, kv_pb2

SCAN_ROWS = 500
"""Rows of a range that are read in one go, a millisecond or so: then everybody else gets a turn."""


_VERDICTS = frozenset({common_pb2.INVALID_ARGUMENT, common_pb2.LIMIT_EXCEEDED})


class Forwarder(Protocol):
    """The way to the leader."""

    async def forward(self, leader: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse:
        """Run `batch` on `leader`. Raises grpc.aio.AioRpcError."""
        ...

    def client_address(self, node: NodeId) -> str:
        """Return where clients reach `node`; empty when unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What bounds a request."""

    default_timeout_s: float = 5.0
    """Deadline of a request that names none."""
    max_timeout_s: float = 600.0
    leader_wait_s: float = 1.0
    """A request waits this long for a leader to appear before it is answered NO_LEADER."""
    max_answer_bytes: int = 4 << 20
    """Reads of one batch whose answers exceed this together are asked to come again."""


class Attempt:
    """A batch under way: what is answered, and what is still to be done."""

    __slots__ = ("answered", "batch", "deadline", "response", "uncertain", "work")

    def __init__(self, batch: kv_pb2.BatchRequest, deadline: float) -> None:
        self.batch = batch
        self.deadline = deadline
        self.work = wire.decode(batch)
        self.response = kv_pb2.BatchResponse()
        self.answered: set[int] = set()
        self.uncertain = False
        """An attempt ended with an open outcome, so no later failure may claim that a write had no effect."""
        for operation_id, error in self.work.malformed:
            wire.add_error(self.response, operation_id, error)
            self.answered.add(operation_id)

    @property
    def open(self) -> bool:
        """Whether operations wait for the leader."""
        return bool(self.work.commands or self.work.reads)

    @property
    def repeatable(self) -> bool:
        """Whether a second attempt is safe after one with an open outcome."""
        return self.batch.session != 0 or not self.work.commands

    def admit_uncertainty(self) -> None:
        """Mark every failed write as ambiguous, if an attempt at it ended with an open outcome.

        Except for what was decided by the command itself: the same verdict would meet every attempt.
        """
        if not self.uncertain:
            return
        reads = {operation.id for operation in self.batch.operations if operation.HasField("range")}
        for result in self.response.results:
            if result.HasField("error") and result.id not in reads and result.error.code not in _VERDICTS:
                result.error.ambiguous = True

    def fail(self, error: RaftKVError) -> None:
        """Answer everything that is still open."""
        self.fail_commands(error)
        self.fail_reads(error)

    def fail_commands(self, error: RaftKVError) -> None:
        for command in self.work.commands:
            wire.add_error(self.response, command.sequence, error)
        self.close_commands()

    def fail_reads(self, error: RaftKVError) -> None:
        if error.ambiguous:  # a read has no effect that could be in doubt
            error = type(error)(error.message, leader_id=error.leader_id, leader_address=error.leader_address)
        for operation_id, _ in self.work.reads:
            wire.add_error(self.response, operation_id, error)
        self.close_reads()

    def take_results(self, commands: tuple[Command, ...], results: list[Result]) -> None:
        """Answer `commands`."""
        for command, result in zip(commands, results, strict=True):
            wire.add_result(self.response, command.sequence, result)
        if len(commands) == len(self.work.commands):
            self.close_commands()
        else:
            self.answered.update(command.sequence for command in commands)
            self.work.commands = [command for command in self.work.commands if command not in commands]

    def close_commands(self) -> None:
        self.answered.update(command.sequence for command in self.work.commands)
        self.work.commands = []

    def close_reads(self) -> None:
        self.answered.update(operation_id for operation_id, _ in self.work.reads)
        self.work.reads = []


class Requests:
    """Runs batches of client operations on one node."""

    def __init__(
        self, node: Node, machine: StateMachine, forwarder: Forwarder, cluster_id: int, limits: RequestLimits
    ) -> None:
        self._node = node
        self._machine = machine
        self._forwarder = forwarder
        self._cluster_id = cluster_id
        self._limits = limits

    async def run(self, batch: kv_pb2.BatchRequest, *, forwarded: bool) -> kv_pb2.BatchResponse:
        """Run `batch` and answer each of its operations exactly once, errors included. Does not raise RaftKVError."""
        now = asyncio.get_running_loop().time()
        timeout_s = min(batch.timeout_ms / 1000 or self._limits.default_timeout_s, self._limits.max_timeout_s)
        attempt = Attempt(batch, now + timeout_s)
        if attempt.work.local_reads:
            await self._read(attempt, attempt.work.local_reads, kv_pb2.GUARANTEE_STALE_PREFIX)
        try:
            await self._run_on_leader(attempt, forwarded=forwarded)
        except ShuttingDown as error:
            attempt.fail(self._explain(ShuttingDown(error.message, ambiguous=True)))
        attempt.admit_uncertainty()
        self._fill_header(attempt.response)
        return attempt.response

    async def _run_on_leader(self, attempt: Attempt, *, forwarded: bool) -> None:
        while attempt.open:
            leader, term = self._node.leader, self._node.raft.term
            if self._node.is_leader:
                progress = await self._lead(attempt)
            elif forwarded:
                attempt.fail(self._explain(NotLeader(f"node {self._node.raft.node_id} is not the leader")))
                break
            elif leader is not None:
                progress = await self._forward(attempt, leader)
            else:
                progress = False
            if progress or not attempt.open:
                continue
            if not await self._wait_for_change(leader, term, attempt.deadline):
                attempt.fail(self._explain(self._give_up(attempt, leader)))

    def header(self) -> common_pb2.ResponseHeader:
        """Return the head of an answer of this node."""
        leader = self._node.leader
        return common_pb2.ResponseHeader(
            cluster_id=self._cluster_id,
            member_id=self._node.raft.node_id,
            revision=self._machine.revision,
            raft_term=self._node.raft.term,
            leader_id=leader or 0,
            leader_address=self._forwarder.client_address(leader) if leader is not None else "",
        )

    # --- on the leader ------------------------------------------------------------------------------------------------

    async def _lead(self, attempt: Attempt) -> bool:
        """Run what is open here. Return False when leadership was lost and another node has to be found."""
        work, batch = attempt.work, attempt.batch
        outcomes: list[tuple[tuple[Command, ...], Outcome]] = []
        barrier = None
        try:
            if work.commands:
                for commands, alone in wire.portions(work):
                    group = Group(batch.session, batch.acknowledged_below, commands)
                    outcome = self._node.propose(group, work.size_bytes, attempt.deadline, alone=alone)
                    outcomes.append((commands, outcome))
            if work.reads:
                barrier = self._node.read_barrier()
            async with asyncio.timeout_at(attempt.deadline):
                for commands, outcome in outcomes:
                    attempt.take_results(commands, await outcome)
                if barrier is not None:
                    await barrier
        except TimeoutError:
            attempt.fail_commands(
                DeadlineExceeded("no majority confirmed the write in time; it may still take effect", ambiguous=True)
            )
            attempt.fail_reads(DeadlineExceeded("no majority confirmed the read in time"))
            return True
        except NotLeader:
            return False
        except LeaderChanged as error:
            if attempt.repeatable:
                attempt.uncertain = True
                return False
            attempt.fail_commands(self._explain(error))
            return True
        except RaftKVError as error:
            attempt.fail(self._explain(error))
            return True
        if attempt.work.reads:
            await self._read(attempt, attempt.work.reads, kv_pb2.GUARANTEE_LINEARIZABLE)
            attempt.close_reads()
        return True

    async def _read(
        self, attempt: Attempt, reads: list[tuple[int, RangeQuery]], guarantee: kv_pb2.Guarantee.ValueType
    ) -> None:
        """Answer `reads` from the local state, as it is now."""
        response = attempt.response
        with self._machine.view() as view:
            size = 0
            for operation_id, query in reads:
                attempt.answered.add(operation_id)
                if size > self._limits.max_answer_bytes:
                    wire.add_error(
                        response,
                        operation_id,
                        Overloaded(f"the answers of the batch exceed {self._limits.max_answer_bytes} bytes: ask again"),
                    )
                    continue
                try:
                    if not query.range_end and not query.count_only and not query.keys_only:
                        pair = view.get(query.key, query.revision)
                        revision = query.revision or view.meta.revision
                        wire.add_get(response, operation_id, pair, revision, guarantee)
                        size += len(pair.value) if pair is not None else 0
                    else:
                        size += await self._scan(response, view, operation_id, query, guarantee)
                except RaftKVError as error:
                    wire.add_error(response, operation_id, error)

    async def _scan(
        self,
        response: kv_pb2.BatchResponse,
        view: View,
        operation_id: int,
        query: RangeQuery,
        guarantee: kv_pb2.Guarantee.ValueType,
    ) -> int:
        scan = view.scan(query)
        while not scan.step(SCAN_ROWS):  # noqa: ASYNC110 - gives way to others, waits for nothing
            await asyncio.sleep(0)
        result = scan.result()
        wire.add_range(response, operation_id, result, guarantee)
        return sum(len(pair.key) + len(pair.value) for pair in result.pairs)

    # --- elsewhere ----------------------------------------------------------------------------------------------------

    async def _forward(self, attempt: Attempt, leader: NodeId) -> bool:
        """Have `leader` run what is open. Return False when it could not, and another try is allowed."""
        left_s = attempt.deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            attempt.fail(DeadlineExceeded("the deadline passed before the request reached the leader: no effect"))
            return True
        batch = wire.remaining(attempt.batch, attempt.answered, max(1, int(left_s * 1000)))
        try:
            answer = await self._call(leader, batch, left_s, watch=attempt.repeatable)
        except grpc.aio.AioRpcError as error:
            if attempt.repeatable:
                attempt.uncertain = True
                return False
            attempt.fail_reads(NoLeader(f"leader {leader} did not answer: {error.code().name}"))
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                attempt.fail_commands(DeadlineExceeded(f"leader {leader} did not answer in time", ambiguous=True))
            else:
                attempt.fail_commands(
                    LeaderChanged(f"the connection to leader {leader} broke: {error.details()}", ambiguous=True)
                )
            return True
        if answer is None:
            attempt.uncertain = True
            return False
        return self._merge(attempt, answer)

    async def _call(
        self, leader: NodeId, batch: kv_pb2.BatchRequest, timeout_s: float, *, watch: bool
    ) -> kv_pb2.BatchResponse | None:
        """Forward; where a second attempt is safe, stop waiting for a leader that has been replaced (None)."""
        call = asyncio.ensure_future(self._forwarder.forward(leader, batch, timeout_s))
        try:
            while watch and not call.done() and self._node.leader == leader:
                changed = self._node.leadership_changed()
                either: set[asyncio.Future[Any]] = {call, changed}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if watch and not call.done():
                return None
            return await call
        finally:
            call.cancel()

    def _merge(self, attempt: Attempt, answer: kv_pb2.BatchResponse) -> bool:
        """Take over the leader's answers, except for those that say it is not the leader: these stay open."""
        for result in answer.results:
            if result.HasField("error") and result.error.code == common_pb2.NOT_LEADER:
                continue
            attempt.response.results.append(result)
            attempt.answered.add(result.id)
        answered = attempt.answered
        attempt.work.commands = [command for command in attempt.work.commands if command.sequence not in answered]
        attempt.work.reads = [read for read in attempt.work.reads if read[0] not in answered]
        if answer.header.leader_id == answer.header.member_id:
            attempt.response.header.CopyFrom(answer.header)
        return not attempt.open

    async def _wait_for_change(self, leader: NodeId | None, term: int, deadline: float) -> bool:
        """Wait until there is a leader, and not the one of before. Return False when that takes too long."""
        until = min(asyncio.get_running_loop().time() + self._limits.leader_wait_s, deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._node.leader is None or (self._node.leader, self._node.raft.term) == (leader, term):
                    await self._node.leadership_changed()
                return True
        return False

    def _give_up(self, attempt: Attempt, leader: NodeId | None) -> RaftKVError:
        tried = leader is not None
        reason = f"leader {leader} does not answer" if tried else "no leader is known: an election, or no majority"
        if asyncio.get_running_loop().time() >= attempt.deadline:
            return DeadlineExceeded(reason, ambiguous=tried)
        return LeaderChanged(reason, ambiguous=True) if tried else NoLeader(reason)

    def _explain(self, error: RaftKVError) -> RaftKVError:
        """Add where the leader is, as far as this node knows."""
        leader = self._node.leader
        if leader is not None:
            error.leader_id = leader
            error.leader_address = self._forwarder.client_address(leader)
        return error

    def _fill_header(self, response: kv_pb2.BatchResponse) -> None:
        if not response.HasField("header"):
            response.header.CopyFrom(self.header())
