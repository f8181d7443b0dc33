"""From what a node knows to what Prometheus is told. Pure: a status, and plain numbers beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from raftkv.errors import ErrorCode
from raftkv.raft import ProgressState
from raftkv.server.metrics.names import METRICS, Kind
from raftkv.server.tallies import OK, READ, WRITE, Durations, Tallies
from raftkv.server.write_quorum import WriteQuorum
from raftkv.v1 import cluster_pb2 as pb

_MS: Final = 1000
_MEMBER_KINDS: Final = {pb.VOTER: "voter", pb.LEARNER: "learner", pb.WITNESS: "witness"}
_ALARMS: Final = {number: name.lower() for name, number in pb.Alarm.items() if number != pb.ALARM_UNSPECIFIED}

USUAL_FAILURES: Final = tuple(
    code.name.lower()
    for code in (
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.LEADER_CHANGED,
        ErrorCode.NOT_LEADER,
        ErrorCode.OVERLOADED,
        ErrorCode.SHUTTING_DOWN,
    )
)
"""Of proposals: told from the beginning, at 0, so that the first failure is an increase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What a node tells beside its status."""

    ready: bool
    tallies: Tallies
    pending_writes: int
    delay_s: float
    """The longest of the event loop, of late."""
    failovers: Mapping[bool, int]
    """How many were planned, and how many were not."""
    quorum: WriteQuorum | None
    """None: this node does not lead."""


Samples = Sequence[tuple[tuple[str, ...], float]]
"""(values of the labels, value)"""


def families(status: pb.StatusResponse, numbers: Numbers) -> Iterator[Family]:
    """Yield every metric of `names.METRICS` that has something to tell now."""
    found = samples(status, numbers)
    histograms = {
        "raftkv_commit_duration_seconds": numbers.tallies.commits,
        "raftkv_wal_fsync_duration_seconds": numbers.tallies.flushes,
    }
    for name, metric in METRICS.items():
        if metric.kind is Kind.HISTOGRAM:
            yield _histogram(name, metric.help, histograms[name])
        elif found[name]:
            make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = make(name, metric.help, labels=metric.labels)
            for labels, value in found[name]:
                family.add_metric(labels, value)
            yield family


def samples(status: pb.StatusResponse, numbers: Numbers) -> dict[str, Samples]:
    """Return what every metric but the histograms has to tell, by name; nothing where it is absent."""
    return (
        _leadership(status, numbers)
        | _log(status, numbers)
        | _work(numbers)
        | _disk(status)
        | _state(status)
        | _process(status, numbers)
    )


def _one(value: float) -> Samples:
    return [((), float(value))]


def _leadership(status: pb.StatusResponse, numbers: Numbers) -> dict[str, Samples]:
    header = status.header
    kinds = Counter(_MEMBER_KINDS.get(member.kind, "voter") for member in status.members)
    return {
        "raftkv_has_leader": _one(header.leader_id != 0),
        "raftkv_is_leader": _one(_leads(status)),
        "raftkv_ready": _one(numbers.ready),
        "raftkv_term": _one(header.raft_term),
        "raftkv_leader_changes_total": _one(numbers.tallies.leader_changes),
        "raftkv_failovers_total": [
            (("true" if planned else "false",), float(numbers.failovers.get(planned, 0))) for planned in (False, True)
        ],
        "raftkv_failover_duration_seconds": _one(status.failover.duration_ms / _MS),
        "raftkv_members": [((kind,), float(kinds[kind])) for kind in _MEMBER_KINDS.values()],
    }


def _leads(status: pb.StatusResponse) -> bool:
    return status.header.leader_id == status.header.member_id != 0


def _log(status: pb.StatusResponse, numbers: Numbers) -> dict[str, Samples]:
    quorum = numbers.quorum
    return {
        "raftkv_commit_index": _one(status.commit_index),
        "raftkv_applied_index": _one(status.applied_index),
        "raftkv_last_index": _one(status.last_index),
        "raftkv_durable_index": _one(status.durable_index),
        "raftkv_peer_lag_entries": [
            ((str(peer.id),), float(status.last_index - peer.match_index)) for peer in status.progress if _heard(peer)
        ],
        "raftkv_peer_lag_seconds": _by_peer(status, lambda peer: peer.lag_ms / _MS),
        "raftkv_peer_active": _by_peer(status, lambda peer: peer.recently_active),
        "raftkv_peer_connected": _by_peer(status, lambda peer: peer.connected),
        "raftkv_write_quorum_reached": _one(quorum.reached) if quorum else [],
        "raftkv_active_voters": _one(quorum.active) if quorum else [],
        "raftkv_quorum_size": _one(quorum.size) if quorum else [],
    }


def _heard(peer: pb.PeerProgress) -> bool:
    """Whether this leader knows what the peer has: it may be all, but 0 stands there until the peer has said so."""
    return peer.match_index > 0 or peer.state != ProgressState.PROBE.value


def _by_peer(status: pb.StatusResponse, value: Callable[[pb.PeerProgress], float]) -> Samples:
    return [((str(peer.id),), float(value(peer))) for peer in status.progress]


def _work(numbers: Numbers) -> dict[str, Samples]:
    tallies = numbers.tallies
    answered = dict.fromkeys([(READ, OK), (WRITE, OK)], 0) | tallies.answered
    failed = dict.fromkeys(USUAL_FAILURES, 0) | tallies.failed_writes
    return {
        "raftkv_requests_total": [(labels, float(count)) for labels, count in sorted(answered.items())],
        "raftkv_proposals_pending": _one(numbers.pending_writes),
        "raftkv_proposals_failed_total": [((reason,), float(count)) for reason, count in sorted(failed.items())],
    }


def _disk(status: pb.StatusResponse) -> dict[str, Samples]:
    raised = {alarm.alarm for alarm in status.alarms}
    moved = [
        ((str(one.peer), "receive" if one.receiving else "send"), one.done_bytes, one.size_bytes)
        for one in status.transfers
    ]
    return {
        "raftkv_wal_bytes": _one(status.log_bytes),
        "raftkv_store_bytes": _one(status.store_bytes),
        "raftkv_store_used_bytes": _one(status.used_bytes),
        "raftkv_quota_bytes": _one(status.quota_bytes),
        "raftkv_disk_free_bytes": _one(status.disk.free_bytes),
        "raftkv_disk_reserve_bytes": _one(status.disk.reserve_bytes),
        "raftkv_alarm": [((name,), float(alarm in raised)) for alarm, name in _ALARMS.items()],
        "raftkv_checkpoint_index": _one(status.checkpoint.index),
        "raftkv_checkpoint_bytes": _one(status.checkpoint.size_bytes),
        "raftkv_checkpoint_timestamp_seconds": _one(status.checkpoint.made_at_ms / _MS),
        "raftkv_checkpoint_transfer_bytes": [(labels, float(done)) for labels, done, _ in moved],
        "raftkv_checkpoint_transfer_size_bytes": [(labels, float(size)) for labels, _, size in moved],
    }


def _state(status: pb.StatusResponse) -> dict[str, Samples]:
    return {
        "raftkv_sessions": _one(status.sessions),
        "raftkv_leases": _one(status.leases),
        "raftkv_watches": _one(status.watches),
        "raftkv_revision": _one(status.header.revision),
        "raftkv_compacted_revision": _one(status.compacted_revision),
        "raftkv_states_differ": _one(len(status.comparison.differ)),
        "raftkv_scrubbed_bytes_total": _one(status.scrub.scrubbed_bytes),
        "raftkv_scrub_damaged_files": _one(status.scrub.damaged_files),
    }


def _process(status: pb.StatusResponse, numbers: Numbers) -> dict[str, Samples]:
    drift = Counter(str(one.peer) for one in status.drift)
    certificates = status.certificates
    return {
        "raftkv_build_info": [((status.version,), 1.0)],
        "raftkv_event_loop_delay_seconds": _one(numbers.delay_s),
        "raftkv_certificate_not_after_timestamp_seconds": [
            ((one.purpose,), one.not_after_ms / _MS) for one in certificates
        ],
        "raftkv_certificate_refused": [((one.purpose,), float(bool(one.refused))) for one in certificates],
        "raftkv_settings_drift": [((peer,), float(count)) for peer, count in sorted(drift.items())],
        "raftkv_protocol_version": _one(status.protocol_version),
    }


def _histogram(name: str, help_text: str, durations: Durations) -> Family:
    family = HistogramMetricFamily(name, help_text)
    bounds = [*map(floatToGoString, durations.bounds_s), "+Inf"]
    family.add_metric([], list(zip(bounds, accumulate(durations.counts), strict=True)), durations.sum_s)
    return family
