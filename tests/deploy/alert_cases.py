"""When each alert is raised, and when it just is not: what `promtool test rules` is given.

The expected messages are those of alerts.yml with labels and value filled in here; promtool compares them with what
Prometheus makes of the templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from tests.deploy.paths import ALERTS

_HEAD: Final = "# Made of tests/deploy/alert_cases.py by `make deploy-files`: edit that. Run by make deploy-check.\n"
_N1: Final = 'job="raftkv",instance="node1"'
_N2: Final = 'job="raftkv",instance="node2"'
_JOB: Final = {"job": "raftkv"}
_NODE: Final = {"job": "raftkv", "instance": "node1"}
_PEER: Final = {**_NODE, "peer": "3"}


@dataclass(frozen=True, slots=True)
class Case:
    """One alert: series, in promtool's notation at a minute each, that raise it at a time, and some that do not."""

    alert: str
    at: str
    fires: Mapping[str, str]
    silent: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=lambda: _NODE)
    value: str = ""
    """As the message shows it."""


CASES: Final = (
    Case(
        "RaftkvNoLeader",
        "5m",
        {f"raftkv_has_leader{{{_N1}}}": "1 0x10", f"raftkv_has_leader{{{_N2}}}": "1 0x10", f"up{{{_N1}}}": "1x11"},
        {f"raftkv_has_leader{{{_N1}}}": "0x10", f"raftkv_has_leader{{{_N2}}}": "1x10", f"up{{{_N1}}}": "1x10"},
        _JOB,
    ),
    Case(
        "RaftkvNoLeader",  # and nobody left who would say so
        "5m",
        {f"up{{{_N1}}}": "0x10", f"up{{{_N2}}}": "0x10"},
        {'up{job="raftkvetch",instance="node1"}': "0x10"},
        _JOB,
    ),
    Case(
        "RaftkvInsufficientMembers",
        "5m",
        # Two of three are gone, and the third one has no leader. A witness is a voter, a learner is none.
        {
            f"raftkv_has_leader{{{_N1}}}": "0x10",
            f"raftkv_has_leader{{{_N2}}}": "1 stale",
            f'raftkv_members{{{_N1},kind="voter"}}': "2x10",
            f'raftkv_members{{{_N1},kind="witness"}}': "1x10",
        },
        {
            f"raftkv_has_leader{{{_N1}}}": "1x10",
            f"raftkv_has_leader{{{_N2}}}": "1x10",
            f'raftkv_members{{{_N1},kind="voter"}}': "3x10",
            f'raftkv_members{{{_N1},kind="learner"}}': "3x10",
        },
        _JOB,
        value="1",
    ),
    Case(
        "RaftkvQuorumAtRisk",
        "10m",
        {f"raftkv_active_voters{{{_N1}}}": "2x20", f"raftkv_quorum_size{{{_N1}}}": "2x20"},
        {f"raftkv_active_voters{{{_N1}}}": "3x20", f"raftkv_quorum_size{{{_N1}}}": "2x20"},
        value="2",
    ),
    Case(
        "RaftkvQuorumAtRisk",  # but not where one node is all there is
        "10m",
        {f"raftkv_active_voters{{{_N1}}}": "3x20", f"raftkv_quorum_size{{{_N1}}}": "3x20"},
        {f"raftkv_active_voters{{{_N1}}}": "1x20", f"raftkv_quorum_size{{{_N1}}}": "1x20"},
        value="3",
    ),
    Case(
        "RaftkvNodeDown",
        "7m",
        {f'raftkv_peer_active{{{_N1},peer="3"}}': "0x10"},
        {f'raftkv_peer_active{{{_N1},peer="3"}}': "0 0 1 0 0 1 0 0 1"},
        _PEER,
    ),
    Case(
        "RaftkvNodeCutOff",
        "10m",
        {f"raftkv_has_leader{{{_N1}}}": "0x20", f"raftkv_has_leader{{{_N2}}}": "1x20"},
        {f"raftkv_has_leader{{{_N1}}}": "0x20", f"raftkv_has_leader{{{_N2}}}": "0x20"},
    ),
    Case(
        "RaftkvNotReady",
        "15m",
        {f"raftkv_ready{{{_N1}}}": "0x20", f"raftkv_has_leader{{{_N1}}}": "1x20"},
        {f"raftkv_ready{{{_N1}}}": "0x20", f"raftkv_has_leader{{{_N1}}}": "0x20"},
    ),
    Case(
        "RaftkvScrapeFailed",
        "5m",
        {'up{job="raftkv/orders",namespace="shop",instance="raftkv-1"}': "0x10"},
        {f"up{{{_N1}}}": "1x10", 'up{job="other",instance="x"}': "0x10"},
        {"job": "raftkv/orders", "namespace": "shop", "instance": "raftkv-1"},
    ),
    Case("RaftkvNotMonitored", "20m", {'up{job="other",instance="x"}': "1x30"}, {f"up{{{_N1}}}": "0x30"}, {}),
    Case(
        "RaftkvLeaderChanges",
        "65m",
        {f'raftkv_failovers_total{{{_N1},planned="false"}}': "0x30 4x60"},
        {
            f'raftkv_failovers_total{{{_N1},planned="false"}}': "0x30 3x60",
            f'raftkv_failovers_total{{{_N1},planned="true"}}': "0x30 9x60",
            f"raftkv_leader_changes_total{{{_N1}}}": "0x30 12x60",
        },
        _JOB,
        "4",
    ),
    Case(
        "RaftkvProposalsFailing",
        "20m",
        {f'raftkv_proposals_failed_total{{{_N1},reason="TIMEOUT"}}': "0+1x30"},
        {f'raftkv_proposals_failed_total{{{_N1},reason="TIMEOUT"}}': "0+0.4x30"},
        {**_JOB, "reason": "TIMEOUT"},
        "10",
    ),
    Case(
        "RaftkvReplicationLagTime",
        "5m",
        {f'raftkv_peer_lag_seconds{{{_N1},peer="3"}}': "30x10", f'raftkv_peer_active{{{_N1},peer="3"}}': "1x10"},
        {f'raftkv_peer_lag_seconds{{{_N1},peer="3"}}': "30x10", f'raftkv_peer_active{{{_N1},peer="3"}}': "0x10"},
        _PEER,
        "30s",
    ),
    Case(
        "RaftkvReplicationLagEntries",
        "10m",
        {f'raftkv_peer_lag_entries{{{_N1},peer="3"}}': "50000x20", f'raftkv_peer_active{{{_N1},peer="3"}}': "1x20"},
        {f'raftkv_peer_lag_entries{{{_N1},peer="3"}}': "20000x20", f'raftkv_peer_active{{{_N1},peer="3"}}': "1x20"},
        _PEER,
        "50000",
    ),
    Case(
        "RaftkvSlowFsync",
        "20m",
        {
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="0.1"}}': "0+90x30",
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="0.25"}}': "0+100x30",
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="+Inf"}}': "0+100x30",
        },
        {
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="0.1"}}': "0+100x30",
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="0.25"}}': "0+100x30",
            f'raftkv_wal_fsync_duration_seconds_bucket{{{_N1},le="+Inf"}}': "0+100x30",
        },
        value="235ms",
    ),
    Case(
        "RaftkvQuotaNearlyReached",
        "10m",
        {f"raftkv_store_used_bytes{{{_N1}}}": "90x20", f"raftkv_quota_bytes{{{_N1}}}": "100x20"},
        {f"raftkv_store_used_bytes{{{_N1}}}": "84x20", f"raftkv_quota_bytes{{{_N1}}}": "100x20"},
        value="90%",
    ),
    Case(
        "RaftkvQuotaAlmostExhausted",
        "10m",
        {f"raftkv_store_used_bytes{{{_N1}}}": "96x20", f"raftkv_quota_bytes{{{_N1}}}": "100x20"},
        {f"raftkv_store_used_bytes{{{_N1}}}": "96x20", f"raftkv_quota_bytes{{{_N1}}}": "0x20"},
        value="96%",
    ),
    Case(
        "RaftkvDiskNearlyFull",
        "10m",
        {f"raftkv_disk_free_bytes{{{_N1}}}": "536870912x20", f"raftkv_disk_reserve_bytes{{{_N1}}}": "268435456x20"},
        {f"raftkv_disk_free_bytes{{{_N1}}}": "1200000000x20", f"raftkv_disk_reserve_bytes{{{_N1}}}": "268435456x20"},
        value="512Mi",
    ),
    Case(
        "RaftkvDiskNearlyFull",  # nor where nobody looks at the disk
        "10m",
        {f"raftkv_disk_free_bytes{{{_N1}}}": "536870912x20", f"raftkv_disk_reserve_bytes{{{_N1}}}": "0x20"},
        {f"raftkv_disk_free_bytes{{{_N1}}}": "0x20", f"raftkv_disk_reserve_bytes{{{_N1}}}": "268435456x20"},
        value="512Mi",
    ),
    Case(
        "RaftkvDiskFullSoon",
        "8h",
        {
            f"raftkv_disk_free_bytes{{{_N1}}}": "14000000000-10000000x500",
            f"raftkv_disk_reserve_bytes{{{_N1}}}": "268435456x500",
        },
        {
            f"raftkv_disk_free_bytes{{{_N1}}}": "14000000000-1000000x500",
            f"raftkv_disk_reserve_bytes{{{_N1}}}": "268435456x500",
        },
    ),
    Case(
        "RaftkvCheckpointTooOld",
        "40m",
        {
            f"raftkv_applied_index{{{_N1}}}": "1000000x60",
            f"raftkv_checkpoint_index{{{_N1}}}": "500000x60",
            f"raftkv_store_bytes{{{_N1}}}": "100000000x60",
        },
        {
            f"raftkv_applied_index{{{_N1}}}": "1000000x60",
            f"raftkv_checkpoint_index{{{_N1}}}": "500000x60",
            f"raftkv_store_bytes{{{_N1}}}": "1073741824x60",
        },
        value="500k",
    ),
    Case(
        "RaftkvStatesDiffer",
        "2m",
        {f"raftkv_states_differ{{{_N1}}}": "0 1x5"},
        {f"raftkv_states_differ{{{_N1}}}": "0x5"},
        value="1",
    ),
    Case(
        "RaftkvAlarmCritical",
        "2m",
        {f'raftkv_alarm{{{_N1},alarm="corrupt"}}': "1x5"},
        {f'raftkv_alarm{{{_N1},alarm="corrupt"}}': "0x5", f'raftkv_alarm{{{_N1},alarm="slow_disk"}}': "1x5"},
        {**_NODE, "alarm": "corrupt"},
    ),
    Case(
        "RaftkvAlarm",
        "10m",
        {f'raftkv_alarm{{{_N1},alarm="slow_disk"}}': "1x20"},
        {f'raftkv_alarm{{{_N1},alarm="slow_disk"}}': "0x20", f'raftkv_alarm{{{_N1},alarm="corrupt"}}': "1x20"},
        {**_NODE, "alarm": "slow_disk"},
    ),
    Case(
        "RaftkvScrubDamage",
        "2m",
        {f"raftkv_scrub_damaged_files{{{_N1}}}": "2x5"},
        {f"raftkv_scrub_damaged_files{{{_N1}}}": "0x5"},
        value="2",
    ),
    Case(
        "RaftkvCertificateExpiresSoon",
        "2h",
        {f'raftkv_certificate_not_after_timestamp_seconds{{{_N1},purpose="peers"}}': f"{20 * 86400 + 7200}x200"},
        {f'raftkv_certificate_not_after_timestamp_seconds{{{_N1},purpose="peers"}}': f"{31 * 86400}x200"},
        {**_NODE, "purpose": "peers"},
        "20d 0h 0m 0s",
    ),
    Case(
        "RaftkvCertificateExpires",
        "10m",
        {f'raftkv_certificate_not_after_timestamp_seconds{{{_N1},purpose="clients"}}': f"{3 * 86400 + 600}x20"},
        {f'raftkv_certificate_not_after_timestamp_seconds{{{_N1},purpose="clients"}}': f"{8 * 86400}x20"},
        {**_NODE, "purpose": "clients"},
        "3d 0h 0m 0s",
    ),
    Case(
        "RaftkvCertificateRefused",
        "10m",
        {f'raftkv_certificate_refused{{{_N1},purpose="peers"}}': "1x20"},
        {f'raftkv_certificate_refused{{{_N1},purpose="peers"}}': "0x20"},
        {**_NODE, "purpose": "peers"},
    ),
    Case(
        "RaftkvSettingsDrift",
        "20m",
        {f'raftkv_settings_drift{{{_N1},peer="3"}}': "1x30"},
        {f'raftkv_settings_drift{{{_N1},peer="3"}}': "1x10 stale"},  # a rolling change that has come to its end
        _PEER,
        "1",
    ),
    Case(
        "RaftkvEventLoopDelay",
        "15m",
        {f"raftkv_event_loop_delay_seconds{{{_N1}}}": "0.5x30"},
        {f"raftkv_event_loop_delay_seconds{{{_N1}}}": "0.5 0.5 0.5 0.01 " * 8},
        value="500ms",
    ),
    Case(
        "RaftkvMixedVersions",
        "7h",
        {
            f'raftkv_build_info{{{_N1},version="0.1.0"}}': "1x500",
            f'raftkv_build_info{{{_N2},version="0.2.0"}}': "1x500",
        },
        {
            f'raftkv_build_info{{{_N1},version="0.2.0"}}': "1x500",
            f'raftkv_build_info{{{_N2},version="0.2.0"}}': "1x500",
        },
        _JOB,
        "2",
    ),
)


def rendered_cases() -> str:
    """Return the cases as promtool's file."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    tests = []
    for case in CASES:
        tests.append(_test(case, case.fires, [_expected(case, rules[case.alert])]))
        tests.append(_test(case, case.silent, []))
    document = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    return _HEAD + yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=1000)


def _test(case: Case, series: Mapping[str, str], expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": f"{case.alert} {'fires' if expected else 'does not fire'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values.strip()} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
    }


def _expected(case: Case, rule: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {name: _filled_in(text, case) for name, text in rule["annotations"].items()},
    }


def _filled_in(text: str, case: Case) -> str:
    """Where a label is missing, Prometheus leaves its place empty."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.labels.get(found.group(1), ""), text)
    return re.sub(r"\{\{ \$value(?: \| \w+)? \}\}", case.value, text)
