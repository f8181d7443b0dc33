"""The parts of a node's status that `node_status` describes, decoded."""

from __future__ import annotations

from typing import Final

from raftkv.client.node_status import (
    Alarm,
    CertificateStatus,
    CheckpointStatus,
    CheckpointTransfer,
    DiskStatus,
    Failover,
    RaisedAlarm,
    ScrubStatus,
    SettingsDrift,
    StateComparison,
)
from raftkv.v1 import cluster_pb2

_ALARMS: Final = {int(alarm): alarm for alarm in Alarm}
_MS: Final = 1_000
_US: Final = 1_000_000


def to_alarm(raised: cluster_pb2.RaisedAlarm) -> RaisedAlarm:
    """Decode an alarm; one that this client does not know is UNSPECIFIED."""
    return RaisedAlarm(_ALARMS.get(raised.alarm, Alarm.UNSPECIFIED), raised.message, raised.since_ms / _MS)


def to_disk(disk: cluster_pb2.DiskStatus) -> DiskStatus:
    """Decode what a node says of its disk."""
    return DiskStatus(disk.free_bytes, disk.reserve_bytes, disk.write_us / _US, disk.slowest_write_us / _US)


def to_checkpoint(found: cluster_pb2.CheckpointStatus) -> CheckpointStatus:
    """Decode what a node says of its checkpoints."""
    return CheckpointStatus(found.index, found.size_bytes, found.kept, found.making, found.made_at_ms / _MS)


def to_transfer(found: cluster_pb2.CheckpointTransfer) -> CheckpointTransfer:
    """Decode a transfer."""
    return CheckpointTransfer(found.peer, found.receiving, found.index, found.done_bytes, found.size_bytes, found.phase)


def to_certificate(found: cluster_pb2.CertificateStatus) -> CertificateStatus:
    """Decode what a node says of a certificate."""
    return CertificateStatus(
        found.purpose,
        found.file,
        found.subject,
        found.not_before_ms / _MS,
        found.not_after_ms / _MS,
        found.refused,
    )


def to_failover(found: cluster_pb2.Failover) -> Failover:
    """Decode a change of leaders."""
    return Failover(found.term, found.leader, found.duration_ms / _MS, found.ended_at_ms / _MS, found.planned)


def to_scrub(found: cluster_pb2.ScrubStatus) -> ScrubStatus:
    """Decode what scrubbing has come to."""
    return ScrubStatus(found.scrubbed_bytes, found.rounds, found.damaged_files, found.finished_at_ms / _MS)


def to_comparison(found: cluster_pb2.StateComparison) -> StateComparison:
    """Decode a comparison of states."""
    return StateComparison(
        found.index,
        found.hash,
        tuple(found.agreed),
        tuple(found.differ),
        tuple(found.silent),
        found.finished_at_ms / _MS,
    )


def to_drift(found: cluster_pb2.SettingsDrift) -> SettingsDrift:
    """Decode a difference between two nodes' settings."""
    return SettingsDrift(found.peer, found.setting, found.here, found.there)
