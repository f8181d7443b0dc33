"""What the driver asks of a transport. Both implementations pass tests/transport/test_contract.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from raftkv.raft import Message, NodeId


class Receiver(Protocol):
    """The driver, as the transport sees it. Called on the event loop; must not block."""

    def on_messages(self, messages: Sequence[Message]) -> None:
        """Messages have come from one member of this cluster, in the order in which it sent them."""
        ...

    def on_unreachable(self, peer: NodeId) -> None:
        """Messages to `peer` may have been lost: a connection broke, or a queue overflowed."""
        ...

    def on_connection_lost(self, peer: NodeId) -> None:
        """A connection to or from `peer` was refused or reset: its process may be gone. A hint, nothing more."""
        ...

    async def begin_checkpoint(self, manifest: bytes) -> Incoming:
        """A peer has a checkpoint to send. Raises RaftKVError to refuse it, as do the methods of `Incoming`.

        The peer is told no more than that: a failure that must stop this node stops it before it is raised.
        """
        ...

    def on_failure(self, error: BaseException) -> None:
        """The transport has a bug and no longer does its work; the node must stop."""
        ...


class Piece(Protocol):
    """A part of a checkpoint."""

    @property
    def offset(self) -> int: ...

    @property
    def data(self) -> bytes: ...

    @property
    def crc(self) -> int: ...


class Outgoing(Protocol):
    """A checkpoint to send (`storage.checkpoint_store.Sending`)."""

    def encoded_manifest(self) -> bytes: ...

    async def read_chunk(self, offset: int, size: int) -> Piece:
        """Read up to `size` bytes at `offset`, fewer at the end."""
        ...

    def size_bytes(self) -> int: ...


class Incoming(Protocol):
    """A checkpoint that is being received (`storage.checkpoint_store.Receiving`)."""

    @property
    def offset(self) -> int:
        """Where to go on."""
        ...

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        """Take a piece; return where to go on."""
        ...

    async def finish(self) -> object:
        """Verify and publish."""
        ...

    def close(self) -> None:
        """The call that brought it has ended, whole or not. Idempotent."""
        ...


class CheckpointNotSent(Exception):
    """A checkpoint did not reach its receiver whole. It can be tried again, and goes on where it ended."""


class Transport(Protocol):
    """Best-effort delivery: messages may be lost (never silently while connected), but not altered or made up.

    Messages to one peer that are delivered arrive in the order in which they were sent, within one connection. A slow
    or dead peer never holds up the others.
    """

    async def start(self, receiver: Receiver) -> None:
        """Begin to deliver to `receiver`, and to connect to peers."""
        ...

    def reconfigure(self, members: Mapping[NodeId, str]) -> None:
        """From now on these are the members (this node may be among them), and where they are.

        Others are answered for as long as they send to this node.
        """
        ...

    def send(self, messages: Sequence[Message]) -> None:
        """Queue messages for their receivers. Returns at once; what has no room or no connection is dropped."""
        ...

    async def send_checkpoint(self, peer: NodeId, checkpoint: Outgoing) -> None:
        """Return when `peer` holds the checkpoint, whole, verified and durable. Beside the messages: never ahead.

        Raises CheckpointNotSent.
        """
        ...

    async def close(self) -> None:
        """Drop what is queued and release every connection. Idempotent."""
        ...
