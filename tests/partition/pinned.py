"""A client that believes in one node, whatever happens: it asks that one only, and remembers every outcome."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Final, Self

import grpc.aio

from raftkv.client import KeyValue
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2
from tests.integration.stubs import Stubs, detail_of, stubs
from tests.integration.waiting import PATIENCE_S, until

DEADLINE_S: Final = 1.5
"""Of an attempt: longer than a node looks for a leader (1 s), so that some end by its own account."""
TASKS_PER_KIND: Final = 3

WRITES: Final = frozenset({"put", "put in a session", "pipelined put"})
KINDS: Final = (*sorted(WRITES), "read", "pipelined read")

# What a node that has lost its majority may answer.
ERRORS: Final = frozenset(
    {common_pb2.NO_LEADER, common_pb2.NOT_LEADER, common_pb2.LEADER_CHANGED, common_pb2.DEADLINE_EXCEEDED}
)


@dataclass(slots=True)
class Attempt:
    """One request, and what became of it."""

    kind: str
    key: bytes
    began: float
    ended: float = 0.0
    error: common_pb2.Error | None = None
    status: grpc.StatusCode = grpc.StatusCode.OK
    read: kv_pb2.RangeResponse | None = None

    @property
    def answered(self) -> bool:
        return self.status is grpc.StatusCode.OK and self.error is None

    @property
    def without_effect(self) -> bool:
        """The node vouches that a write has not taken effect, and will not."""
        return self.error is not None and not self.error.ambiguous


class Pinned:
    """Asks one node, over and over, for what only a leader with a majority may grant, and watches what it believes.

    Use it as an asynchronous context manager, and call `cut_off` when the node is.
    """

    def __init__(self, address: str, prefix: str, register: str) -> None:
        self.cut_off_at = float("inf")
        self.cut_off_until = float("inf")
        self.attempts: list[Attempt] = []
        """Those that have ended."""
        self.led_at = 0.0
        """When it last said that it leads: it believed so then, or later."""
        self.accepted_in_vain = 0
        """Most entries that it was seen to hold uncommitted, as a leader, while it was cut off."""
        self._address = address
        self._prefix = prefix
        self._register = register.encode()
        self._numbers = count(1)
        self._stopping = False
        self._session = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._burst: list[asyncio.Task[Attempt]] = []
        self._patient: list[asyncio.Task[Attempt]] = []
        self._stubs: Stubs

    # --- what a test says and asks ------------------------------------------------------------------------------------

    def cut_off(self) -> None:
        """The fault is on: what is asked from now on must not be granted.

        At once, while the node believes that it leads, everything is asked of it; some requests will wait for the heal.
        """
        self.cut_off_at = time.monotonic()
        self._burst = [asyncio.create_task(self._attempt(kind, DEADLINE_S)) for kind in KINDS]
        self._patient = [
            asyncio.create_task(self._attempt(kind, PATIENCE_S)) for kind in ("put", "read") for _ in range(5)
        ]

    async def works(self) -> None:
        """Wait until every kind of request was granted."""
        await self._until(
            "every kind was granted",
            lambda: {attempt.kind for attempt in self.attempts if attempt.answered} == set(KINDS),
        )

    async def fails(self, times: int = 4) -> None:
        """Wait until so many requests of every kind have ended that were made since the fault."""
        await self._until(
            "every kind has failed", lambda: all(count >= times for count in self._judged_kinds().values())
        )

    async def stop(self) -> None:
        """Make no more requests, but for those that are patient."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks, *self._burst)
        self.cut_off_until = time.monotonic()

    async def patient_ones(self) -> list[Attempt]:
        """Wait for the patient requests, which the heal decides; return them."""
        async with asyncio.timeout(2 * PATIENCE_S):
            return await asyncio.gather(*self._patient)

    @property
    def judged(self) -> list[Attempt]:
        """The requests that were made while the node was cut off and have ended so."""
        return [one for one in self.attempts if one.began > self.cut_off_at and one.ended < self.cut_off_until]

    def verify_nothing_was_granted(self) -> None:
        """Every request since the fault ended with an error that says the truth about what it means."""
        assert len(self.judged) >= 4 * len(KINDS), "too few attempts to prove anything"
        assert all(count >= 4 for count in self._judged_kinds().values())
        granted = [attempt for attempt in self.judged if attempt.answered]
        assert not granted, "the minority granted what it must not"
        for attempt in self.judged:
            if attempt.error is None:
                assert attempt.status is grpc.StatusCode.DEADLINE_EXCEEDED, attempt
                continue
            assert attempt.error.code in ERRORS, attempt
            if attempt.kind in WRITES:
                # Many clients take UNAVAILABLE for "safe to repeat".
                assert not (attempt.error.ambiguous and attempt.status is grpc.StatusCode.UNAVAILABLE), attempt
            else:
                assert not attempt.error.ambiguous, attempt

    def verify_it_knew_of_no_leader(self) -> None:
        """It did not leave all its callers to their own deadlines."""
        said = Counter(attempt.error.code for attempt in self.judged if attempt.error is not None)
        assert said[common_pb2.NO_LEADER] >= len(KINDS), said

    def verify_it_was_caught_believing(self) -> None:
        """Some requests were made while it still took itself for the leader, and it put writes into its log."""
        believing = Counter(one.kind for one in self.judged if one.began < self.led_at)
        assert set(believing) == set(KINDS), f"nothing was asked of it in time: {believing}"
        assert self.accepted_in_vain >= 1

    def verify_outcomes(self, held: dict[bytes, KeyValue]) -> None:
        """No write took effect twice, or altered, or against what its caller was told; `held` is what a node holds."""
        for attempt in self.attempts:
            if attempt.kind not in WRITES:
                continue
            pair = held.get(attempt.key)
            if pair is None:
                assert not attempt.answered, f"acknowledged and lost: {attempt}"
                continue
            assert not attempt.without_effect, f"took effect against the node's word: {attempt}"
            assert (pair.value, pair.version) == (_value(attempt.key), 1), f"not applied once, as proposed: {attempt}"

    # --- requests -----------------------------------------------------------------------------------------------------

    def _judged_kinds(self) -> dict[str, int]:
        found = Counter(attempt.kind for attempt in self.judged)
        return {kind: found[kind] for kind in KINDS}

    async def _until(self, what: str, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return condition()

        await until(what, holds)

    async def _repeat(self, kind: str) -> None:
        while not self._stopping:
            await self._attempt(kind, DEADLINE_S)

    async def _attempt(self, kind: str, deadline_s: float) -> Attempt:
        number = next(self._numbers)
        attempt = Attempt(kind, f"{self._prefix}{number}".encode(), time.monotonic())
        try:
            await self._ask(attempt, number, deadline_s)
        except grpc.aio.AioRpcError as error:
            attempt.status = error.code()
            attempt.error = detail_of(error)
        attempt.ended = time.monotonic()
        self.attempts.append(attempt)
        return attempt

    async def _ask(self, attempt: Attempt, number: int, deadline_s: float) -> None:
        kv, key = self._stubs.kv, attempt.key
        put = kv_pb2.PutRequest(key=key, value=_value(key))
        get = kv_pb2.RangeRequest(key=self._register)
        match attempt.kind:
            case "put":
                await kv.Put(put, timeout=deadline_s)
            case "put in a session":
                put.stamp.session, put.stamp.sequence = self._session, number
                await kv.Put(put, timeout=deadline_s)
            case "read":
                attempt.read = await kv.Range(get, timeout=deadline_s)
            case "pipelined put":
                await self._pipelined(attempt, kv_pb2.Operation(id=number, put=put), deadline_s)
            case "pipelined read":
                await self._pipelined(attempt, kv_pb2.Operation(id=number, range=get), deadline_s)
            case other:
                raise AssertionError(other)

    async def _pipelined(self, attempt: Attempt, operation: kv_pb2.Operation, deadline_s: float) -> None:
        call = self._stubs.kv.Pipeline(timeout=deadline_s)
        await call.write(kv_pb2.BatchRequest(timeout_ms=int(deadline_s * 1000), operations=[operation]))
        answer = await call.read()
        call.cancel()
        assert isinstance(answer, kv_pb2.BatchResponse), "the stream ended without an answer"
        (result,) = answer.results
        if result.HasField("error"):
            attempt.error = result.error
        elif result.HasField("range"):
            attempt.read = result.range

    async def _watch(self) -> None:
        while not self._stopping:
            asked = time.monotonic()
            status = await self._stubs.cluster.Status(cluster_pb2.StatusRequest(), timeout=PATIENCE_S)
            if status.role == cluster_pb2.LEADER:
                self.led_at = asked
                if asked > self.cut_off_at:
                    self.accepted_in_vain = max(self.accepted_in_vain, status.last_index - status.commit_index)
            await asyncio.sleep(0.01)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._context = stubs(self._address)
        self._stubs = await self._context.__aenter__()
        registered = await self._stubs.kv.RegisterSession(kv_pb2.RegisterSessionRequest(), timeout=PATIENCE_S)
        self._session = registered.session
        work: list[Awaitable[None]] = [self._repeat(kind) for kind in KINDS for _ in range(TASKS_PER_KIND)]
        self._tasks = [asyncio.ensure_future(one) for one in (self._watch(), *work)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = (*self._tasks, *self._burst, *self._patient)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._context.__aexit__(None, None, None)


def _value(key: bytes) -> bytes:
    return b"value of " + key
