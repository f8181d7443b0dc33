"""The checkpoints on their way between nodes, as `raftkv endpoint status` shows them."""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.cli.output import megabytes, print_line, print_table
from raftkv.cli.view import MemberView
from raftkv.client import CheckpointTransfer


def print_transfers(views: Sequence[MemberView]) -> None:
    """Write a table of them, if there are any. Each end tells of its own."""
    rows = [_row(view, transfer) for view in views if view.status is not None for transfer in view.status.transfers]
    if rows:
        print_line("")
        print_table(
            ("ID", "CHECKPOINTS UNDER WAY", "ENTRY", "PHASE", "DONE", "SIZE"),
            rows,
            right=("ID", "ENTRY", "DONE", "SIZE"),
        )


def _row(view: MemberView, transfer: CheckpointTransfer) -> tuple[object, ...]:
    what = "receives from" if transfer.receiving else "sends to"
    done = transfer.done_bytes / transfer.size_bytes if transfer.size_bytes else 1.0
    return (
        view.id,
        f"{what} node {transfer.peer}" if transfer.peer else "receives",
        transfer.index,
        transfer.phase,
        f"{done:.0%}",
        megabytes(transfer.size_bytes),
    )
