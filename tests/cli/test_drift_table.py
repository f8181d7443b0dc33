"""What `endpoint status` says of settings that differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.cli.endpoint.drift import print_drift
from raftkv.cli.view import MemberView
from raftkv.client import SettingsDrift, wire
from raftkv.v1 import cluster_pb2


def view(member: int, *drift: tuple[int, str, str, str]) -> MemberView:
    told = [cluster_pb2.SettingsDrift(peer=p, setting=name, here=here, there=there) for p, name, here, there in drift]
    return MemberView(member, "h:1", wire.to_status("h:1", cluster_pb2.StatusResponse(drift=told)), None)


def test_each_setting_is_told_once_with_what_which_node_has(capsys: pytest.CaptureFixture[str]) -> None:
    election = "election_ms"
    print_drift(
        [
            view(1, (3, election, "250", "300"), (3, "auto_compaction_retention", "", "3600s")),
            view(2, (3, election, "250", "300")),
            MemberView(4, "h:4", None, "down"),
            view(3, (1, election, "300", "250"), (2, election, "300", "250")),
        ]
    )
    empty, head, *rows = capsys.readouterr().out.splitlines()
    assert (empty, head.split()) == ("", ["SETTINGS", "THAT", "DIFFER", "VALUES"])
    assert [" ".join(row.split()) for row in rows] == [
        "--auto-compaction-retention unset on node 1; 3600s on node 3",
        "--election-ms 250 on nodes 1, 2; 300 on node 3",
    ]


def test_a_node_knows_its_own_setting_best(capsys: pytest.CaptureFixture[str]) -> None:
    """It was restarted with another one, and the others have not heard of it yet."""
    print_drift([view(1, (2, "tick_ms", "10", "20")), view(2, (1, "tick_ms", "5", "10"))])
    assert "10 on node 1; 5 on node 2" in capsys.readouterr().out


def test_without_any_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_drift([view(1), view(2)])
    assert capsys.readouterr().out == ""


def test_the_client_hands_on_what_it_does_not_interpret() -> None:
    answer = cluster_pb2.StatusResponse(settings_hash=b"\x01", protocol_version=2)
    status = replace(wire.to_status("h:1", answer), drift=(SettingsDrift(2, "a", "b", "c"),))
    assert (status.settings_hash, status.protocol_version) == (b"\x01", 2)
