"""A node whose state is not that of a majority: it votes and stores, and answers nothing from its state.

Nor does it lead, make or send checkpoints, or compact its log: nobody else's state or way back may come to rest on it.
It does not get well by itself; the mark on its disk outlives restarts, and the way out is `raftkv repair`.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.errors import CorruptState
from raftkv.storage.corrupt_mark import CorruptMark


class Quarantine:
    """Whether a node is in it."""

    def __init__(self, mark: CorruptMark | None = None, keep: Callable[[CorruptMark], None] | None = None) -> None:
        """`mark`: what an earlier run found. `keep` makes a mark durable, and blocks; None: only this run knows."""
        self.mark = mark
        self._keep = keep

    def enter(self, mark: CorruptMark) -> bool:
        """Begin, at once. Return whether that is new; the first mark stays. Follow it with `keep`."""
        if self.mark is not None:
            return False
        self.mark = mark
        return True

    def keep(self) -> None:
        """Make the mark durable. Blocks. Raises StorageError: the node must stop then."""
        if self.mark is not None and self._keep is not None:
            self._keep(self.mark)

    def refusal(self, node_id: int) -> CorruptState | None:
        """Return what `node_id` answers, whatever it is asked about its state; None: it may answer."""
        if self.mark is None:
            return None
        return CorruptState(f"node {node_id} is out of service: {describe(self.mark)}")


def describe(mark: CorruptMark) -> str:
    """Say what was found, in a sentence, and the way out."""
    agreed = ", ".join(str(node) for node in mark.agreed)
    return (
        f"after entry {mark.index} its state had the hash {mark.own_hash.hex()}, and that of a majority (nodes "
        f"{agreed}) was {mark.right_hash.hex()}. The way out: stop it, and `raftkv repair --data-dir DATA_DIR "
        "--endpoints HOST:PORT,...`"
    )
