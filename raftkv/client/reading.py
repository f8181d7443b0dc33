"""One read of whatever level: which token it carries, who coordinates it, and what is done when no answer comes."""

from __future__ import annotations

from typing import Final, NamedTuple

from raftkv.client import coordinator, freshest, wire
from raftkv.client.batches import lane_of_read
from raftkv.client.calls import Kind
from raftkv.client.core import ClientCore
from raftkv.client.levels import AtLeast, Fallback, Level, Quorum, ReadFrom, check_fallback, check_level
from raftkv.client.receipts import ReadReceipt, ReadToken
from raftkv.client.results import ReadLevel
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.client.wire_quorum import fill_level, receipt_of
from raftkv.errors import DeadlineExceeded, InvalidArgument, RaftKVError, TokenOutOfRange, WriteLost
from raftkv.v1 import kv_pb2

FALLBACK_SHARE: Final = 0.25
MAX_FALLBACK_S: Final = 1.0
"""What is kept of a read's time for its fallback: a quarter, at most a second."""

_LEADS: Final = (ReadLevel.LINEARIZABLE, ReadLevel.LEASE)

Answered = tuple[kv_pb2.RangeResponse, ReadReceipt]


class _Carried(NamedTuple):
    """What a read must not fall behind."""

    tokens: tuple[ReadToken | None, ...]
    """One after the other: each of several open writes has its own fate. Never empty; None: nothing."""
    floor: ReadToken | None
    """Another place, of the client's own, which the tokens need not imply."""


class Plan(NamedTuple):
    """How reads of a level are asked for while the client has seen no more."""

    level: Level
    kind: Kind
    asked: kv_pb2.RangeRequest
    """Nothing but the level, with what belongs to it."""
    size_bytes: int
    carries: bool
    """It is to be no earlier than what the client has seen."""
    lane: int
    seen: int
    """`carries`: the highest index that it had seen; else 0."""


