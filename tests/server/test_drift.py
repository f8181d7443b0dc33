"""Settings that should be the same on all members: which, as what, and what a node says when they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from raftkv.raft import NodeId
from raftkv.server.drift import Difference, Drift, agreed_settings, settings_hash
from raftkv.server.settings import load_settings
from raftkv.transport.greetings import Greeting

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)
FLAGS: dict[str, Any] = {"id": 1, "data_dir": Path("/data"), "member": ["1=a:1", "2=b:1"]}


def agreed(**flags: object) -> dict[str, str]:
    return agreed_settings(load_settings(FLAGS | flags))


def test_what_should_be_the_same() -> None:
    assert agreed() == {
        "tls_cert": "no",
        "tls_client_auth": "no",
        "tick_ms": "10",
        "heartbeat_ms": "50",
        "election_ms": "250",
        "lease_drift_ppm": "0",
        "write_concern": "majority",
        "auto_compaction_mode": "age",
        "auto_compaction_retention": "3600s",
        "compare_states_s": "600",
        "quota_bytes": str(8 << 30),
    }


@pytest.mark.parametrize(
    "flags",
    [
        {"id": 2},
        {"data_dir": Path("/other")},
        {"priority": 7},
        {"auto_compaction_mode": "age", "auto_compaction_retention": "60m"},
        {"write_concern": "majority", "election_ms": 250, "quota_bytes": 8 << 30},
        {"disk_reserve_bytes": 1 << 30, "max_watches": 7, "wal_segment_bytes": 1 << 20},
    ],
)
def test_what_may_be_different_or_comes_to_the_same(flags: dict[str, object]) -> None:
    assert agreed(**flags) == agreed()
    assert settings_hash(agreed(**flags)) == settings_hash(agreed())


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ({"election_ms": 300}, "election_ms"),
        ({"lease_drift_ppm": 1}, "lease_drift_ppm"),
        ({"write_concern": 2}, "write_concern"),
        ({"auto_compaction_retention": "2h"}, "auto_compaction_retention"),
        ({"store_map_size": 1 << 30}, "quota_bytes"),
        ({"compare_states_s": 0.0}, "compare_states_s"),
    ],
)
def test_what_may_not(flags: dict[str, object], setting: str) -> None:
    here, there = agreed(), agreed(**flags)
    assert {name for name in here if here[name] != there[name]} == {setting}
    assert settings_hash(here) != settings_hash(there)


def test_a_difference_is_told_once_until_it_changes_or_is_gone() -> None:
    drift = Drift(ONE, agreed())
    same, other = Greeting(settings=agreed()), Greeting(settings=agreed(election_ms=300))
    with structlog.testing.capture_logs() as lines:
        drift.heard({TWO: same})
        drift.heard({TWO: other, THREE: same})
        drift.heard({TWO: other, THREE: same})
    assert drift.differing == {TWO: (Difference("election_ms", "250", "300"),)}
    (line,) = lines
    assert line["log_level"] == "warning"
    assert "--election-ms is 250 on node 1 and 300 on node 2" in line["event"]
    assert "The way out" in line["event"]
    with structlog.testing.capture_logs() as lines:
        drift.heard({TWO: Greeting(settings=agreed(election_ms=400)), THREE: same})
    assert "400 on node 2" in lines[0]["event"]
    with structlog.testing.capture_logs() as lines:
        drift.heard({TWO: same, THREE: same})
        drift.heard({TWO: same, THREE: same})
    assert drift.differing == {}
    assert [(line["log_level"], line["peer"]) for line in lines] == [("info", TWO)]


def test_a_peer_that_has_left_is_forgotten_and_said_nothing_of() -> None:
    drift = Drift(ONE, agreed())
    drift.heard({TWO: Greeting(settings=agreed(election_ms=300))})
    with structlog.testing.capture_logs() as lines:
        drift.heard({})
    assert drift.differing == {}
    assert lines == []


def test_what_only_one_release_knows_is_not_compared() -> None:
    drift = Drift(ONE, agreed())
    drift.heard({TWO: Greeting(settings={}), THREE: Greeting(settings={"tick_ms": "10", "new_in_the_next": "7"})})
    assert drift.differing == {}
