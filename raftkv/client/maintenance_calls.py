"""Calls about the upkeep of nodes: checkpoints, and whether their states are the same."""

from __future__ import annotations

import asyncio

from raftkv.client import wire_status
from raftkv.client.backoff import backoff_s
from raftkv.client.core import ClientCore
from raftkv.client.node_status import CheckpointStatus, StateComparison
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.errors import RaftKVError
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

    async def compare_states(self, *, timeout: float | None = None) -> StateComparison:
        """Have the leader compare the whole states of all members that hold data, now.

        A node whose state is not that of a majority takes itself out of service; with no majority nothing happens but
        an alarm. Takes seconds for a large state. Raises FailedPrecondition, NoLeader; ConnectionFailed and
        DeadlineExceeded, and the comparison may end all the same: see `Status.comparison` of the leader.

        Example::

            found = await client.compare_states(timeout=60)
            print(found.agreed, found.differ, found.silent)
        """
        dispatcher = self._open()
        request = maintenance_pb2.CompareStatesRequest()
        deadline = dispatcher.loop.time() + self._seconds(timeout)
        attempts = 0
        while True:
            address = await dispatcher.wait_ready(deadline)
            left_s = max(deadline - dispatcher.loop.time(), 0.0)
            rpc = dispatcher.connections.get(address).maintenance.CompareStates(request, timeout=left_s)
            try:
                return wire_status.to_comparison((await answer_of(address, rpc)).comparison)
            except RaftKVError as error:
                attempts += 1
                pause_s = backoff_s(attempts, dispatcher.random)
                if not error.retryable or pause_s >= left_s:
                    raise
                await asyncio.sleep(pause_s)
