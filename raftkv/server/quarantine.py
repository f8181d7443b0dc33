"""A node whose state is not that of a majority: it votes and stores, and answers nothing from its state.

Nor does it lead, make or send checkpoints, or compact its log: nobody else's state or way back may come to rest on it.
It does not get well by itself; the mark on its disk outlives restarts, and the way out is `raftkv repair`.
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.storage.way_out import REPAIR_NODE


class Quarantine:
    """Whether a node is in it."""

    def __init__(
        self,
        mark: CorruptMark | None = None,
        keep: Callable[[CorruptMark], None] | None = None,
        exact: Callable[[str], str] = str,
    ) -> None:
        """`mark`: what an earlier run found. `keep` makes a mark durable, and blocks; None: only this run knows.
        `exact` makes the command of the way out exact (`storage.way_out`).
        """
        self.mark = mark
        self._keep = keep
        self._exact = exact

    def enter(self, mark: CorruptMark) -> bool:
        """Begin, at once. Return whether that is new; the first mark stays. Follow it with `keep`."""
        if self.mark is not None:
            return False
        self.mark = mark
        return True

    def keep(self) -> None:
        """Make the mark durable. Blocks. Raises StorageError: the node must stop then; NoRoom: try again."""
        if self.mark is not None and self._keep is not None:
            self._keep(self.mark)

    def describe(self, node_id: int) -> str:
        """Say what was found at `node_id`, and the way out; empty: nothing."""
        if self.mark is None:
            return ""
        agreed = ", ".join(str(node) for node in self.mark.agreed)
        return self._exact(
            f"node {node_id} is out of service: after entry {self.mark.index} its state had the hash "
            f"{self.mark.own_hash.hex()}, and that of a majority (nodes {agreed}) was {self.mark.right_hash.hex()}. "
            f"Stop it first. {REPAIR_NODE}"
        )
