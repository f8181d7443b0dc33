"""raftkv.v1.Maintenance: what operators ask of one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from raftkv.errors import FailedPrecondition
from raftkv.server.node import Node
from raftkv.server.requests import Requests
from raftkv.server.services.status import answered
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.v1 import maintenance_pb2 as pb
from raftkv.v1.maintenance_pb2_grpc import MaintenanceServicer

MAINTENANCE_SERVICE = pb.DESCRIPTOR.services_by_name["Maintenance"].full_name

Backup = Callable[[pb.SnapshotRequest, Any], AsyncIterator[pb.SnapshotPart]]
"""Streams a backup; given the call's context as well. It ends the call itself when something is wrong."""
Comparison = Callable[[pb.CompareStatesRequest], Awaitable[pb.CompareStatesResponse]]
"""Compares the states of all members. Raises RaftKVError."""


class MaintenanceService(MaintenanceServicer):
    """Checkpoints are this node's own; what else there is comes from those who do it."""

    def __init__(
        self, node: Node, requests: Requests, *, backup: Backup | None = None, compare: Comparison | None = None
    ) -> None:
        """Without `backup` or `compare`, their calls are answered with UNIMPLEMENTED."""
        self._node = node
        self._requests = requests
        self._backup = backup
        self._compare = compare

    async def Checkpoint(  # noqa: N802 - the name in the proto
        self,
        request: pb.CheckpointRequest,
        context: grpc.aio.ServicerContext[pb.CheckpointRequest, pb.CheckpointResponse],
    ) -> pb.CheckpointResponse:
        return await answered(context, self._checkpoint())

    async def Snapshot(  # noqa: N802
        self, request: pb.SnapshotRequest, context: grpc.aio.ServicerContext[pb.SnapshotRequest, pb.SnapshotPart]
    ) -> AsyncIterator[pb.SnapshotPart]:
        if self._backup is None:
            await _not_here(context)
        async for part in self._backup(request, context):
            yield part

    async def CompareStates(  # noqa: N802
        self,
        request: pb.CompareStatesRequest,
        context: grpc.aio.ServicerContext[pb.CompareStatesRequest, pb.CompareStatesResponse],
    ) -> pb.CompareStatesResponse:
        if self._compare is None:
            await _not_here(context)
        return await answered(context, self._compare(request))

    async def _checkpoint(self) -> pb.CheckpointResponse:
        try:
            await self._node.checkpoints.make_now()
        except CheckpointRefused as error:
            raise FailedPrecondition(f"no checkpoint was made: {error.message}") from None
        return pb.CheckpointResponse(header=self._requests.header(), checkpoint=self._node.checkpoints.status())


async def _not_here(context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this node does not answer that call")
    raise AssertionError("abort returned")
