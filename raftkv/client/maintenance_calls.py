"""Calls about the upkeep of nodes: checkpoints, backups of their state, and whether their states are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from grpc.aio import AioRpcError

from raftkv.client import wire_status
from raftkv.client.backoff import backoff_s
from raftkv.client.core import ClientCore, checked_timeout
from raftkv.client.node_status import CheckpointStatus, StateComparison
from raftkv.client.results import SavedSnapshot, SnapshotProgress
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.client.wire import check_u64, to_rpc_error
from raftkv.errors import ConnectionFailed, DeadlineExceeded, FailedPrecondition, RaftKVError
from raftkv.v1 import maintenance_pb2

if TYPE_CHECKING:
    from grpc.aio import UnaryStreamCall

    _Parts = UnaryStreamCall[maintenance_pb2.SnapshotRequest, maintenance_pb2.SnapshotPart]

SILENCE_S: Final = 60.0
"""A node that prepares a backup says so every few seconds; one that waits for the leader first does not."""


class Writable(Protocol):
    """Where a backup goes: a file opened for writing bytes, say."""

    def write(self, data: bytes, /) -> object: ...


class MaintenanceCalls(ClientCore):
    """What operators ask of one node."""

    async def checkpoint(self, endpoint: str, *, timeout: float | None = None) -> CheckpointStatus:
        """Have one node make a checkpoint of its state now, and compact its log as far as that allows.

        Returns when it is durable; takes seconds for a large state. Works without a leader. Raises FailedPrecondition
        when none can be made (no room on the disk); ConnectionFailed and DeadlineExceeded, and it may be made yet.

        Example::

            made = await client.checkpoint(client.endpoints[0], timeout=60)
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

    async def save_snapshot(
        self,
        file: Writable,
        *,
        revision: int = 0,
        stale: bool = False,
        endpoint: str | None = None,
        progress: Callable[[SnapshotProgress], object] | None = None,
        timeout: float = SILENCE_S,
    ) -> SavedSnapshot:
        """Write a backup of the store into `file`: the present state, or the keys as they were at `revision`.

        `file.write` is called in a thread, `progress` for every piece, and before the first one, with no bytes done,
        while the node prepares. Whatever was acknowledged before the call is in
        it, unless `stale`: that is a node's own state, however old, and needs no leader. Endpoints are asked in their
        order until one of them sends; `endpoint`: that node and no other. `timeout` is for every silence, not for all.

        What was written is a backup only once this returns, and worth checking: `raftkv snapshot verify`. Raises
        ConnectionFailed or DeadlineExceeded when the node falls silent, also in the middle: begin anew, with an empty
        file. Raises Compacted, FutureRevision; what `file` and `progress` raise.

        Example::

            with open("store.backup", "xb") as file:
                saved = await client.save_snapshot(file)
            print(saved.revision, saved.size_bytes)
        """
        check_u64("revision", revision)
        checked_timeout(timeout)
        request = maintenance_pb2.SnapshotRequest(revision=revision, stale=stale)
        addresses = self.endpoints if endpoint is None else (parse_endpoint(endpoint),)
        connections = self._open().connections
        refusal: RaftKVError | None = None
        for address in addresses:
            parts = connections.get(address).maintenance.Snapshot(request)
            try:
                first = await _first_part(address, parts, progress=progress, timeout=timeout)
            except RaftKVError as error:
                parts.cancel()
                if not error.retryable and not isinstance(error, FailedPrecondition | DeadlineExceeded):
                    raise
                # A node that says why tells more than one that is gone.
                if refusal is None or isinstance(refusal, ConnectionFailed):
                    refusal = error
                continue
            return await _save(address, first, parts, file, progress=progress, timeout=timeout)
        assert refusal is not None
        raise refusal


async def _first_part(
    address: str, parts: _Parts, *, progress: Callable[[SnapshotProgress], object] | None, timeout: float
) -> maintenance_pb2.SnapshotPart | None:
    """Return the first part with data. Raises as `_next_part`."""
    while (part := await _next_part(address, parts, timeout)) is not None and not part.data:
        if progress is not None:
            progress(SnapshotProgress(endpoint=address, done_bytes=0, total_bytes=part.remaining_bytes))
    return part


async def _save(
    address: str,
    part: maintenance_pb2.SnapshotPart | None,
    parts: _Parts,
    file: Writable,
    *,
    progress: Callable[[SnapshotProgress], object] | None,
    timeout: float,
) -> SavedSnapshot:
    size, member_id, index, revision = 0, 0, 0, 0
    try:
        while part is not None:
            if part.HasField("header"):
                member_id, index, revision = part.header.member_id, part.index, part.revision
            await asyncio.to_thread(file.write, part.data)
            size += len(part.data)
            if progress is not None:
                progress(SnapshotProgress(endpoint=address, done_bytes=size, total_bytes=size + part.remaining_bytes))
            part = await _next_part(address, parts, timeout)
    finally:
        parts.cancel()  # without effect on one that has ended
    return SavedSnapshot(endpoint=address, member_id=member_id, applied_index=index, revision=revision, size_bytes=size)


async def _next_part(address: str, parts: _Parts, timeout: float) -> maintenance_pb2.SnapshotPart | None:
    """Return the next part, None at the end. Raises what the node ended the call with, ConnectionFailed."""
    try:
        async with asyncio.timeout(timeout):
            return await anext(aiter(parts), None)
    except TimeoutError:
        raise DeadlineExceeded(f"{address}: nothing more of the backup came for {timeout:g} s") from None
    except AioRpcError as error:
        raise to_rpc_error(address, error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()  # as in `answer_of`
        if task is None or task.cancelling():
            raise
        raise ConnectionFailed(f"{address}: the connection was given up in the middle of the backup") from None
