"""One Pipeline stream: a queue, a task that writes, a task that reads. It carries operations and decides nothing.

Operations submitted within one turn of the event loop leave in one message: the first one wakes the writer, which runs
after everything that was ready in that turn. While a write is under way, more of them gather for the next message.

A stream lives once. However it ends, its host hears of it exactly once, through `ended`.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from grpc.aio import AioRpcError, StreamStreamCall

from raftkv.client.batches import PROBES, Queue
from raftkv.client.calls import Call, Kind
from raftkv.client.channels import Connection
from raftkv.client.spans import FIRST_KEY, Span
from raftkv.client.wire import cluster_id, describe, fill_range, member_id, size_estimate
from raftkv.v1 import kv_pb2

MAX_OUTSTANDING: Final = 4096
"""So many operations are on their way; the others wait here, where renewals of leases overtake them. A message that is
written waits for all before it, at the node and on the way back. More do not make a node any faster."""

_NEVER: Final = float("inf")


class Host(Protocol):
    """Who owns streams."""

    def acknowledged_below(self) -> int:
        """Return the mark for the next message."""

    def next_id(self) -> int:
        """Return an id for an operation of the stream's own."""

    def ready(self, stream: Pipeline, member_id: int, cluster_id: int) -> None:
        """The node has answered: the stream takes operations. Each id is 0 where it did not tell."""

    def answered(self, stream: Pipeline, response: kv_pb2.BatchResponse) -> None:
        """A message came. The host takes what it answers out of `stream.outstanding`."""

    def ended(self, stream: Pipeline, reason: str) -> None:
        """The stream broke by itself; not after `close`. What it carried is the host's to `take_back`."""


class Pipeline:
    """One stream to one endpoint, from its opening to its end. Times are the loop's, in seconds."""

    __slots__ = (
        "_closed",
        "_host",
        "_loop",
        "_probe",
        "_queue",
        "_rpc",
        "_silent_since",
        "_sleeping",
        "_tasks",
        "address",
        "is_ready",
        "outstanding",
    )

    def __init__(self, address: str, connection: Connection, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to open it; does not wait."""
        self.address = address
        self.is_ready = False
        self.outstanding: dict[int, Call] = {}
        """What was written and is not answered, by id."""
        self._host = host
        self._loop = loop
        self._queue = Queue()
        self._sleeping: asyncio.Future[None] | None = None
        self._probe: Call | None = None
        self._silent_since = loop.time()
        self._closed = False
        self._rpc: StreamStreamCall[kv_pb2.BatchRequest, kv_pb2.BatchResponse] = connection.kv.Pipeline()
        self._tasks = (loop.create_task(self._write()), loop.create_task(self._read()))
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def submit(self, call: Call) -> None:
        """Queue an operation for the next message of its lane; renewals of leases go first, and signs of life."""
        self._queue.push(call)
        self._wake()

    def _wake(self) -> None:
        if self._sleeping is not None:
            self._sleeping.set_result(None)
            self._sleeping = None

    def _may_write(self) -> bool:
        """Whether there is something to write, and room for it on the way: urgent operations need none."""
        queue = self._queue
        return bool(queue) and (len(self.outstanding) < MAX_OUTSTANDING or queue.has_urgent())

    def silent_since(self) -> float:
        """Return since when the node has owed a sign of life without giving one; infinity when it owes none."""
        return self._silent_since if self.outstanding or not self.is_ready else _NEVER

    def probe(self) -> None:
        """Ask the node for a sign of life, if that is not asked already: a read that it can answer alone.

        Without it, a node that is busy with one long read could not be told from one that is gone.
        """
        if self._probe is None or self._probe.future.done():
            operation = kv_pb2.Operation()
            fill_range(operation.range, Span(FIRST_KEY), keys_only=True)
            operation.range.level = kv_pb2.ReadLevel.LOCAL
            operation.id = self._host.next_id()
            future: asyncio.Future[kv_pb2.OperationResult] = self._loop.create_future()
            call = Call(
                Kind.PROBE,
                operation,
                size_estimate(FIRST_KEY),
                timeout=0.0,
                deadline=self._loop.time(),
                future=future,
                lane=PROBES,
            )
            call.id = operation.id
            self._probe = call
            self.submit(call)

    def close(self) -> None:
        """End the stream. Does not wait; the host hears no more of it, and must `take_back` what it carried."""
        if not self._closed:
            self._closed = True
            self._rpc.cancel()
            for task in self._tasks:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of it runs any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take_back(self) -> list[Call]:
        """Return what it carried and never answered, and forget it; each call knows if it had been sent."""
        calls = [*self.outstanding.values(), *self._queue.take_all()]
        self.outstanding.clear()
        for call in calls:
            call.unanswered()
        return [call for call in calls if call.kind is not Kind.PROBE]

    async def _write(self) -> None:
        while True:
            while not self._may_write():
                self._sleeping = self._loop.create_future()
                await self._sleeping
            now = self._loop.time()
            request, calls = self._queue.cut(self._host.acknowledged_below(), now)
            if not calls:
                continue
            if not self.outstanding:
                self._silent_since = now
            for call in calls:
                call.in_flight = True
                self.outstanding[call.id] = call
            await self._rpc.write(request)

    async def _read(self) -> None:
        metadata = await self._rpc.initial_metadata()
        if not self._rpc.done():  # where the call failed, gRPC makes up empty metadata
            self.is_ready = True
            self._host.ready(self, member_id(metadata), cluster_id(metadata))
        while True:
            response = await self._rpc.read()
            if not isinstance(response, kv_pb2.BatchResponse):
                return  # grpc.aio.EOF
            self._silent_since = self._loop.time()
            self._host.answered(self, response)
            if self._may_write():
                self._wake()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        # Judged out here, so that the tasks let every exception through: a gRPC call whose task swallows CancelledError
        # leaks.
        error = None if task.cancelled() else task.exception()
        if self._closed:
            return
        self.close()
        match error:
            case None:
                reason = f"{self.address}: the node ended the stream"
            case AioRpcError():
                reason = describe(self.address, error)
            case _:
                reason = f"{self.address}: {type(error).__name__}: {error}"
        self._host.ended(self, reason)
        if error is not None and not isinstance(error, AioRpcError | asyncio.InvalidStateError):
            raise error  # a bug here, not a broken stream: the loop's exception handler shall have it
