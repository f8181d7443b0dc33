"""raftkv.v1.KV: single calls, and the pipeline that the client library uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from raftkv.errors import InvalidArgument
from raftkv.kv.limits import validate_request_bytes
from raftkv.server import wire
from raftkv.server.requests import Requests
from raftkv.server.services.status import abort
from raftkv.v1 import kv_pb2
from raftkv.v1.kv_pb2_grpc import KVServicer

MAX_BATCHES_PER_STREAM = 256
"""Batches of one stream that run or wait to be sent their answers; the next one is read when an answer has gone out, so
that a client which does not read is not read from (HTTP/2 flow control does the rest)."""

MAX_OPERATIONS_PER_BATCH = 4096

MEMBER_ID_METADATA = "raftkv-member-id"
"""Initial metadata of a pipeline: which node this endpoint is."""


class KvService(KVServicer):
    """What clients call."""

    def __init__(self, requests: Requests, member_id: int) -> None:
        self._requests = requests
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
        self, request: kv_pb2.PutRequest, context: grpc.aio.ServicerContext[kv_pb2.PutRequest, kv_pb2.PutResponse]
    ) -> kv_pb2.PutResponse:
        operation = kv_pb2.Operation(id=request.stamp.sequence, put=request)
        header, result = await self._single(operation, request.stamp, context)
        result.put.header.CopyFrom(header)
        return result.put

    async def Range(  # noqa: N802
        self, request: kv_pb2.RangeRequest, context: grpc.aio.ServicerContext[kv_pb2.RangeRequest, kv_pb2.RangeResponse]
    ) -> kv_pb2.RangeResponse:
        header, result = await self._single(kv_pb2.Operation(range=request), kv_pb2.WriteStamp(), context)
        result.range.header.CopyFrom(header)
        return result.range

    async def Delete(  # noqa: N802
        self,
        request: kv_pb2.DeleteRequest,
        context: grpc.aio.ServicerContext[kv_pb2.DeleteRequest, kv_pb2.DeleteResponse],
    ) -> kv_pb2.DeleteResponse:
        operation = kv_pb2.Operation(id=request.stamp.sequence, delete=request)
        header, result = await self._single(operation, request.stamp, context)
        result.delete.header.CopyFrom(header)
        return result.delete

    async def RegisterSession(  # noqa: N802
        self,
        request: kv_pb2.RegisterSessionRequest,
        context: grpc.aio.ServicerContext[kv_pb2.RegisterSessionRequest, kv_pb2.RegisterSessionResponse],
    ) -> kv_pb2.RegisterSessionResponse:
        header, result = await self._single(kv_pb2.Operation(register_session=request), kv_pb2.WriteStamp(), context)
        result.register_session.header.CopyFrom(header)
        return result.register_session

    async def Pipeline(  # noqa: N802
        self,
        request_iterator: AsyncIterator[kv_pb2.BatchRequest],
        context: grpc.aio.ServicerContext[kv_pb2.BatchRequest, kv_pb2.BatchResponse],
    ) -> AsyncIterator[kv_pb2.BatchResponse]:
        await context.send_initial_metadata(((MEMBER_ID_METADATA, str(self._member_id)),))
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

    async def _single(
        self, operation: kv_pb2.Operation, stamp: kv_pb2.WriteStamp, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tuple[Any, kv_pb2.OperationResult]:
        if stamp.session and not stamp.sequence:
            await abort(
                context, wire.to_error(InvalidArgument("stamp.sequence is 0; sequences of a session start at 1"))
            )
        try:
            validate_request_bytes(operation.ByteSize())
        except InvalidArgument as error:
            await abort(context, wire.to_error(error))
        left_s = context.time_remaining()
        batch = kv_pb2.BatchRequest(
            session=stamp.session,
            acknowledged_below=stamp.acknowledged_below,
            timeout_ms=max(1, int(left_s * 1000)) if left_s is not None and left_s < 2**22 else 0,
            operations=[operation],
        )
        response = await self._requests.run(batch, forwarded=False)
        result = response.results[0]
        if result.HasField("error"):
            await abort(context, result.error)
        return response.header, result


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
        self._answers.put_nowait(refuse_oversized(batch) or await self._requests.run(batch, forwarded=False))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # Neither should happen, but better the stream ends than that the batch is never answered.
        if task.cancelled():
            self._answers.put_nowait(RuntimeError("a batch was cancelled"))
        elif (error := task.exception()) is not None:
            self._answers.put_nowait(error)


def refuse_oversized(batch: kv_pb2.BatchRequest) -> kv_pb2.BatchResponse | None:
    """Answer a batch that is too large as a whole, operation by operation; None when it is not."""
    try:
        validate_request_bytes(batch.ByteSize())
        if len(batch.operations) > MAX_OPERATIONS_PER_BATCH:
            raise InvalidArgument(
                f"too many operations in one batch: {len(batch.operations)}, at most {MAX_OPERATIONS_PER_BATCH}"
            )
    except InvalidArgument as error:
        response = kv_pb2.BatchResponse()
        for operation in batch.operations:
            wire.add_error(response, operation.id, error)
        return response
    return None
