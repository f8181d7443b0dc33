"""What `endpoint status` says of checkpoints that are under way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.cli.endpoint.transfers import print_transfers
from raftkv.cli.view import MemberView
from raftkv.client import CheckpointTransfer, Status, wire
from raftkv.v1 import cluster_pb2


def view(member: int, *transfers: CheckpointTransfer) -> MemberView:
    status: Status = replace(wire.to_status("h:1", cluster_pb2.StatusResponse()), transfers=transfers)
    return MemberView(member, "h:1", status, None)


def test_both_ends_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    sends = CheckpointTransfer(3, False, 70, 50, 200, "transfer")
    receives = CheckpointTransfer(0, True, 70, 200, 200, "verify")
    print_transfers([view(1, sends), view(2), MemberView(4, "h:4", None, "down"), view(3, receives)])
    empty, head, *rows = capsys.readouterr().out.splitlines()
    assert (empty, head.split()[-3:]) == ("", ["PHASE", "DONE", "SIZE"])
    assert [row.split() for row in rows] == [
        ["1", "sends", "to", "node", "3", "70", "transfer", "25%", "0.0", "MB"],
        ["3", "receives", "70", "verify", "100%", "0.0", "MB"],
    ]


def test_without_any_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_transfers([view(1), view(2)])
    assert capsys.readouterr().out == ""
