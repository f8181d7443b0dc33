"""Flags > environment > file > defaults, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import ConfigurationError
from raftkv.server.settings import load_settings
from raftkv.server.upkeep import AutoCompaction, CompactionMode
from raftkv.server.watch_hub import WatchLimits

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


@pytest.mark.parametrize("given", [[",".join(MEMBERS)], [MEMBERS[0], f"{MEMBERS[1]}, {MEMBERS[2]}"], MEMBERS])
def test_members_repeated_or_with_commas(given: list[str], tmp_path: Path) -> None:
    expected = {1: "10.0.0.1:7101", 2: "10.0.0.2:7101", 3: "10.0.0.3:7101"}
    assert load_settings({**FLAGS, "member": given}).member == expected
    file = tmp_path / "raftkv.toml"
    file.write_text(f"member = {json.dumps(given)}\n")
    assert load_settings({**FLAGS, "member": None}, file).member == expected


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
        ({"peer_dial": ["1=a:1"]}, "--peer-dial names node 1"),
        ({"election_ms": 100}, "--election-ms (100) must exceed twice --heartbeat-ms (50)"),
        ({"log_level": "loud"}, "log-level"),
        ({"checkpoint_entries": 0}, "checkpoint-entries: Input should be greater than or equal to 1"),
        ({"snapshot_send_bytes_per_s": 65535}, "--snapshot-send-bytes-per-s (65535) must be at least 65536, or"),
        ({"snapshot_send_bytes_per_s": -1}, "snapshot-send-bytes-per-s: Input should be greater than or equal to 0"),
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


@pytest.mark.parametrize(
    ("mode", "retention", "expected"),
    [
        (None, None, AutoCompaction(CompactionMode.AGE, 3_600_000)),
        (None, "90s", AutoCompaction(CompactionMode.AGE, 90_000)),
        ("age", "7d", AutoCompaction(CompactionMode.AGE, 7 * 86_400_000)),
        ("revisions", None, AutoCompaction(CompactionMode.REVISIONS, 100_000)),
        ("revisions", "5", AutoCompaction(CompactionMode.REVISIONS, 5)),
        ("off", None, AutoCompaction()),
    ],
)
def test_automatic_compaction(mode: str | None, retention: str | None, expected: AutoCompaction) -> None:
    flags = FLAGS | {"auto_compaction_mode": mode, "auto_compaction_retention": retention}
    assert load_settings(flags).auto_compaction == expected


@pytest.mark.parametrize(
    ("mode", "retention", "complaint"),
    [
        ("sometimes", None, "auto-compaction-mode"),
        ("age", "1", "no age"),  # etcd takes it for hours, others would for seconds
        ("age", "0h", "no age"),
        ("age", "-1h", "no age"),
        ("age", "4000d", "3650d"),
        ("revisions", "1h", "no number of revisions"),
        ("revisions", "0", "no number of revisions"),
        ("off", "1h", "--auto-compaction-mode is off"),
    ],
)
def test_automatic_compaction_that_makes_no_sense(mode: str, retention: str | None, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_settings(FLAGS | {"auto_compaction_mode": mode, "auto_compaction_retention": retention})


def test_the_quota_leaves_room_in_the_store() -> None:
    assert load_settings(FLAGS).quota == 8 << 30
    assert load_settings(FLAGS | {"quota_bytes": 0}).quota == 0
    assert load_settings(FLAGS | {"store_map_size": 4 << 20}).quota == 3 << 20
    with pytest.raises(ConfigurationError, match=r"--quota-bytes .* exceeds --store-map-size"):
        load_settings(FLAGS | {"store_map_size": 4 << 20, "quota_bytes": 5 << 20})
    with pytest.raises(ConfigurationError, match="quota-bytes"):
        load_settings(FLAGS | {"quota_bytes": -1})


def test_the_reserve_of_the_disk_holds_two_segments_of_the_log() -> None:
    assert load_settings(FLAGS).disk_reserve == 256 << 20
    assert load_settings(FLAGS | {"disk_reserve_bytes": 0}).disk_reserve == 0
    assert load_settings(FLAGS | {"disk_reserve_bytes": 128 << 20}).disk_reserve == 128 << 20
    assert load_settings(FLAGS | {"wal_segment_bytes": 200 << 20}).disk_reserve == 400 << 20
    with pytest.raises(
        ConfigurationError, match=r"--disk-reserve-bytes .* must be at least 134217728, room for 2 segments"
    ):
        load_settings(FLAGS | {"disk_reserve_bytes": 127 << 20})


@pytest.mark.parametrize(
    ("name", "value"),
    [("disk_reserve_bytes", -1), ("disk_reserve_bytes", "much"), ("slow_disk_ms", -1), ("slow_disk_ms", 60_001)],
)
def test_a_reserve_or_a_pace_that_makes_no_sense(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name.replace("_", "-")):
        load_settings(FLAGS | {name: value})


def test_limits_of_watches() -> None:
    assert load_settings(FLAGS).watch_limits == WatchLimits()
    given = {"max_watches": 7, "max_stream_watches": 5, "watch_ring_bytes": 0, "watch_progress_s": 0.5}
    limits = load_settings(FLAGS | given).watch_limits
    assert limits == WatchLimits(max_watches=7, max_stream_watches=5, ring_bytes=0, progress_s=0.5)
    assert load_settings(FLAGS | {"max_watches": 7}).watch_limits.max_stream_watches == 7


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"max_watches": 0}, "max-watches"),
        ({"max_stream_watches": 0}, "max-stream-watches"),
        ({"max_watches": 7, "max_stream_watches": 8}, r"--max-stream-watches \(8\) exceeds --max-watches \(7\)"),
        ({"watch_ring_bytes": -1}, "watch-ring-bytes"),
        ({"scrub_bytes_per_s": -1}, "scrub-bytes-per-s"),
        ({"watch_progress_s": 0.0}, "watch-progress-s"),
        ({"watch_progress_s": float("inf")}, "watch-progress-s"),
        ({"watch_progress_s": float("nan")}, "watch-progress-s"),
    ],
)
def test_limits_of_watches_that_make_no_sense(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load_settings(FLAGS | given)


@pytest.mark.parametrize("seconds", [-1, 0.5, float("inf"), float("nan"), "often"])
def test_an_interval_between_comparisons_that_makes_no_sense(seconds: object) -> None:
    with pytest.raises(ConfigurationError, match=r"compare.states.s"):
        load_settings(FLAGS | {"compare_states_s": seconds})


def test_comparisons_can_be_switched_off() -> None:
    assert load_settings(FLAGS).compare_states_s == 600
    assert load_settings(FLAGS | {"compare_states_s": 0}).compare_states_s == 0


@pytest.mark.parametrize(
    ("text", "concern"), [(None, -1), ("majority", -1), ("all", -2), ("leader", 1), ("1", 1), ("3", 3), (2, 2)]
)
def test_the_default_write_concern(text: str | int | None, concern: int) -> None:
    assert load_settings(FLAGS | {"write_concern": text}).default_write_concern == concern


def test_the_default_write_concern_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "raftkv.toml"
    file.write_text("write-concern = 2")
    assert load_settings(FLAGS, file).default_write_concern == 2
    monkeypatch.setenv("RAFTKV_WRITE_CONCERN", "all")
    assert load_settings(FLAGS, file).default_write_concern == -2


@pytest.mark.parametrize("text", ["most", "0", "-1", 0, -2, True, 1.5, "2147483648", ""])
def test_a_write_concern_that_is_none(text: object) -> None:
    with pytest.raises(ConfigurationError, match="write-concern"):
        load_settings(FLAGS | {"write_concern": text})
