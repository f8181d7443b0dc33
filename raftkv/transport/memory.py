"""The transport's in-memory twin: nodes of one process, with links that a test can cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from raftkv.errors import RaftKVError
from raftkv.raft import Message, NodeId
from raftkv.transport.protocols import CheckpointNotSent, Incoming, Outgoing, Receiver, Transport

PIECE_BYTES = 64 << 10


class MemoryHub:
    """Joins the transports of one cluster. Messages arrive in a later turn of the event loop, never in the caller's."""

    def __init__(self) -> None:
        self._receivers: dict[NodeId, Receiver] = {}
        self._cut: set[tuple[NodeId, NodeId]] = set()

    def transport(self, node: NodeId) -> MemoryTransport:
        """Return the transport of `node`."""
        return MemoryTransport(self, node)

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """Lose everything that `sender` sends to `receiver`, and tell the sender, as a broken connection would."""
        self._cut.add((sender, receiver))
        if sender in self._receivers:
            self._receivers[sender].on_unreachable(receiver)

    def heal(self) -> None:
        """Deliver again, between all."""
        self._cut.clear()

    def attach(self, node: NodeId, receiver: Receiver) -> None:
        self._receivers[node] = receiver

    def detach(self, node: NodeId) -> None:
        self._receivers.pop(node, None)

    def require_link(self, sender: NodeId, receiver: NodeId) -> None:
        """Raise CheckpointNotSent where nothing gets through."""
        if receiver not in self._receivers or (sender, receiver) in self._cut:
            raise CheckpointNotSent(f"node {receiver} cannot be reached")

    async def begin_checkpoint(self, sender: NodeId, receiver: NodeId, manifest: bytes) -> Incoming:
        self.require_link(sender, receiver)
        with _refusals():
            return await self._receivers[receiver].begin_checkpoint(manifest)

    def deliver(self, sender: NodeId, receiver: NodeId, messages: Sequence[Message]) -> None:
        target = self._receivers.get(receiver)
        if target is not None and (sender, receiver) not in self._cut:
            target.on_messages(messages)


class MemoryTransport(Transport):
    """One node's end of a MemoryHub."""

    def __init__(self, hub: MemoryHub, node: NodeId) -> None:
        self._hub = hub
        self._node = node

    async def start(self, receiver: Receiver) -> None:
        self._hub.attach(self._node, receiver)

    def reconfigure(self, members: Mapping[NodeId, str]) -> None:
        pass  # the hub knows everybody

    def send(self, messages: Sequence[Message]) -> None:
        loop = asyncio.get_running_loop()
        by_receiver: dict[NodeId, list[Message]] = {}
        for message in messages:
            by_receiver.setdefault(message.receiver, []).append(message)
        for receiver, batch in by_receiver.items():
            loop.call_soon(self._hub.deliver, self._node, receiver, batch)

    async def send_checkpoint(self, peer: NodeId, checkpoint: Outgoing) -> None:
        incoming = await self._hub.begin_checkpoint(self._node, peer, checkpoint.encoded_manifest())
        try:
            offset = incoming.offset
            while offset < checkpoint.size_bytes():
                piece = await checkpoint.read_chunk(offset, PIECE_BYTES)
                self._hub.require_link(self._node, peer)
                with _refusals():
                    offset = await incoming.write_chunk(piece.offset, piece.data, piece.crc)
            with _refusals():
                await incoming.finish()
            self._hub.require_link(peer, self._node)
        finally:
            incoming.close()

    async def close(self) -> None:
        self._hub.detach(self._node)


@contextmanager
def _refusals() -> Iterator[None]:
    """What a receiver raises, as its sender is told."""
    try:
        yield
    except RaftKVError as error:
        raise CheckpointNotSent(error.message) from error
