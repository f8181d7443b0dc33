"""The checkpoints on their way from and to a node: how far each of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from raftkv.raft import Index, NodeId
from raftkv.transport.protocols import Outgoing, Piece
from raftkv.v1 import cluster_pb2 as pb


class Phase(StrEnum):
    """What is being done."""

    TRANSFER = "transfer"
    VERIFY = "verify"
    """Everything is there; it is read again, and its state hashed."""
    INSTALL = "install"
    """It takes the place of state and log, or waits for its turn."""


@dataclass(slots=True)
class Transfer:
    """One checkpoint on its way."""

    peer: NodeId
    """0: not known."""
    receiving: bool
    index: Index
    size_bytes: int
    done_bytes: int = 0
    phase: Phase = Phase.TRANSFER

    def come_to(self, offset: int) -> None:
        """Everything before `offset` is there."""
        self.done_bytes = offset
        if offset >= self.size_bytes:
            self.phase = Phase.VERIFY

    def status(self) -> pb.CheckpointTransfer:
        """Say how far it is."""
        return pb.CheckpointTransfer(
            peer=self.peer,
            receiving=self.receiving,
            index=self.index,
            done_bytes=self.done_bytes,
            size_bytes=self.size_bytes,
            phase=self.phase.value,
        )


class Watched:
    """A checkpoint to send that notes how far it is. `require_sound` raises once it is not to be sent any further."""

    def __init__(self, outgoing: Outgoing, transfer: Transfer, require_sound: Callable[[], None]) -> None:
        self._outgoing = outgoing
        self._transfer = transfer
        self._require_sound = require_sound

    def encoded_manifest(self) -> bytes:
        return self._outgoing.encoded_manifest()

    def size_bytes(self) -> int:
        return self._outgoing.size_bytes()

    async def read_chunk(self, offset: int, size: int) -> Piece:
        self._transfer.come_to(offset)
        piece = await self._outgoing.read_chunk(offset, size)
        self._require_sound()
        self._transfer.come_to(offset + len(piece.data))
        return piece
