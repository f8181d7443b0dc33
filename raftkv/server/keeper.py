"""The state of a node and its checkpoints, as the driver uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from raftkv.kv.machine import StateMachine
from raftkv.raft import Index, Snapshot, Term
from raftkv.storage.checkpoint import CheckpointManifest
from raftkv.storage.checkpoint_store import Receiving, Sending


class Keeper(Protocol):
    """Who holds the state machine, and can copy it and replace it (`disk.Disk`).

    Methods raise StorageError when the disk fails: the node must stop. CheckpointRefused and DamagedCheckpoint mean
    that nothing has changed.
    """

    @property
    def machine(self) -> StateMachine:
        """The state machine; another one after `restore`."""
        ...

    @property
    def newest(self) -> CheckpointManifest | None:
        """The newest checkpoint."""
        ...

    @property
    def kept(self) -> int:
        """How many checkpoints there are."""
        ...

    @property
    def fallback(self) -> CheckpointManifest | None:
        """What takes its place if it turns out to be damaged: the log has to reach back to that."""
        ...

    def renew(self) -> None:
        """Make another state machine of the store as it is, after a transaction that has failed without effect."""
        ...

    def store_bytes(self) -> int:
        """Bytes that the state store occupies, free pages included."""
        ...

    def used_bytes(self) -> int:
        """Bytes that the state takes of them. Cheap."""
        ...

    async def create(self, configuration_at: Callable[[Index, Term], bytes]) -> CheckpointManifest:
        """Make a checkpoint of the state as it is; writes go on meanwhile."""
        ...

    def send(self) -> Sending:
        """Open the newest checkpoint for sending."""
        ...

    async def begin(self, manifest: CheckpointManifest) -> Receiving:
        """Begin to receive a checkpoint, or go on with it."""
        ...

    async def forget_below(self, index: Index) -> None:
        """Delete checkpoints of entries before `index`: the log begins anew there."""
        ...

    async def fabricate(self, snapshot: Snapshot) -> None:
        """Make the checkpoint of a witness that is at `snapshot`: it holds no data, so nobody needs to send it."""
        ...

    def hold(self, snapshot: Snapshot) -> bool:
        """Keep the checkpoint of `snapshot`, which is to be installed. False: it is not here."""
        ...

    def release(self, snapshot: Snapshot) -> None:
        """Undo `hold`."""
        ...

    async def restore(self, snapshot: Snapshot) -> None:
        """Replace the state by that of the checkpoint of `snapshot`, which was held, and let go of it.

        Raises NoRoom: nothing has happened, and it is held on.
        """
        ...
