"""How clients ask: they retry as the client library does, and tell the oracle what they were told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import grpc

from raftkv.v1 import common_pb2, kv_pb2
from tests.sim.l1.claims import CLUSTER_ID, Asked, Floor
from tests.sim.l1.loop import VirtualTimeLoop
from tests.sim.l1.network import Network
from tests.sim.l1.oracle import Call, Oracle, Write
from tests.sim.l1.trace import Trace

EVERYTHING = b"\0"

_EXPECTED_OF_WRITES = frozenset(
    {
        common_pb2.NOT_LEADER,
        common_pb2.NO_LEADER,
        common_pb2.LEADER_CHANGED,
        common_pb2.OVERLOADED,
        common_pb2.DEADLINE_EXCEEDED,
        common_pb2.SHUTTING_DOWN,
        common_pb2.SESSION_EXPIRED,
        common_pb2.SPACE_EXCEEDED,
    }
)
_EXPECTED_OF_READS = _EXPECTED_OF_WRITES - {common_pb2.SESSION_EXPIRED, common_pb2.SPACE_EXCEEDED}
_OF_TOKENS = frozenset({common_pb2.TOO_STALE, common_pb2.WRITE_LOST, common_pb2.TOKEN_OUT_OF_RANGE})
_EXPECTED_OF_LEVELS: dict[int, frozenset[int]] = {
    kv_pb2.LINEARIZABLE: frozenset({common_pb2.TOO_STALE}),
    kv_pb2.AT_LEAST: _OF_TOKENS,
    kv_pb2.BOUNDED: _OF_TOKENS,
    kv_pb2.QUORUM: _OF_TOKENS | {common_pb2.QUORUM_UNAVAILABLE},
}
_LINEARIZABLE = frozenset({kv_pb2.LINEARIZABLE, kv_pb2.LEASE})

_VERDICTS = frozenset({common_pb2.COMPACTED, common_pb2.LEASE_NOT_FOUND, common_pb2.STALE_FENCE, common_pb2.LOCK_BUSY})
"""What the state machine refuses calls of clients with that make sense."""


class World(Protocol):
    """What a client stands in."""

    @property
    def loop(self) -> VirtualTimeLoop: ...

    @property
    def network(self) -> Network: ...

    @property
    def oracle(self) -> Oracle: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def nodes(self) -> Sequence[int]: ...

    @property
    def has_leases(self) -> bool:
        """Leaders may hold leases."""
        ...

    @property
    def calm(self) -> bool:
        """The faults are over."""
        ...

    def violation(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a client behaves."""

    width: int
    """Batches under way at a time."""
    batch: int
    """Operations of a batch, at most."""
    keys: int
    value_bytes: int
    think_s: float
    patience_s: float
    attempt_s: float
    """The deadline of one attempt, at most."""
    follows: float
    """How often it takes a hint where the leader is; else its requests are forwarded."""
    sessionless: float
    reads: float
    local: float
    scans: float
    deletes: float
    txns: float
    """How often it does something else than to put, delete and read."""


@dataclass(slots=True, eq=False)
class Read:
    """A read of one key, or of all of them."""

    key: bytes
    asked: Asked
    revision: int = 0
    """In the past; 0: as it is now."""
    floor: int = 0
    """The least revision that it may show."""
    began: Floor | None = None
    """What there was when it was last sent."""
    done: bool = False
    sequence: int = 0


@dataclass(slots=True, eq=False)
class Look:
    """Any other read of what is there now."""

    operation: kv_pb2.Operation
    judge: Callable[[kv_pb2.OperationResult, int], None]
    """Is given the answer, and the least revision that it may show."""
    floor: int = 0
    sequence: int = 0


Operation = Write | Call | Read | Look


