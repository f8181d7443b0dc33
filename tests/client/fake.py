# ruff: noqa: N802 - the methods are named by the protocol
"""A scripted cluster: real gRPC servers in this loop, over one store that applies by (session, sequence)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from raftkv.client.session import FIRST_READ_ID
from raftkv.errors import ErrorCode
from raftkv.quorum import DEFAULT, MAJORITY, LogEnd, Membership
from raftkv.v1 import cluster_pb2, cluster_pb2_grpc, common_pb2, kv_pb2, kv_pb2_grpc
from tests.client.fake_locks import FakeLocks, Refused
from tests.client.fake_quorum import (
    CLUSTER_ID,
    FakeLog,
    State,
    Unable,
    is_early,
    log_end,
    own_read,
    refuse_concern,
    wrote,
)
from tests.client.fake_txn import FakeTxn, covered

Reply = kv_pb2.OperationResult | None
"""None: no answer, ever."""


def refusal(code: ErrorCode, *, leader_id: int = 0, leader_address: str = "", ambiguous: bool = False) -> Any:
    """Return a script that answers every operation with an error."""

    def refuse(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        return kv_pb2.OperationResult(
            id=operation.id,
            error=common_pb2.Error(
                code=common_pb2.ErrorCode.ValueType(code),
                message=f"scripted {code.name} at node {node.id}",
                retryable=code in {ErrorCode.NO_LEADER, ErrorCode.NOT_LEADER, ErrorCode.LEADER_CHANGED},
                ambiguous=ambiguous,
                leader_id=leader_id,
                leader_address=leader_address,
            ),
        )

    return refuse


class FakeStore:
    """The replicated state: applies a write of a session once, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.revision = 0
        self.pairs: dict[bytes, kv_pb2.KeyValue] = {}
        self.applied: list[tuple[int, int]] = []
        """(session, sequence) of every write that really changed the store, in order."""
        self.sessions: dict[int, dict[int, kv_pb2.OperationResult]] = {}
        self.low: dict[int, int] = {}
        self.window = 16_384
        self.locks = FakeLocks()
        self.log = FakeLog()
        self.registered = 0
        self.term = 1

    def append_early(self, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        """Take a write into the log, and not into the state."""
        self.log.append(self.term)
        result = kv_pb2.OperationResult(id=operation.id)
        getattr(result, str(operation.WhichOneof("operation"))).SetInParent()
        self.sessions[batch.session][operation.id] = result
        return result

    def register(self) -> kv_pb2.RegisterSessionResponse:
        self.registered += 1
        session = 100 + self.registered
        self.sessions[session] = {}
        self.low[session] = 1
        return kv_pb2.RegisterSessionResponse(session=session, ttl_ms=3_600_000, window=self.window)

    def execute(self, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        result = kv_pb2.OperationResult(id=operation.id)
        match operation.WhichOneof("operation"):
            case "register_session":
                result.register_session.CopyFrom(self.register())
                return result
            case "range":
                result.range.CopyFrom(self.range(operation.range))
                return result
            case "lease_time_to_live" | "lease_list" | "lock_query":
                self.locks.read(operation, result, self.revision)
                return result
            case "txn" if operation.id >= FIRST_READ_ID:
                return self._apply(operation)
        session, sequence = batch.session, operation.id
        if session not in self.sessions:
            return self._error(operation, ErrorCode.SESSION_EXPIRED)
        self.low[session] = max(self.low[session], batch.acknowledged_below)
        if not self.low[session] <= sequence < self.low[session] + self.window:
            return self._error(operation, ErrorCode.SEQUENCE_OUT_OF_WINDOW)
        results = self.sessions[session]
        if sequence not in results:
            self.applied.append((session, sequence))
            results[sequence] = self._apply(operation)
            self.log.append(self.term)
            self.log.applied = self.log.end.last_index
        return results[sequence]

    def range(
        self, request: kv_pb2.RangeRequest, pairs: dict[bytes, kv_pb2.KeyValue] | None = None, revision: int = 0
    ) -> kv_pb2.RangeResponse:
        pairs = self.pairs if pairs is None else pairs
        keys = covered(pairs, request.key, request.range_end)
        if request.order == kv_pb2.RangeRequest.VALUE:
            keys.sort(key=lambda key: pairs[key].value)
        if request.descending:
            keys.reverse()
        first = int(request.cursor or b"0")
        limit = request.limit or len(keys)
        held = keys[first : first + limit]
        more = not request.count_only and first + limit < len(keys)
        return kv_pb2.RangeResponse(
            kvs=[] if request.count_only else [pairs[key] for key in held],
            more=more,
            count=len(keys) if request.count_only else len(held),
            revision=request.revision or revision or self.revision,
            cursor=b"%d" % (first + limit) if more else b"",
        )

    def _apply(self, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
        result = kv_pb2.OperationResult(id=operation.id)
        txn = FakeTxn(self.pairs, self.revision + 1, self.range)
        match operation.WhichOneof("operation"):
            case "put":
                result.put.CopyFrom(txn.put(operation.put))
            case "delete":
                result.delete.CopyFrom(txn.delete(operation.delete))
                txn.changed = True  # here, every delete makes a revision
            case "txn":
                result.txn.branch.CopyFrom(txn.run(operation.txn.branch))
                result.txn.revision = txn.revision if txn.changed else self.revision
            case "compact":
                result.compact.revision = operation.compact.revision
            case _:
                txn.changed = True
                try:
                    self.locks.apply(operation, result, self.revision + 1)
                except Refused as refused:
                    return self._error(operation, refused.code, refused.number)
        if txn.changed:
            self.revision += 1
        return result

    @staticmethod
    def _error(operation: kv_pb2.Operation, code: ErrorCode, number: int = 0) -> kv_pb2.OperationResult:
        error = common_pb2.Error(code=common_pb2.ErrorCode.ValueType(code), message=code.name, number=number)
        return kv_pb2.OperationResult(id=operation.id, error=error)


class FakeNode(kv_pb2_grpc.KVServicer, cluster_pb2_grpc.ClusterServicer):
    """One node. `script` answers each operation; by default it executes it."""

    def __init__(self, cluster: FakeCluster, node_id: int) -> None:
        self.cluster = cluster
        self.id = node_id
        self.address = ""
        self.batches: list[kv_pb2.BatchRequest] = []
        """Every message that came."""
        self.script: Callable[[FakeNode, kv_pb2.BatchRequest, kv_pb2.Operation], Reply | Awaitable[Reply]] = execute
        self.frozen: State | None = None
        self.staleness_ms: int | None = 0
        """How long ago the node last heard of a leader; None: never."""
        self.witness = False
        self.membership: Membership | None = None
        """What its log says of the members, where that is not what the cluster's does."""
        self.log_end: LogEnd | None = None
        self.log_ends = 0
        """How often it was asked for it."""
        self.cluster_id = CLUSTER_ID
        """Where it belongs, by what it says with the end of its log, and with a read that comes as a single call."""
        self.asked_as: list[int] = []
        """Which cluster those were of who asked for the end of its log, by their own account."""
        self.ranges: list[kv_pb2.RangeRequest] = []
        """Every read that came as a single call."""
        self.silent = False
        """Takes everything and answers nothing, not even to who opens a stream."""
        self.break_code = grpc.StatusCode.UNAVAILABLE
        """What a stream that is broken ends with."""
        self.arrived = asyncio.Condition()
        self._breaks: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None

    @property
    def operations(self) -> list[kv_pb2.Operation]:
        """Every operation that came, but for the client's probes."""
        return [operation for batch in self.batches for operation in batch.operations if not is_probe(operation)]

    def ids(self, kind: str) -> list[int]:
        """Return the ids of the operations of a kind ("put", "range", ...), as they came."""
        return [operation.id for operation in self.operations if operation.WhichOneof("operation") == kind]

    async def start(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self.add_to(self._server)
        where = f"127.0.0.1:{port}"
        taken = (
            self._server.add_insecure_port(where)
            if credentials is None
            else self._server.add_secure_port(where, credentials)
        )
        self.address = f"127.0.0.1:{taken}"
        await self._server.start()

    def own_state(self) -> State:
        store = self.cluster.store
        return self.frozen or State(store.pairs, store.revision, store.log.applied)

    def freeze(self) -> None:
        """From now on it applies nothing, and hears of no leader."""
        now = self.own_state()
        self.frozen = State(dict(now.pairs), now.revision, now.index)
        self.staleness_ms = None

    def add_to(self, server: grpc.aio.Server) -> None:
        kv_pb2_grpc.add_KVServicer_to_server(self, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)

    async def stop(self) -> None:
        """As if killed: no goodbye to anyone."""
        self.break_streams()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def restart(self) -> None:
        await self.start(int(self.address.rpartition(":")[2]))

    def break_streams(self) -> None:
        for event in self._breaks:
            event.set()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at with every message that comes."""
        async with self.arrived:
            await self.arrived.wait_for(condition)

    def header(self) -> common_pb2.ResponseHeader:
        cluster = self.cluster
        leader = cluster.nodes.get(cluster.leader_id)
        return common_pb2.ResponseHeader(
            cluster_id=CLUSTER_ID,
            member_id=self.id,
            revision=cluster.store.revision,
            raft_term=cluster.term,
            leader_id=cluster.leader_id,
            leader_address=cluster.announced.get(cluster.leader_id, leader.address if leader else ""),
        )

    async def Pipeline(self, request_iterator: Any, context: Any) -> AsyncIterator[kv_pb2.BatchResponse]:
        if self.silent:
            await asyncio.Event().wait()
        await context.send_initial_metadata((("raftkv-member-id", str(self.id)),))
        broken = asyncio.Event()
        self._breaks.add(broken)
        stop = asyncio.ensure_future(broken.wait())
        requests = aiter(request_iterator)
        try:
            while True:
                following = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    await asyncio.wait({following})
                    await context.abort(self.break_code, f"node {self.id} dropped the stream")
                batch = following.result()
                if batch is None:
                    return
                self.batches.append(batch)
                response = await self._respond(batch)
                async with self.arrived:
                    self.arrived.notify_all()
                if response.results:
                    yield response
        finally:
            stop.cancel()
            self._breaks.discard(broken)

    async def _respond(self, batch: kv_pb2.BatchRequest) -> kv_pb2.BatchResponse:
        response = kv_pb2.BatchResponse(header=self.header())
        for operation in batch.operations:
            reply = self.script(self, batch, operation)
            result = await reply if isinstance(reply, Awaitable) else reply
            if result is None or result.HasField("error"):
                pass
            elif operation.id < FIRST_READ_ID:
                shared = wrote(self, MAJORITY)
                if shared.index:
                    response.wrote.CopyFrom(shared)
            elif not response.HasField("read"):
                log = self.cluster.store.log
                response.read.guarantee = common_pb2.GUARANTEE_LINEARIZABLE
                response.read.served_by = self.cluster.leader_id
                response.read.applied_term, response.read.applied_index = log.terms[log.applied], log.applied
            if result is not None and not self.silent:
                response.results.append(result)
        return response

    async def Range(self, request: kv_pb2.RangeRequest, context: Any) -> kv_pb2.RangeResponse:
        self.ranges.append(request)
        if self.silent:
            await asyncio.Event().wait()
        try:
            state, receipt = own_read(self, request)
        except Unable as unable:
            await abort(context, unable.code, unable.message)
            raise
        response = self.cluster.store.range(request, state.pairs, state.revision)
        response.header.CopyFrom(self.header())
        response.header.cluster_id = self.cluster_id
        response.receipt.CopyFrom(receipt)
        return response

    async def LogEnd(self, request: kv_pb2.LogEndRequest, context: Any) -> kv_pb2.LogEndResponse:
        self.log_ends += 1
        self.asked_as.append(request.cluster_id)
        if self.silent:
            await asyncio.Event().wait()
        return log_end(self)

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:
        raise NotImplementedError

    async def Delete(self, request: kv_pb2.DeleteRequest, context: Any) -> kv_pb2.DeleteResponse:
        raise NotImplementedError

    async def Txn(self, request: kv_pb2.TxnRequest, context: Any) -> kv_pb2.TxnResponse:
        raise NotImplementedError

    async def Compact(self, request: kv_pb2.CompactRequest, context: Any) -> kv_pb2.CompactResponse:
        raise NotImplementedError

    async def RegisterSession(self, request: Any, context: Any) -> kv_pb2.RegisterSessionResponse:
        raise NotImplementedError

    async def Status(self, request: cluster_pb2.StatusRequest, context: Any) -> cluster_pb2.StatusResponse:
        if self.silent:
            await asyncio.Event().wait()
        cluster = self.cluster
        role = cluster_pb2.LEADER if self.id == cluster.leader_id else cluster_pb2.FOLLOWER
        members = [
            cluster_pb2.Member(id=node.id, peer_address="peer:1", client_address=node.address)
            for node in cluster.nodes.values()
        ]
        return cluster_pb2.StatusResponse(header=self.header(), version="fake", role=role, members=members)

    async def StateHash(self, request: Any, context: Any) -> cluster_pb2.StateHashResponse:
        return cluster_pb2.StateHashResponse(header=self.header(), applied_index=self.id, applied_term=1, hash=b"hash")

    async def TransferLeader(self, request: cluster_pb2.TransferLeaderRequest, context: Any) -> Any:
        if request.target not in {0, *self.cluster.nodes}:
            await abort(context, ErrorCode.FAILED_PRECONDITION, f"{request.target} is no voter")
        self.cluster.elect(request.target)
        return cluster_pb2.TransferLeaderResponse(header=self.header())

    async def ChangeMembers(self, request: cluster_pb2.ChangeMembersRequest, context: Any) -> Any:
        changed = [*(new.id for new in request.add), *request.promote, *request.remove]
        if 9 in changed:
            await abort(context, ErrorCode.FAILED_PRECONDITION, "node 9 is refused")
        self.cluster.changes.append(request)
        members = [cluster_pb2.Member(id=one, kind=cluster_pb2.LEARNER) for one in changed]
        return cluster_pb2.ChangeMembersResponse(header=self.header(), members=members)


def execute(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
    """Answer as a healthy node does (which forwards to the leader where it must)."""
    store, voters = node.cluster.store, len(node.cluster.nodes)
    if operation.HasField("range"):
        request = operation.range
        if request.level in (kv_pb2.ReadLevel.LINEARIZABLE, kv_pb2.ReadLevel.LEASE) and not request.here:
            return store.execute(batch, operation)
        return _own(node, operation)
    refused = refuse_concern(operation, voters)
    if refused is not None:
        return _refused(operation, ErrorCode.INVALID_ARGUMENT, refused)
    concern = getattr(getattr(operation, str(operation.WhichOneof("operation"))), "write_concern", DEFAULT)
    if is_early(operation, voters):
        result = store.append_early(batch, operation)
        result.wrote.CopyFrom(wrote(node, concern, early=True))
        return result
    result = store.execute(batch, operation)
    if concern != DEFAULT and not result.HasField("error"):
        result.wrote.CopyFrom(wrote(node, concern))
    return result


def _own(node: FakeNode, operation: kv_pb2.Operation) -> kv_pb2.OperationResult:
    try:
        state, receipt = own_read(node, operation.range)
    except Unable as unable:
        return _refused(operation, unable.code, unable.message)
    result = kv_pb2.OperationResult(id=operation.id, read=receipt)
    result.range.CopyFrom(node.cluster.store.range(operation.range, state.pairs, state.revision))
    return result


def _refused(operation: kv_pb2.Operation, code: ErrorCode, message: str) -> kv_pb2.OperationResult:
    retryable = code in {ErrorCode.TOO_STALE, ErrorCode.QUORUM_UNAVAILABLE}
    error = common_pb2.Error(code=common_pb2.ErrorCode.ValueType(code), message=message, retryable=retryable)
    return kv_pb2.OperationResult(id=operation.id, error=error)


def ignore(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
    """Answer nothing."""
    return None


def apply_and_ignore(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
    """Execute, and lose the answer."""
    node.cluster.store.execute(batch, operation)
    return None


def is_probe(operation: kv_pb2.Operation) -> bool:
    return operation.HasField("range") and operation.range.key == b"\0" and not operation.range.range_end


async def abort(context: Any, code: ErrorCode, message: str) -> None:
    from google.protobuf import any_pb2
    from google.rpc import status_pb2
    from grpc_status import rpc_status

    detail = any_pb2.Any()
    retryable = code in {ErrorCode.TOO_STALE, ErrorCode.QUORUM_UNAVAILABLE}
    detail.Pack(common_pb2.Error(code=common_pb2.ErrorCode.ValueType(code), message=message, retryable=retryable))
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=message, details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))


class FakeCluster:
    """Nodes 1 to n over one store. Node 1 leads at first, in term 1."""

    def __init__(self, size: int) -> None:
        self.store = FakeStore()
        self.leader_id = 1
        self.term = 1
        self.changes: list[cluster_pb2.ChangeMembersRequest] = []
        """Every change of the members that was asked for."""
        self.announced: dict[int, str] = {}
        """What the headers say of a member's address, where that is not its real one."""
        self.membership = Membership(0, frozenset(range(1, size + 1)), frozenset(), joint=False)
        self.nodes = {node_id: FakeNode(self, node_id) for node_id in range(1, size + 1)}

    def __getitem__(self, node_id: int) -> FakeNode:
        return self.nodes[node_id]

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    def elect(self, leader_id: int) -> None:
        self.term += 1
        self.store.term = self.term
        self.leader_id = leader_id


@asynccontextmanager
async def fake_cluster(size: int) -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster(size)
    for node in cluster.nodes.values():
        await node.start()
    try:
        yield cluster
    finally:
        for node in cluster.nodes.values():
            await node.stop()
