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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc

from raftkv.errors import (
    ClusterMismatch,
    CorruptState,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LeaderChanged,
    NoLeader,
    NotLeader,
    Overloaded,
    RaftKVError,
    ShuttingDown,
    SpaceExceeded,
    StorageError,
)
from raftkv.kv.commands import Command, Result, TxnDone
from raftkv.kv.txn import read_bytes
from raftkv.quorum import MAJORITY, Guarantee, Needed, majority
from raftkv.raft import NodeId
from raftkv.server import wire
from raftkv.server.answered import Answered, count
from raftkv.server.barriers import Barrier
from raftkv.server.concerns import Concerns
from raftkv.server.deadlines import way_back_s
from raftkv.server.disk_room import must_go_on, voters_full
from raftkv.server.durability import Copies
from raftkv.server.forwarding import Forwarder
from raftkv.server.leadership import another_leader, unless_replaced
from raftkv.server.node import Node
from raftkv.server.proposals import Decided, Outcome
from raftkv.server.queries import Query
from raftkv.server.quota import Quota, grows
from raftkv.server.read_receipts import Basis
from raftkv.server.reads import Reads
from raftkv.server.state_reader import StateReader
from raftkv.v1 import common_pb2, kv_pb2

_VERDICTS = frozenset(
    {
        common_pb2.INVALID_ARGUMENT,
        common_pb2.LIMIT_EXCEEDED,
        common_pb2.FUTURE_REVISION,
        common_pb2.COMPACTED,
        common_pb2.FAILED_PRECONDITION,
        common_pb2.LEASE_NOT_FOUND,
        common_pb2.LEASE_EXISTS,
        common_pb2.STALE_FENCE,
        common_pb2.LOCK_BUSY,
    }
)
"""What a write is refused with by the state machine itself: had an earlier attempt been applied, its session would have
answered with the result of that."""

OpenReads = list[tuple[int, Query]]
"""(operation id, query)."""

Passage = tuple[Barrier, OpenReads, Basis]
"""When the barrier is down, the reads may be served from the local state, and this is why."""


