"""Flags > environment > file > defaults, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import ConfigurationError
from raftkv.server.cluster_time import ClusterTime
from raftkv.server.settings import load_settings

MEMBERS = ["1=10.0.0.1:7101", "2=10.0.0.2:7101", "3=10.0.0.3:7101"]
FLAGS: dict[str, Any] = {"id": 1, "data_dir": Path("/data"), "member": MEMBERS}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAFTKV_ID", "RAFTKV_LISTEN", "RAFTKV_MEMBER", "RAFTKV_ELECTION_MS"):
        monkeypatch.delenv(name, raising=False)


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "raftkv.toml"
    file.write_text('listen = "10.0.0.1:1"\nelection-ms = 400\nheartbeat_ms = 30\n')
    monkeypatch.setenv("RAFTKV_LISTEN", "10.0.0.1:2")
    monkeypatch.setenv("RAFTKV_ELECTION_MS", "300")
    settings = load_settings({**FLAGS, "listen": "10.0.0.1:3"}, file)
    assert (settings.listen, settings.election_ms, settings.heartbeat_ms, settings.tick_ms) == (
        "10.0.0.1:3",
        300,
        30,
        10,
    )


def test_members_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTKV_MEMBER", ",".join(MEMBERS))
    settings = load_settings({**FLAGS, "member": None})
    assert settings.member == {1: "10.0.0.1:7101", 2: "10.0.0.2:7101", 3: "10.0.0.3:7101"}


def test_the_cluster_id_depends_on_name_and_members_and_on_nothing_else() -> None:
    one = load_settings(FLAGS).founded_cluster_id
    assert one == load_settings({**FLAGS, "id": 2, "member": MEMBERS[::-1]}).founded_cluster_id
    assert one != load_settings({**FLAGS, "cluster_name": "other"}).founded_cluster_id
    assert one != load_settings({**FLAGS, "member": [*MEMBERS, "4=10.0.0.4:7101"]}).founded_cluster_id


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"id": None}, "id is missing: give --id or RAFTKV_ID"),
        ({"id": 0}, "id:"),
        ({"id": 4}, "node 4 (id) is not among the members (1, 2, 3)"),
        ({"join": ["10.0.0.1:7001"]}, "--member founds a cluster and --join enters one: give one of them"),
        ({"member": None, "join": ["10.0.0.1"]}, "join: '10.0.0.1' is not HOST:PORT"),
        ({"member": ["1"]}, "'1' is not ID=HOST:PORT (for example 1=10.0.0.1:7101)"),
        ({"member": ["0=10.0.0.1:1"]}, "is not ID=HOST:PORT"),
        ({"member": ["1=10.0.0.1"]}, "'10.0.0.1' is not HOST:PORT"),
        ({"member": ["1=10.0.0.1:70000"]}, "the port must be 1..65535"),
        ({"member": ["1=a:1", "1=b:1"]}, "node 1 is named twice"),
        ({"member": ["1=a:1", "2=a:1"]}, "two members have the same address"),
        ({"listen": "nonsense"}, "listen: 'nonsense' is not HOST:PORT"),
        ({"peer_dial": ["1=a:1"]}, "peer_dial names node 1"),
        ({"election_ms": 100}, "election_ms (100) must exceed twice heartbeat_ms (50)"),
        ({"log_level": "loud"}, "log-level"),
    ],
)
def test_bad_settings_are_one_clear_line(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings({**FLAGS, **changed})
    assert complaint in refused.value.message
    assert "\n" not in refused.value.message


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings(FLAGS, tmp_path / "missing.toml")
    file = tmp_path / "raftkv.toml"
    file.write_text("listen = ")
    with pytest.raises(ConfigurationError, match=r"raftkv\.toml"):
        load_settings(FLAGS, file)
    file.write_text("lisen = 'a:1'")
    with pytest.raises(ConfigurationError, match="unknown setting 'lisen'"):
        load_settings(FLAGS, file)


class StandingClock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


def test_cluster_time_goes_on_where_the_last_leader_ended() -> None:
    clock = StandingClock()
    time = ClusterTime(clock)
    clock.ms += 500
    time.take_over(applied_time_ms=70_000)
    assert time.stamp_ms() == 70_000
    clock.ms += 250
    assert time.stamp_ms() == 70_250
