"""A checkpoint on its way from one node to another: its own call, beside the stream of messages.

Pieces go one at a time, each answered before the next one is read, so at most one is in memory on either side, and the
receiver sets the pace. What was received survives a broken connection: the next attempt goes on where it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import grpc

from raftkv.errors import RaftKVError
from raftkv.raft import NodeId
from raftkv.transport.pace import Pace
from raftkv.transport.protocols import CheckpointNotSent, Outgoing
from raftkv.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from raftkv.transport.grpc_peer import GrpcTransport, Identity
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

PIECE_BYTES: Final = 256 << 10
BYTES_PER_S: Final = 100 << 20
"""At most so fast by default, all receivers together, so that entries and heartbeats on the same network and disk do
not wait."""
PIECE_TIMEOUT_S: Final = 10.0
"""A receiver that takes longer for a piece is given up."""
FINISH_TIMEOUT_S: Final = 600.0
"""Verifying reads the whole checkpoint, and hashes the state. Before the first piece, a receiver that goes on with an
earlier transfer reads and rewrites what it has. A peer that is gone is noticed by the connection's keepalive."""


async def send(stub: PeerAsyncStub, sender: Identity, checkpoint: Outgoing, pace: Pace) -> None:
    """Send a checkpoint; return when the peer holds it. Raises CheckpointNotSent, and what `checkpoint` raises."""
    call = stub.SendCheckpoint()
    try:
        first = pb.CheckpointPiece(cluster_id=sender.cluster_id, manifest=checkpoint.encoded_manifest())
        setattr(first, "from", sender.node_id)
        await call.write(first)
        offset = (await _progress(call, FINISH_TIMEOUT_S)).offset
        while offset < checkpoint.size_bytes():
            pace.begin()
            piece = await checkpoint.read_chunk(offset, PIECE_BYTES)
            await call.write(pb.CheckpointPiece(offset=piece.offset, data=piece.data, crc=piece.crc))
            offset = (await _progress(call, PIECE_TIMEOUT_S)).offset
            await asyncio.sleep(pace.spent_s(len(piece.data)))
        await call.done_writing()
        if not (await _progress(call, FINISH_TIMEOUT_S)).done:
            raise CheckpointNotSent("the peer ended without saying that it holds the checkpoint")
    except grpc.aio.AioRpcError as error:
        raise CheckpointNotSent(f"{error.code().name}: {error.details()}") from error
    except (TimeoutError, asyncio.InvalidStateError) as error:
        raise CheckpointNotSent("the peer takes nothing in any more") from error
    finally:
        call.cancel()


async def _progress(
    call: grpc.aio.StreamStreamCall[pb.CheckpointPiece, pb.CheckpointProgress], timeout_s: float
) -> pb.CheckpointProgress:
    async with asyncio.timeout(timeout_s):
        answer = await call.read()
    if not isinstance(answer, pb.CheckpointProgress):
        await call.code()
        raise CheckpointNotSent(f"the peer ended the stream: {await call.details()}")
    return answer


async def receive(
    transport: GrpcTransport,
    pieces: AsyncIterator[pb.CheckpointPiece],
    context: grpc.aio.ServicerContext[pb.CheckpointPiece, pb.CheckpointProgress],
) -> AsyncIterator[pb.CheckpointProgress]:
    """The other end: what `raftkv.v1.Peer.SendCheckpoint` does. Nothing is in force before the core is told."""
    try:
        first = await anext(pieces, None)
        if first is None or first.cluster_id != transport.identity.cluster_id:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "refused: a checkpoint of another cluster")
        no_peer = transport.no_peer(NodeId(getattr(first, "from")), context)
        if no_peer is not None:
            transport.log_refusal(context, no_peer)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"refused: {no_peer}")
        incoming = await transport.begin_checkpoint(first.manifest)
        try:
            yield pb.CheckpointProgress(offset=incoming.offset)
            async for piece in pieces:
                yield pb.CheckpointProgress(offset=await incoming.write_chunk(piece.offset, piece.data, piece.crc))
            await incoming.finish()
        finally:
            incoming.close()
        yield pb.CheckpointProgress(done=True)
    except RaftKVError as error:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"refused: {error.message}")
