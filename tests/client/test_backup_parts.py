"""How a client waits for a backup: for a node that prepares one as long as it says so, and no longer than it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from raftkv.client import SnapshotProgress
from raftkv.client.maintenance_calls import _first_part
from raftkv.client.wire import describe
from raftkv.errors import DeadlineExceeded
from raftkv.v1 import maintenance_pb2 as pb


async def parts(*found: pb.SnapshotPart) -> AsyncIterator[pb.SnapshotPart]:
    for one in found:
        yield one
    await asyncio.Event().wait()  # silence


PREPARING = pb.SnapshotPart(remaining_bytes=70)


async def test_parts_without_data_are_progress_and_not_the_backup() -> None:
    told: list[SnapshotProgress] = []
    stream = cast("Any", parts(PREPARING, PREPARING, pb.SnapshotPart(data=b"x", index=5)))
    first = await _first_part("h:1", stream, progress=told.append, timeout=60.0)
    assert first is not None
    assert (first.data, first.index) == (b"x", 5)
    assert told == [SnapshotProgress(endpoint="h:1", done_bytes=0, total_bytes=70)] * 2


async def test_a_node_that_falls_silent_while_it_prepares_is_given_up() -> None:
    with pytest.raises(DeadlineExceeded, match=r"h:1: nothing more of the backup came for 0\.001 s"):
        await _first_part("h:1", cast("Any", parts(PREPARING)), progress=None, timeout=0.001)


def test_a_port_for_peers_is_named_as_such() -> None:
    def failed(details: str) -> AioRpcError:
        return AioRpcError(grpc.StatusCode.UNIMPLEMENTED, Metadata(), Metadata(), details)

    assert describe("h:1", failed("Method not found!")).startswith("h:1: not a client address")
    assert describe("h:1", failed("this node does not answer that call")).startswith("h:1: UNIMPLEMENTED: this")