class Proposed(NamedTuple):
    """Commands under way, and when they are to be answered."""

    commands: tuple[Command, ...]
    needed: Needed | None
    """None: a majority."""
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What bounds a request."""

    default_timeout_s: float = 5.0
    """Deadline of a request that names none."""
    max_timeout_s: float = 600.0
    leader_wait_s: float = 1.0
    """A request waits this long for a leader to appear before it is answered NO_LEADER."""
    deposed_wait_s: float = 0.1
    """So long where CheckQuorum has deposed this node: it is the others that hear each other, so whoever asks does
    better with them."""
    max_scans: int = 64
    """Batches with ranges that are read at a time; each holds a snapshot of the store. The others wait."""
    max_answer_bytes: int = 4 << 20
    """Reads of one batch whose answers exceed this together are asked to come again."""
    quota_bytes: int = 0
    """What makes the state grow is refused from this size on; 0: never."""
    write_concern: int = MAJORITY
    """Of writes that name none."""


class Attempt:
    """A batch under way: what is answered, and what is still to be done."""

    __slots__ = (
        "answered",
        "batch",
        "copies_until",
        "deadline",
        "reads",
        "response",
        "result_bytes",
        "uncertain",
        "work",
    )

    def __init__(self, batch: kv_pb2.BatchRequest, now: float, timeout_s: float) -> None:
        self.batch = batch
        self.deadline = now + timeout_s
        self.copies_until = self.deadline - way_back_s(timeout_s)
        """When a write that is committed waits no longer for further copies."""
        self.work = wire.decode(batch)
        self.response = kv_pb2.BatchResponse()
        self.result_bytes = 0
        """What the transactions answered so far have read."""
        self.answered = Answered()
        self.reads = len(self.work.reads) + sum([len(reads) for reads in self.work.here.values()])
        """How many reads there are in it."""
        self.uncertain = False
        """An attempt ended with an open outcome, so no later failure may claim that a write had no effect."""
        for operation_id, error in self.work.refused:
            wire.add_error(self.response, operation_id, error)
            self.answered.add(operation_id)
            self.answered.failed = True

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

        Except for what was decided by the command itself: the same verdict would meet every attempt. A write concern is
        judged by the members there are, and these change.
        """
        if not self.uncertain:
            return
        work = wire.decode(self.batch)
        writes = {command.sequence for command in work.commands}
        for result in self.response.results:
            if not result.HasField("error") or result.id not in writes:
                continue
            code = result.error.code
            if code not in _VERDICTS or (code == common_pb2.INVALID_ARGUMENT and result.id in work.concerns):
                result.error.ambiguous = True

    def fail(self, error: RaftKVError) -> None:
        """Answer everything that is still open."""
        self.fail_commands(error)
        self.fail_reads(error)

    def fail_commands(self, error: RaftKVError, commands: tuple[Command, ...] | None = None) -> None:
        """Answer these commands (None: all that are open) with `error`."""
        failed = self.work.commands if commands is None else commands
        for command in failed:
            wire.add_error(self.response, command.sequence, error)
            self.answered.failed = True
        self._close_commands(failed)

    def take_results(self, commands: tuple[Command, ...], results: list[Result], max_bytes: int) -> None:
        """Answer these commands with their results.

        No message holds any number of transactions that read: once there are `max_bytes`, others are asked to come
        again. They have had their effect, and what they gave is remembered by their session, if they have one.
        """
        plain = self.work.plain
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, TxnDone):
                if self.result_bytes >= max_bytes:
                    late = Overloaded(f"the answers of the batch exceed {max_bytes} bytes: ask again", ambiguous=True)
                    wire.add_error(self.response, command.sequence, late)
                    self.answered.failed = True
                    continue
                self.result_bytes += read_bytes(result.branch)
            if wire.add_result(self.response, command, result, plain=command.sequence in plain):
                self.answered.failed = True
        self._close_commands(commands)

    def take_early(self, commands: tuple[Command, ...]) -> None:
        """Answer these commands: acknowledged, with results that nobody knows yet."""
        for command in commands:
            wire.add_early(self.response, command)
        self._close_commands(commands)

    def attach(self, receipt: common_pb2.WriteReceipt, first: int) -> None:
        """`receipt` is of the writes that were answered by `response.results` from position `first` on."""
        response = self.response
        if not response.HasField("wrote"):
            response.wrote.CopyFrom(receipt)  # of all that get none of their own
        elif response.wrote != receipt:
            for result in response.results[first:]:
                if not result.HasField("error"):
                    result.wrote.CopyFrom(receipt)

    def take_receipts(self, answer: kv_pb2.BatchResponse, first: int) -> None:
        """`answer` has the receipts of what `response.results` was given from position `first` on; the open operations
        are still those that were asked for.
        """
        response = self.response
        wrote = answer.HasField("wrote") and (not response.HasField("wrote") or response.wrote != answer.wrote)
        read = answer.HasField("read") and (not response.HasField("read") or response.read != answer.read)
        if wrote and not response.HasField("wrote"):
            response.wrote.CopyFrom(answer.wrote)
            wrote = False
        if read and not response.HasField("read"):
            response.read.CopyFrom(answer.read)
            read = False
        if not (wrote or read):
            return
        # What was answered elsewhere before has other receipts.
        writes = {command.sequence for command in self.work.commands}
        for result in response.results[first:]:
            if result.HasField("error"):
                continue
            if result.id in writes:
                if wrote and not result.HasField("wrote"):
                    result.wrote.CopyFrom(answer.wrote)
            elif read and not result.HasField("read"):
                result.read.CopyFrom(answer.read)

    def reads_by_level(self) -> tuple[OpenReads, OpenReads]:
        """Return the open reads: those that a lease may answer, and the others."""
        by_lease = self.work.by_lease
        if not by_lease:
            return [], self.work.reads
        reads = self.work.reads
        return [read for read in reads if read[0] in by_lease], [read for read in reads if read[0] not in by_lease]

    def fail_reads(self, error: RaftKVError, reads: OpenReads | None = None) -> None:
        """Answer these reads (None: all that are open) with `error`."""
        reads = self.work.reads if reads is None else reads
        if error.ambiguous:  # a read has no effect that could be in doubt
            error = type(error)(error.message, leader_id=error.leader_id, leader_address=error.leader_address)
        for operation_id, _ in reads:
            if operation_id not in self.answered:  # the deadline may pass between two of them
                wire.add_error(self.response, operation_id, error)
                self.answered.failed = True
        self.close_reads(reads)

    def close_reads(self, reads: OpenReads) -> None:
        """These reads are answered."""
        self.answered.update([operation_id for operation_id, _ in reads])
        if len(reads) == len(self.work.reads):
            self.work.reads = []
        else:
            self.work.reads = [read for read in self.work.reads if read[0] not in self.answered]

    def _close_commands(self, commands: Sequence[Command]) -> None:
        if len(commands) == len(self.work.commands):
            self.work.commands = []
        else:
            closed = {command.sequence for command in commands}
            self.work.commands = [command for command in self.work.commands if command.sequence not in closed]
        self.answered.update([command.sequence for command in commands])