class Session:
    """One session of a client."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.next_sequence = 1
        self.outstanding: dict[int, None] = {}

    def take(self) -> int:
        sequence = self.next_sequence
        self.next_sequence += 1
        self.outstanding[sequence] = None
        return sequence

    @property
    def low(self) -> int:
        """All sequences below are answered or given up."""
        return min(self.outstanding, default=self.next_sequence)


class Caller:
    """One client with one session at a time; `_work` says what it does with it."""

    def __init__(self, world: World, number: int, habits: Habits, random: Random) -> None:
        self.number = number
        self.counts: Counter[str] = Counter()
        """Operations by how they ended."""
        self.succeeded = 0
        self._world = world
        self._habits = habits
        self._random = random
        self._session: Session | None = None
        self._registering = asyncio.Lock()
        self._node = random.choice(world.nodes)
        self._written = 0
        self._revision = 1
        """The store's, as far as it was told."""
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [self._world.loop.create_task(self._work()) for _ in range(self._habits.width)]

    async def stop(self) -> None:
        """Finish what is under way."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        raise NotImplementedError

    # --- operations ---------------------------------------------------------------------------------------------------

    async def _open_session(self) -> Session | None:
        async with self._registering:
            if self._session is None:
                operation = kv_pb2.Operation(id=1, register_session=kv_pb2.RegisterSessionRequest())
                answer = await self._attempt(kv_pb2.BatchRequest(operations=[operation]), 1.0)
                if answer is not None and answer.results[0].HasField("register_session"):
                    self._session = Session(answer.results[0].register_session.session)
                else:
                    await asyncio.sleep(0.02)
            return self._session

    async def _run(self, session: Session, operations: list[Operation]) -> None:
        """Send until everything is answered or the time is over."""
        deadline = self._now() + self._habits.patience_s * self._random.uniform(0.5, 1.5)
        for operation in operations:
            if isinstance(operation, Look) or (
                isinstance(operation, Read) and operation.asked.level in _LINEARIZABLE and not operation.revision
            ):
                operation.floor = self._world.oracle.revision
        waiting = {operation.sequence: operation for operation in operations}
        while waiting and self._now() < deadline:
            began = self._world.oracle.claims.floor()
            for operation in waiting.values():
                if isinstance(operation, Read):
                    operation.began = began
                elif isinstance(operation, Write):
                    self._world.oracle.sends(operation)
                elif isinstance(operation, Call):
                    self._world.oracle.asks(operation)
            left_s = self._attempt_s(deadline)
            batch = kv_pb2.BatchRequest(
                session=session.number,
                acknowledged_below=session.low,
                timeout_ms=max(1, int(left_s * 1000)),
                operations=[encode(operation) for operation in waiting.values()],
            )
            answer = await self._attempt(batch, left_s + self._random.choice([0.0, 0.05]))
            if answer is None:
                for operation in waiting.values():
                    if isinstance(operation, Write | Call):
                        operation.doubtful = True
            else:
                self._take(session, waiting, answer)
            if waiting:
                if self._session is not session:
                    break  # it has expired
                await self._pause()
        for operation in waiting.values():
            session.outstanding.pop(operation.sequence)
            self._give_up(operation)

    def _take(self, session: Session, waiting: dict[int, Operation], answer: kv_pb2.BatchResponse) -> None:
        if sorted(result.id for result in answer.results) != sorted(waiting):
            self._world.violation(f"requests: {sorted(waiting)} were asked, {answer.results} came back")
            return
        for result in answer.results:
            operation = waiting[result.id]
            expired = result.HasField("error") and result.error.code == common_pb2.SESSION_EXPIRED
            if expired and self._session is session:
                self._session = None
                self.counts["sessions expired"] += 1
            if self._settle(operation, result):
                del waiting[result.id]
                session.outstanding.pop(result.id)

    def _settle(self, operation: Operation, result: kv_pb2.OperationResult) -> bool:
        """Take in an answer; return whether it is the last one."""
        oracle = self._world.oracle
        if isinstance(operation, Call) and (not result.HasField("error") or result.error.code in _VERDICTS):
            oracle.told(operation, result)
            self._answered(operation, result)
        elif isinstance(operation, Read) and operation.revision and result.error.code == common_pb2.COMPACTED:
            oracle.refused_as_compacted(operation.revision)
            self.counts["reads of what is compacted"] += 1
            return True
        elif result.HasField("error"):
            return self._take_error(operation, result.error)
        match operation, result.WhichOneof("result"):
            case Write(), "put":
                self._take_receipt(operation, result.wrote, result.put.revision, 0)
            case Write(), "delete":
                self._take_receipt(operation, result.wrote, result.delete.revision, result.delete.deleted)
            case Read(), "range":
                self._take_page(operation, result.range, result.read)
            case Look(), _:
                operation.judge(result, operation.floor)
            case Call(), _:
                pass
            case _:
                self._world.violation(f"requests: {operation} was answered {result}")
        self.succeeded += 1
        self.counts["ok"] += 1
        return True

    def _answered(self, call: Call, result: kv_pb2.OperationResult) -> None:
        """A call was done, or refused by the state machine."""

    def _take_receipt(self, write: Write, receipt: common_pb2.WriteReceipt, revision: int, deleted: int) -> None:
        oracle = self._world.oracle
        content = write.key if write.value is None else write.value
        write.token = oracle.claims.wrote(str(write), write.concern, receipt, revision, content)
        self.counts["copies not reached"] += receipt.committed and receipt.durable_on < receipt.wanted
        if receipt.committed:
            oracle.acknowledged(write, revision, deleted)
        else:
            self.counts["acknowledged early"] += 1
            oracle.left_open(write)

    def _take_error(self, operation: Operation, error: common_pb2.Error) -> bool:
        """Return whether there is no use in asking again."""
        self.counts[common_pb2.ErrorCode.Name(error.code)] += 1
        oracle = self._world.oracle
        final = False
        if isinstance(operation, Read) and error.code in _EXPECTED_OF_LEVELS.get(operation.asked.level, ()):
            token = operation.asked.token
            if error.code == common_pb2.WRITE_LOST and token is not None:
                oracle.claims.lost(token)
                final = True
            elif error.code == common_pb2.TOKEN_OUT_OF_RANGE and token is not None:
                oracle.claims.out_of_range(token, error.message)
                final = True
        elif self._is_too_many(operation, error):
            final = True
        elif not self._is_at_a_witness(operation, error):
            expected = _EXPECTED_OF_WRITES if isinstance(operation, Write | Call) else _EXPECTED_OF_READS
            if error.code not in expected:
                self._world.violation(f"requests: {operation} was answered {error}")
        if isinstance(operation, Write | Call):
            operation.doubtful = operation.doubtful or error.ambiguous
            if not operation.doubtful:
                oracle.had_no_effect(operation)
            elif final:
                oracle.left_open(operation)
        return final

    def _is_too_many(self, operation: Operation, error: common_pb2.Error) -> bool:
        """Whether more voters are asked for than there are, since the members have changed."""
        return (
            error.code == common_pb2.INVALID_ARGUMENT
            and "is not possible" in error.message
            and self._world.oracle.changed
            and (isinstance(operation, Write) or (isinstance(operation, Read) and operation.asked.replicas > 1))
        )

    def _is_at_a_witness(self, operation: Operation, error: common_pb2.Error) -> bool:
        return (
            isinstance(operation, Read)
            and (operation.asked.level not in _LINEARIZABLE or operation.asked.here)
            and error.code == common_pb2.FAILED_PRECONDITION
            and bool(self._world.oracle.witnesses)
        )

    def _take_page(self, read: Read, page: kv_pb2.RangeResponse, receipt: common_pb2.ReadReceipt) -> None:
        if page.more:
            self._world.violation(f"requests: {read} was answered {page}")
        self.counts["reads by lease"] += receipt.guarantee == common_pb2.GUARANTEE_LEASE
        read.done = True
        if not read.revision and read.began is not None:
            self._world.oracle.claims.read(read.asked, receipt, page.revision, read.began)
        pairs = {pair.key: (pair.mod_revision, pair.value) for pair in page.kvs}
        if read.key == EVERYTHING:
            self._world.oracle.scanned(pairs, page.revision, read.floor)
        elif read.revision and page.revision != read.revision:
            self._world.violation(f"requests: {read} was answered {page}")
        else:
            self._world.oracle.read(read.key, pairs.get(read.key), page.revision, read.floor)

    def _give_up(self, operation: Operation) -> None:
        if isinstance(operation, Read | Look):
            self.counts["reads given up"] += 1
        elif operation.doubtful:
            self.counts["open"] += 1
            self._world.oracle.left_open(operation)
        else:
            self.counts["no effect"] += 1
            self._world.oracle.had_no_effect(operation)

    # --- attempts -----------------------------------------------------------------------------------------------------

    async def _attempt(self, batch: kv_pb2.BatchRequest, timeout_s: float) -> kv_pb2.BatchResponse | None:
        """Send a batch to some node. None: nobody knows what became of it."""
        node = self._node
        trace = self._world.trace
        trace.note(f"c{self.number}", f"-> n{node} {_summary(batch)}")
        try:
            raw = await self._world.network.call(self.number, node, batch.SerializeToString(), timeout_s)
        except grpc.aio.AioRpcError as error:
            self.counts[error.code().name] += 1
            trace.note(f"c{self.number}", f"<- n{node} {error.code().name} {error.details()}")
            self._node = self._random.choice(self._world.nodes)
            return None
        answer = kv_pb2.BatchResponse.FromString(raw)
        _hand_out_receipts(answer)
        trace.note(f"c{self.number}", f"<- n{node} {_outcome(answer)}")
        self._revision = max(self._revision, answer.header.revision)
        leader = answer.header.leader_id
        if leader and self._random.random() < self._habits.follows:
            self._node = leader
        elif any(result.HasField("error") for result in answer.results):
            self._node = self._random.choice(self._world.nodes)
        return answer

    def _attempt_s(self, deadline: float) -> float:
        longest = min(self._habits.attempt_s, deadline - self._now())
        return max(0.002, longest if self._world.calm else self._random.uniform(0.2, 1.0) * longest)

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(0.001, 0.05))

    def _now(self) -> float:
        return self._world.loop.time()


def encode(operation: Operation) -> kv_pb2.Operation:
    if isinstance(operation, Read):
        end = EVERYTHING if operation.key == EVERYTHING else b""
        asked = operation.asked
        query = kv_pb2.RangeRequest(
            key=operation.key,
            range_end=end,
            level=asked.level,
            revision=operation.revision,
            here=asked.here,
            replicas=asked.replicas,
            max_staleness_ms=asked.bound_ms,
        )
        if asked.token is not None:
            token = common_pb2.ReadToken(
                cluster_id=CLUSTER_ID,
                term=asked.token.term,
                index=asked.token.index,
                committed=asked.token.committed,
            )
            query.at_least.CopyFrom(token)
        return kv_pb2.Operation(id=operation.sequence, range=query)
    if isinstance(operation, Look | Call):
        request = kv_pb2.Operation(id=operation.sequence)
        request.MergeFrom(operation.operation)
        return request
    if operation.value is None:
        delete = kv_pb2.DeleteRequest(key=operation.key, write_concern=operation.concern)
        return kv_pb2.Operation(id=operation.sequence, delete=delete)
    put = kv_pb2.PutRequest(key=operation.key, value=operation.value, write_concern=operation.concern)
    return kv_pb2.Operation(id=operation.sequence, put=put)


def _hand_out_receipts(answer: kv_pb2.BatchResponse) -> None:
    """Give each result the receipt that counts for it."""
    for result in answer.results:
        kind = result.WhichOneof("result")
        if kind == "range" and not result.HasField("read"):
            result.read.CopyFrom(answer.read)
        elif kind in ("put", "delete") and not result.HasField("wrote"):
            result.wrote.CopyFrom(answer.wrote)


def _summary(batch: kv_pb2.BatchRequest) -> str:
    parts = [f"{operation.id}:{operation.WhichOneof('operation')}" for operation in batch.operations]
    return f"session {batch.session} low {batch.acknowledged_below} {' '.join(parts)}"


def _outcome(answer: kv_pb2.BatchResponse) -> str:
    parts = []
    for result in answer.results:
        kind = result.WhichOneof("result")
        if kind == "error":
            doubt = "?" if result.error.ambiguous else ""
            parts.append(f"{result.id}:{common_pb2.ErrorCode.Name(result.error.code)}{doubt}")
        else:
            parts.append(f"{result.id}:{kind}@{getattr(getattr(result, str(kind)), 'revision', '')}")
    return " ".join(parts)
