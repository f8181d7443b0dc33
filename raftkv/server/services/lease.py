"""raftkv.v1.Lease: keys and locks that live as long as somebody says so."""

from __future__ import annotations

import grpc

from raftkv.server.requests import Requests
from raftkv.server.services.single import SingleCalls
from raftkv.v1 import lease_pb2 as pb
from raftkv.v1.lease_pb2_grpc import LeaseServicer


class LeaseService(LeaseServicer):
    """What clients call. A pipeline runs all of it as well (`KvService.Pipeline`)."""

    def __init__(self, requests: Requests) -> None:
        self._calls = SingleCalls(requests)

    async def Grant(  # noqa: N802 - the name in the proto
        self,
        request: pb.LeaseGrantRequest,
        context: grpc.aio.ServicerContext[pb.LeaseGrantRequest, pb.LeaseGrantResponse],
    ) -> pb.LeaseGrantResponse:
        answer: pb.LeaseGrantResponse = await self._calls.run("lease_grant", request, context, request.stamp)
        return answer

    async def KeepAlive(  # noqa: N802
        self,
        request: pb.LeaseKeepAliveRequest,
        context: grpc.aio.ServicerContext[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse],
    ) -> pb.LeaseKeepAliveResponse:
        answer: pb.LeaseKeepAliveResponse = await self._calls.run("lease_keep_alive", request, context, request.stamp)
        return answer

    async def Revoke(  # noqa: N802
        self,
        request: pb.LeaseRevokeRequest,
        context: grpc.aio.ServicerContext[pb.LeaseRevokeRequest, pb.LeaseRevokeResponse],
    ) -> pb.LeaseRevokeResponse:
        answer: pb.LeaseRevokeResponse = await self._calls.run("lease_revoke", request, context, request.stamp)
        return answer

    async def TimeToLive(  # noqa: N802
        self,
        request: pb.LeaseTimeToLiveRequest,
        context: grpc.aio.ServicerContext[pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse],
    ) -> pb.LeaseTimeToLiveResponse:
        answer: pb.LeaseTimeToLiveResponse = await self._calls.run("lease_time_to_live", request, context)
        return answer

    async def List(  # noqa: N802
        self,
        request: pb.LeaseListRequest,
        context: grpc.aio.ServicerContext[pb.LeaseListRequest, pb.LeaseListResponse],
    ) -> pb.LeaseListResponse:
        answer: pb.LeaseListResponse = await self._calls.run("lease_list", request, context)
        return answer