def _fail_for_room(attempt: Attempt, refusal: SpaceExceeded) -> None:
    attempt.fail_commands(refusal, tuple(command for command in attempt.work.commands if not must_go_on(command)))


class Requests:
    """Runs batches of client operations on one node."""

    def __init__(self, node: Node, forwarder: Forwarder, cluster_id: int, limits: RequestLimits) -> None:
        self._node = node
        self._forwarder = forwarder
        self._cluster_id = cluster_id
        self._limits = limits
        self._concerns = Concerns(node.raft, limits.write_concern)
        self.reader = StateReader(node, max_scans=limits.max_scans, max_answer_bytes=limits.max_answer_bytes)
        self.reads = Reads(node, forwarder, self.reader, cluster_id=cluster_id, leader_wait_s=limits.leader_wait_s)
        self.quota = Quota(limits.quota_bytes, node.used_bytes, asyncio.get_running_loop().time)

    async def run(self, batch: kv_pb2.BatchRequest, *, forwarded: bool) -> kv_pb2.BatchResponse:
        """Run `batch` and answer each of its operations exactly once, errors included. Does not raise RaftKVError."""
        now = asyncio.get_running_loop().time()
        timeout_s = min(batch.timeout_ms / 1000 or self._limits.default_timeout_s, self._limits.max_timeout_s)
        attempt = Attempt(batch, now, timeout_s)
        refusal = self._node.corruption
        if refusal is not None and not forwarded:
            attempt.fail_reads(refusal)  # another leader would answer them, but such a node is not to be read through
        if not attempt.work.here:
            await self._run_elsewhere(attempt, forwarded=forwarded)
        elif not attempt.open:
            await self._read_here(attempt, timeout_s)
        else:
            await asyncio.gather(self._read_here(attempt, timeout_s), self._run_elsewhere(attempt, forwarded=forwarded))
        attempt.admit_uncertainty()
        if not forwarded:
            count(self._node.tallies.answered, batch, attempt.response, attempt.answered, attempt.reads)
        self._fill_header(attempt.response)
        return attempt.response

    def refuse(self, operations: Sequence[kv_pb2.Operation], error: RaftKVError) -> kv_pb2.BatchResponse:
        """Answer a client's operations with an error each; they are counted, and not run."""
        batch, response, answered = kv_pb2.BatchRequest(operations=operations), kv_pb2.BatchResponse(), Answered()
        answered.failed = True
        for operation in operations:
            wire.add_error(response, operation.id, error)
        count(self._node.tallies.answered, batch, response, answered, reads=0)
        return response

    async def _read_here(self, attempt: Attempt, timeout_s: float) -> None:
        await self.reads.answer(attempt.batch, attempt.work.here, attempt.response, attempt.answered, timeout_s)

    async def _run_elsewhere(self, attempt: Attempt, *, forwarded: bool) -> None:
        """See to what the leader answers, be it this node or another one."""
        try:
            await self._run_on_leader(attempt, forwarded=forwarded)
        except ShuttingDown as error:
            attempt.fail(self._explain(ShuttingDown(error.message, ambiguous=True)))
        except StorageError as error:
            attempt.fail(self._explain(ShuttingDown(f"the node stops: {error.message}", ambiguous=True)))

    async def _run_on_leader(self, attempt: Attempt, *, forwarded: bool) -> None:
        while attempt.open:
            if self._node.was_removed:
                # Nobody tells it who leads: it would keep its clients waiting for nothing.
                attempt.fail(self._no_member_any_more())
                return
            leader, term = self._node.leader, self._node.raft.term
            if self._node.is_leader:
                await self._lead(attempt)
            elif forwarded:
                attempt.fail(self._explain(NotLeader(f"node {self._node.raft.node_id} is not the leader")))
            elif leader is not None:
                await self._forward(attempt, leader)
            if attempt.open:
                wait_s = self._limits.deposed_wait_s if self._node.lost_its_quorum else self._limits.leader_wait_s
                until = min(asyncio.get_running_loop().time() + wait_s, attempt.deadline)
                if not await another_leader(self._node, leader, term, until):
                    attempt.fail(self._explain(self._give_up(attempt, leader)))

    def _no_member_any_more(self) -> NoLeader:
        return NoLeader(f"node {self._node.raft.node_id} is not a member of the cluster any more")

    def header(self) -> common_pb2.ResponseHeader:
        """Return the head of an answer of this node."""
        leader = self._node.leader
        return common_pb2.ResponseHeader(
            cluster_id=self._cluster_id,
            member_id=self._node.raft.node_id,
            revision=self._node.machine.revision,
            raft_term=self._node.raft.term,
            leader_id=leader or 0,
            leader_address=self._forwarder.client_address(leader) if leader is not None else "",
            configuration_index=self._node.raft.configuration_index,
        )

    def log_end(self, request: kv_pb2.LogEndRequest) -> kv_pb2.LogEndResponse:
        """Tell a client what this node's log ends with. Raises ClusterMismatch and QuorumUnavailable."""
        if request.cluster_id not in (0, self._cluster_id):
            raise ClusterMismatch(f"this is cluster {self._cluster_id:016x}, not {request.cluster_id:016x}")
        answer = self.reads.log_end()
        answer.header.CopyFrom(self.header())
        return answer

    # --- on the leader ------------------------------------------------------------------------------------------------

    async def _lead(self, attempt: Attempt) -> None:
        """Run what is open here. What stays open has to be run by another leader."""
        outcomes = self._propose(attempt)
        passages = self._begin_reads(attempt)
        try:
            async with asyncio.timeout_at(attempt.deadline):
                for proposed in outcomes:
                    await self._settle(attempt, proposed)
                for barrier, reads, basis in passages:
                    await barrier
                    await self.reader.read(attempt.response, attempt.answered, reads, basis)
                    attempt.close_reads(reads)
        except TimeoutError:
            self._give_up_writes(attempt, outcomes)
            attempt.fail_commands(
                DeadlineExceeded("too few voters confirmed the write in time; it may still take effect", ambiguous=True)
            )
            attempt.fail_reads(DeadlineExceeded("no majority confirmed the read in time"))
        except (NotLeader, CorruptState):
            pass  # the reads stay open

    def _give_up_writes(self, attempt: Attempt, outcomes: Sequence[Proposed]) -> None:
        """Nobody waits for these any more: they count as failed, once, whatever becomes of them."""
        self._node.tallies.failed_writes["deadline_exceeded"] += len(attempt.work.commands)
        for proposed in outcomes:
            proposed.outcome.cancel()

    def _begin_reads(self, attempt: Attempt) -> list[Passage]:
        """Ask that the open reads may be served. Those that cannot be are answered, or stay open for another leader."""
        raft = self._node.raft
        by_lease, others = attempt.reads_by_level()
        passages: list[Passage] = []
        try:
            if by_lease:
                try:
                    leased = self._node.lease_barrier()
                except FailedPrecondition as error:
                    attempt.fail_reads(self._explain(error), by_lease)
                else:
                    if leased is None:
                        others = attempt.work.reads
                    else:
                        passages.append((leased, by_lease, Basis(Guarantee.LEASE, raft.configuration_index)))
            if others:
                confirmed = majority(len(raft.voters))
                basis = Basis(Guarantee.LINEARIZABLE, raft.configuration_index, confirmed)
                passages.append((self._node.read_barrier(), others, basis))
        except NotLeader:
            pass  # they stay open
        except Overloaded as error:
            attempt.fail_reads(self._explain(error))
            return []
        return passages

    def _propose(self, attempt: Attempt) -> list[Proposed]:
        """Propose the open commands. Those that find no room, or ask for what is not possible, are answered."""
        outcomes: list[Proposed] = []
        if attempt.work.commands and self.quota.exceeded:
            attempt.fail_commands(self.quota.refusal(), tuple(filter(grows, attempt.work.commands)))
        room = self._node.disk_health.room
        if attempt.work.commands and room.refuses_writes and not self._node.raft.transferring:
            _fail_for_room(attempt, room.refusal())
        elif attempt.work.commands and (full := self._node.raft.full_voters):
            _fail_for_room(attempt, voters_full(full))
        needs, refused = self._concerns.weigh(attempt.work)
        for command, refusal in refused:
            # Judged by the members of now, and by this node's default: an earlier attempt at a write of a session may
            # have been judged otherwise, and applied: so it is not refused as if it had no effect where it is known.
            known = self._node.machine.knows(attempt.batch.session, command.sequence)
            attempt.fail_commands(InvalidArgument(refusal.message, ambiguous=known), (command,))
        if not attempt.work.commands:
            return outcomes
        for group, size_bytes, weight, alone, needed in list(wire.portions(attempt.work, attempt.batch, needs)):
            early = 0
            if needed is not None and needed.early:
                early = needed.voters
            try:
                outcome = self._node.propose(
                    group, size_bytes, attempt.deadline, weight=weight, alone=alone, early=early
                )
            except Overloaded as error:
                attempt.fail_commands(self._explain(error), group.commands)
            else:
                outcomes.append(Proposed(group.commands, needed, outcome))
        return outcomes

    async def _settle(self, attempt: Attempt, proposed: Proposed) -> None:
        """Answer the commands, or leave them open for another leader."""
        commands, needed, outcome = proposed
        try:
            decided = await outcome
        except NotLeader:
            pass
        except LeaderChanged as error:
            if attempt.repeatable:
                attempt.uncertain = True
            else:
                attempt.fail_commands(self._explain(error), commands)
        except RaftKVError as error:
            attempt.fail_commands(self._explain(error), commands)
        else:
            if decided.results is None:
                # For its session such a sequence is answered: the client acknowledges it in its next batch, and never
                # sends it again. That mark cannot reach a state before the write does, and have it refused. The write
                # was in the leader's log before this answer left, so the mark comes behind it there; and in a log that
                # has lost the write there is nothing to refuse.
                first = len(attempt.response.results)
                attempt.take_early(commands)
                copies = Copies(decided.copies, decided.configuration_index)
            else:
                if needed is not None and needed.waits:
                    copies = await self._node.copied(decided.index, needed.voters, attempt.copies_until)
                else:
                    copies = self._node.copies(decided.index)
                first = len(attempt.response.results)  # not before: reads are answered meanwhile
                attempt.take_results(commands, decided.results, self._limits.max_answer_bytes)
            attempt.attach(self._receipt(decided, needed, copies), first)

    def _receipt(self, decided: Decided, needed: Needed | None, copies: Copies) -> common_pb2.WriteReceipt:
        return common_pb2.WriteReceipt(
            term=decided.term,
            index=decided.index,
            committed=decided.results is not None,
            durable_on=copies.voters,
            wanted=(needed or self._concerns.majority).voters,
            configuration_index=copies.configuration_index,
        )

    # --- elsewhere ----------------------------------------------------------------------------------------------------

    async def _forward(self, attempt: Attempt, leader: NodeId) -> None:
        """Have `leader` run what is open. What stays open may be tried again."""
        left_s = attempt.deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            attempt.fail(DeadlineExceeded("the deadline passed before the request reached the leader: no effect"))
            return
        here = {operation_id for reads in attempt.work.here.values() for operation_id, _ in reads}
        batch = wire.remaining(attempt.batch, attempt.answered | here, max(1, int(left_s * 1000)))
        try:
            forwarding = self._forwarder.forward(leader, batch, left_s)
            answer = await unless_replaced(self._node, leader, forwarding, watch=attempt.repeatable)
        except grpc.aio.AioRpcError as error:
            if attempt.repeatable:
                attempt.uncertain = True
                return
            attempt.fail_reads(NoLeader(f"leader {leader} did not answer: {error.code().name}"))
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                attempt.fail_commands(DeadlineExceeded(f"leader {leader} did not answer in time", ambiguous=True))
            else:
                attempt.fail_commands(
                    LeaderChanged(f"the connection to leader {leader} broke: {error.details()}", ambiguous=True)
                )
            return
        if answer is None:
            attempt.uncertain = True
        else:
            self._merge(attempt, answer)

    def _merge(self, attempt: Attempt, answer: kv_pb2.BatchResponse) -> None:
        """Take over the leader's answers, except for those that say it is not the leader: these stay open."""
        first = len(attempt.response.results)
        for result in answer.results:
            if result.HasField("error"):
                if result.error.code == common_pb2.NOT_LEADER:
                    # It may have led when it began, and not know what became of its first attempt.
                    attempt.uncertain = attempt.uncertain or result.error.ambiguous
                    continue
                attempt.answered.failed = True
            attempt.response.results.append(result)
            attempt.answered.add(result.id)
        attempt.take_receipts(answer, first)
        answered = attempt.answered
        attempt.work.commands = [command for command in attempt.work.commands if command.sequence not in answered]
        attempt.work.reads = [read for read in attempt.work.reads if read[0] not in answered]
        if answer.header.leader_id == answer.header.member_id:
            attempt.response.header.CopyFrom(answer.header)

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
