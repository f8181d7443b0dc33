"""raftkv.v1.KV: single calls, and the pipeline that the client library uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError

from raftkv.errors import InvalidArgument, RaftKVError
from raftkv.kv.limits import validate_request_bytes
from raftkv.server import wire
from raftkv.server.requests import Requests
from raftkv.server.services.single import SingleCalls
from raftkv.server.services.status import abort
from raftkv.v1 import kv_pb2
from raftkv.v1.kv_pb2_grpc import KVServicer

MAX_BATCHES_PER_STREAM = 256
"""Batches of one stream that run or wait to be sent their answers; the next one is read when an answer has gone out, so
that a client which does not read is not read from (HTTP/2 flow control does the rest)."""

MAX_OPERATIONS_PER_BATCH = 4096

MEMBER_ID_METADATA = "raftkv-member-id"
"""Initial metadata of a pipeline: which node this endpoint is."""

CLUSTER_ID_METADATA = "raftkv-cluster-id"
"""And of which cluster, in hexadecimal: clients of another one, as before a restore, turn back."""


class KvService(KVServicer):
    """What clients call."""

    def __init__(self, requests: Requests, member_id: int) -> None:
        self._requests = requests
        self._calls = SingleCalls(requests)
        self._member_id = member_id
        self._pipelines: set[_Pipeline] = set()
        self._draining = False

    async def drain(self) -> None:
        """Read no further batches; return when all that were read have been answered, and their streams have ended."""
        self._draining = True
        for pipeline in list(self._pipelines):
            pipeline.stop_reading()
        while self._pipelines:
            await asyncio.wait([pipeline.ended for pipeline in self._pipelines])

    async def Put(  # noqa: N802 - the name in the proto
        self,
        request: kv_pb2.PutRequest,
        context: grpc.aio.ServicerContext[kv_pb2.PutRequest, kv_pb2.PutResponse],
    ) -> kv_pb2.PutResponse:
        answer: kv_pb2.PutResponse = await self._calls.run("put", request, context, request.stamp)
        return answer

    async def Range(  # noqa: N802
        self,
        request: kv_pb2.RangeRequest,
        context: grpc.aio.ServicerContext[kv_pb2.RangeRequest, kv_pb2.RangeResponse],
    ) -> kv_pb2.RangeResponse:
        answer: kv_pb2.RangeResponse = await self._calls.run("range", request, context)
        return answer

    async def Delete(  # noqa: N802
        self,
        request: kv_pb2.DeleteRequest,
        context: grpc.aio.ServicerContext[kv_pb2.DeleteRequest, kv_pb2.DeleteResponse],
    ) -> kv_pb2.DeleteResponse:
        answer: kv_pb2.DeleteResponse = await self._calls.run("delete", request, context, request.stamp)
        return answer

    async def Txn(  # noqa: N802
        self,
        request: kv_pb2.TxnRequest,
        context: grpc.aio.ServicerContext[kv_pb2.TxnRequest, kv_pb2.TxnResponse],
    ) -> kv_pb2.TxnResponse:
        answer: kv_pb2.TxnResponse = await self._calls.run("txn", request, context, request.stamp)
        return answer

    async def Compact(  # noqa: N802
        self,
        request: kv_pb2.CompactRequest,
        context: grpc.aio.ServicerContext[kv_pb2.CompactRequest, kv_pb2.CompactResponse],
    ) -> kv_pb2.CompactResponse:
        answer: kv_pb2.CompactResponse = await self._calls.run("compact", request, context, request.stamp)
        return answer

    async def RegisterSession(  # noqa: N802
        self,
        request: kv_pb2.RegisterSessionRequest,
        context: grpc.aio.ServicerContext[kv_pb2.RegisterSessionRequest, kv_pb2.RegisterSessionResponse],
    ) -> kv_pb2.RegisterSessionResponse:
        answer: kv_pb2.RegisterSessionResponse = await self._calls.run("register_session", request, context)
        return answer

    async def LogEnd(  # noqa: N802
        self,
        request: kv_pb2.LogEndRequest,
        context: grpc.aio.ServicerContext[kv_pb2.LogEndRequest, kv_pb2.LogEndResponse],
    ) -> kv_pb2.LogEndResponse:
        try:
            return self._requests.log_end(request)
        except RaftKVError as error:
            await abort(context, wire.to_error(error))

    async def Pipeline(  # noqa: N802
        self,
        request_iterator: AsyncIterator[kv_pb2.BatchRequest],
        context: grpc.aio.ServicerContext[kv_pb2.BatchRequest, kv_pb2.BatchResponse],
    ) -> AsyncIterator[kv_pb2.BatchResponse]:
        cluster_id = self._requests.header().cluster_id
        await context.send_initial_metadata(
            ((MEMBER_ID_METADATA, str(self._member_id)), (CLUSTER_ID_METADATA, f"{cluster_id:016x}"))
        )
        if self._draining:
            return
        pipeline = _Pipeline(self._requests, request_iterator)
        self._pipelines.add(pipeline)
        try:
            async for answer in pipeline.run():
                yield answer
        except InvalidArgument as error:
            await abort(context, wire.to_error(error))
        finally:
            self._pipelines.discard(pipeline)
            pipeline.ended.set_result(None)


class _Pipeline:
    """One client's stream: batches run side by side, one task writes the answers."""

    def __init__(self, requests: Requests, incoming: AsyncIterator[kv_pb2.BatchRequest]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._incoming = incoming
        self._answers: asyncio.Queue[kv_pb2.BatchResponse | BaseException | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_BATCHES_PER_STREAM)
        self._reader: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> AsyncIterator[kv_pb2.BatchResponse]:
        """Yield answers until the client ends the stream (or `stop_reading`), and all that was read is answered.

        Raises InvalidArgument where the client sends nonsense.
        """
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
                self._room.release()
        finally:
            for task in {self._reader, *self._running}:
                task.cancel()

    def stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        fault = None
        try:
            while True:
                # First the room, then the batch: what was read is always answered.
                await self._room.acquire()
                batch = await anext(self._incoming, None)
                if batch is None:
                    return
                task = asyncio.create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)
        except DecodeError:
            fault = InvalidArgument("the stream holds bytes that are no BatchRequest")
        finally:
            # Also when `stop_reading` has cancelled this task: what was read is still answered.
            if self._running:
                await asyncio.wait(self._running)
            if fault is not None:
                self._answers.put_nowait(fault)

    async def _run(self, batch: kv_pb2.BatchRequest) -> None:
        try:
            require_size(batch)
        except InvalidArgument as error:
            answer = self._requests.refuse(batch.operations, error)
        else:
            answer = await self._requests.run(batch, forwarded=False)
        self._answers.put_nowait(answer)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # Neither should happen, but better the stream ends than that the batch is never answered.
        if task.cancelled():
            self._answers.put_nowait(RuntimeError("a batch was cancelled"))
        elif (error := task.exception()) is not None:
            self._answers.put_nowait(error)


def require_size(batch: kv_pb2.BatchRequest) -> None:
    """Raise InvalidArgument for a batch that is too large as a whole."""
    validate_request_bytes(batch.ByteSize())
    if len(batch.operations) > MAX_OPERATIONS_PER_BATCH:
        raise InvalidArgument(
            f"too many operations in one batch: {len(batch.operations)}, at most {MAX_OPERATIONS_PER_BATCH}"
        )