class ReadCore(ClientCore):
    """A client that can read."""

    _plan: Plan | None = None
    """That of the level that was read last."""

    async def _read(
        self,
        operation: kv_pb2.Operation,
        level: Level,
        fallback: Fallback,
        endpoint: str | None,
        timeout: float | None,
    ) -> Answered:
        request = operation.range
        if fallback is None and endpoint is None:  # most of them
            if level is ReadLevel.LINEARIZABLE and self._read_from is ReadFrom.LEADER and not self._seen.is_open:
                size_bytes = wire.size_estimate(request.key, request.range_end, request.cursor)
                call = await self._call(Kind.READ, operation, size_bytes, timeout)
                return call.future.result().range, call.read
            plan = self._planned(level)
            if plan is not None:
                request.MergeFrom(plan.asked)
                size_bytes = plan.size_bytes + wire.size_estimate(request.key, request.range_end, request.cursor)
                call = await self._call(plan.kind, operation, size_bytes, timeout, plan.lane)
                if call.read.applied_index >= plan.seen:
                    return call.future.result().range, call.read
                return await self._read_level(request, level, call.deadline)  # it shows less than was asked for
        check_level(level)
        check_fallback(fallback)
        if endpoint is not None:
            if fallback is not None:
                raise InvalidArgument("fallback= asks every node, and endpoint= says to ask one: give one of them")
            return await self._read_of_one(request, level, endpoint, timeout)
        seconds = self._seconds(timeout)
        if fallback is None:
            return await self._read_level(request, level, self._open().loop.time() + seconds)
        return await self._read_or_stale(request, level, seconds)

    def _planned(self, level: Level) -> Plan | None:
        """Return how to ask for reads of a level, as it was worked out for the one before; None: each with care."""
        plan = self._plan
        seen = self._seen
        if seen.is_open and self._sees_own(level):
            check_level(level)
            return None  # its fate has to come to light
        if (
            plan is not None
            and (plan.level is level or (type(plan.level) is type(level) and plan.level == level))
            and (not plan.carries or plan.seen == seen.index)
        ):
            return plan
        check_level(level)
        if isinstance(level, AtLeast) and level.token is not None:
            return None  # one token after the other
        if isinstance(level, Quorum) and level.coordinator == "client":
            return None
        carries = level not in _LEADS and self._sees_own(level)
        near = self._read_from is ReadFrom.NEAREST
        asked = kv_pb2.RangeRequest()
        fill_level(asked, level, seen.committed if carries else None, here=near)
        kind = _kind(level, near=near)
        lane, index = lane_of_read(asked), seen.index if carries else 0
        self._plan = plan = Plan(level, kind, asked, asked.ByteSize(), carries, lane, index)
        return plan

    async def _read_level(self, request: kv_pb2.RangeRequest, level: Level, deadline: float) -> Answered:
        """Read at a level, over the loss of nodes and leaders, with what the client has seen."""
        while True:
            (*earlier, last), floor = self._carried(level)
            token: ReadToken | None = None
            try:
                for token in earlier:
                    self._settled(token, (await self._attempt(request, level, token, deadline))[1])
                token = last
                answer, receipt = await self._attempt(request, level, token, deadline)
            except (WriteLost, TokenOutOfRange):
                if token is None or token.committed or self._seen.settle(token) or _is_given(level):
                    raise
                continue  # of several reads that carried it, one tells its caller
            self._settled(token, receipt)
            if floor is not None and receipt.applied_index < floor.index:
                return await self._attempt(request, level, floor, deadline)
            return answer, receipt

    async def _attempt(
        self, request: kv_pb2.RangeRequest, level: Level, token: ReadToken | None, deadline: float
    ) -> Answered:
        dispatcher = self._open()
        if isinstance(level, Quorum) and level.coordinator == "client":
            answered = await coordinator.quorum_read(dispatcher, request, level.replicas or 0, token, deadline)
            self._heard(answered[1])
            return answered
        operation = kv_pb2.Operation(range=request)
        near = self._read_from is ReadFrom.NEAREST
        fill_level(operation.range, level, token, here=near)
        size_bytes = wire.size_estimate() + operation.ByteSize()
        left_s = max(deadline - dispatcher.loop.time(), 0.001)
        lane = lane_of_read(operation.range, foreign=token is not None and (not token.committed or _is_given(level)))
        kind = Kind.LOCAL_READ if operation.range.here else _kind(level, near=near)
        call = await self._call(kind, operation, size_bytes, left_s, lane)
        return call.future.result().range, call.read

    async def _read_of_one(
        self, request: kv_pb2.RangeRequest, level: Level, endpoint: str, timeout: float | None
    ) -> Answered:
        if isinstance(level, Quorum) and level.coordinator == "client":
            raise InvalidArgument('coordinator="client" asks the voters itself, and endpoint= says to ask one node')
        address = parse_endpoint(endpoint)
        # What a node holds is asked for to look at that node: LOCAL is left as it is.
        carried = _Carried((None,), None) if level is ReadLevel.LOCAL else self._carried(level)
        deadline = self._open().loop.time() + self._seconds(timeout)
        for token in carried.tokens:
            answer, receipt = await self._ask(address, request, level, token, deadline)
        if carried.floor is not None and receipt.applied_index < carried.floor.index:
            return await self._ask(address, request, level, carried.floor, deadline)
        return answer, receipt

    async def _ask(
        self, address: str, request: kv_pb2.RangeRequest, level: Level, token: ReadToken | None, deadline: float
    ) -> Answered:
        """Ask one node, once."""
        dispatcher = self._open()
        fill_level(request, level, token, here=self._read_from is ReadFrom.NEAREST)
        left_s = max(deadline - dispatcher.loop.time(), 0.001)
        rpc = dispatcher.connections.get(address).kv.Range(request, timeout=left_s)
        try:
            answer = await answer_of(address, rpc)
        except (WriteLost, TokenOutOfRange):
            if token is not None:
                self._seen.settle(token)
            raise
        receipt = self._heard(receipt_of(answer))
        self._settled(token, receipt)
        return answer, receipt

    async def _read_or_stale(self, request: kv_pb2.RangeRequest, level: Level, seconds: float) -> Answered:
        dispatcher = self._open()
        deadline = dispatcher.loop.time() + seconds
        kept_s = min(seconds * FALLBACK_SHARE, MAX_FALLBACK_S)
        try:
            return await self._read_level(request, level, deadline - kept_s)
        except RaftKVError as error:
            if not (error.retryable or isinstance(error, DeadlineExceeded)):
                raise
            answer = await freshest.local_read(dispatcher, request, deadline)
            if answer is None:
                raise
        receipt = self._seen.labelled(receipt_of(answer), level.token if isinstance(level, AtLeast) else None)
        return answer, self._heard(receipt)

    def _carried(self, level: Level) -> _Carried:
        if level in _LEADS:
            # All that is committed is in it anyway. What is not, the leader may not have committed yet, or have lost.
            return _Carried(self._seen.to_carry() if self._seen.is_open else (None,), None)
        given = level.token if isinstance(level, AtLeast) else None
        if given is not None:
            self._seen.check(given)
            return _Carried((given,), self._seen.committed if self._monotonic else None)
        if not self._monotonic and not isinstance(level, AtLeast):
            return _Carried((None,), None)
        return _Carried(self._seen.to_carry() or (None,), self._seen.committed)

    def _sees_own(self, level: Level) -> bool:
        """Whether reads of a level must show the client's own writes, or say that one is lost."""
        return self._monotonic or level in _LEADS or isinstance(level, AtLeast)

    def _settled(self, token: ReadToken | None, receipt: ReadReceipt) -> None:
        """A read that carried `token` was answered: an open write is committed, if the state has come to it."""
        if token is not None and not token.committed and receipt.applied_index >= token.index:
            self._seen.heard(token.cluster_id, token.term, token.index, committed=True)

    def _heard(self, receipt: ReadReceipt) -> ReadReceipt:
        self._seen.heard(receipt.cluster_id, receipt.applied_term, receipt.applied_index, committed=True)
        return receipt


def _kind(level: Level, *, near: bool) -> Kind:
    """`near`: the node that is asked is to answer what it can."""
    leads = level is ReadLevel.LEASE or (level is ReadLevel.LINEARIZABLE and not near)
    return Kind.READ if leads else Kind.LOCAL_READ


def _is_given(level: Level) -> bool:
    return isinstance(level, AtLeast) and level.token is not None
