"""Calls about the upkeep of one node: its checkpoints."""

from __future__ import annotations

from raftkv.client import wire_status
from raftkv.client.core import ClientCore
from raftkv.client.node_status import CheckpointStatus
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.v1 import maintenance_pb2


class MaintenanceCalls(ClientCore):
    """What operators ask of one node."""

    async def checkpoint(self, endpoint: str, *, timeout: float | None = None) -> CheckpointStatus:
        """Have one node make a checkpoint of its state now, and compact its log as far as that allows.

        Returns when it is durable; takes seconds for a large state. Works without a leader. Raises FailedPrecondition
        when none can be made (no room on the disk); ConnectionFailed and DeadlineExceeded, and it may be made yet.

        Example::

            made = await client.checkpoint("127.0.0.1:7001", timeout=60)
            print(made.index, made.size_bytes)
        """
        address = parse_endpoint(endpoint)
        rpc = (
            self._open()
            .connections.get(address)
            .maintenance.Checkpoint(maintenance_pb2.CheckpointRequest(), timeout=self._seconds(timeout))
        )
        return wire_status.to_checkpoint((await answer_of(address, rpc)).checkpoint)
