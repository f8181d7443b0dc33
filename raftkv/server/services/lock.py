"""raftkv.v1.Lock: mutexes, read-write locks, semaphores and elections."""

from __future__ import annotations

import grpc

from raftkv.server.requests import Requests
from raftkv.server.services.single import SingleCalls
from raftkv.v1 import lock_pb2 as pb
from raftkv.v1.lock_pb2_grpc import LockServicer


class LockService(LockServicer):
    """What clients call. A pipeline runs all of it as well (`KvService.Pipeline`)."""

    def __init__(self, requests: Requests) -> None:
        self._calls = SingleCalls(requests)

    async def Acquire(  # noqa: N802 - the name in the proto
        self,
        request: pb.LockAcquireRequest,
        context: grpc.aio.ServicerContext[pb.LockAcquireRequest, pb.LockAcquireResponse],
    ) -> pb.LockAcquireResponse:
        answer: pb.LockAcquireResponse = await self._calls.run("lock_acquire", request, context, request.stamp)
        return answer

    async def Release(  # noqa: N802
        self,
        request: pb.LockReleaseRequest,
        context: grpc.aio.ServicerContext[pb.LockReleaseRequest, pb.LockReleaseResponse],
    ) -> pb.LockReleaseResponse:
        answer: pb.LockReleaseResponse = await self._calls.run("lock_release", request, context, request.stamp)
        return answer

    async def Proclaim(  # noqa: N802
        self,
        request: pb.LockProclaimRequest,
        context: grpc.aio.ServicerContext[pb.LockProclaimRequest, pb.LockProclaimResponse],
    ) -> pb.LockProclaimResponse:
        answer: pb.LockProclaimResponse = await self._calls.run("lock_proclaim", request, context, request.stamp)
        return answer

    async def Query(  # noqa: N802
        self,
        request: pb.LockQueryRequest,
        context: grpc.aio.ServicerContext[pb.LockQueryRequest, pb.LockQueryResponse],
    ) -> pb.LockQueryResponse:
        answer: pb.LockQueryResponse = await self._calls.run("lock_query", request, context)
        return answer
