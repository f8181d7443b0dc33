"""All metrics of a node, in one table: docs/metrics.md, the exposition and the tests of the alert rules come from it.

Base units, and no label that grows with what users store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How Prometheus is to take a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Presence(StrEnum):
    """Which nodes tell it."""

    ALWAYS = "always"
    LEADER = "leader"
    TRANSFER = "transfer"
    """While a checkpoint is on its way from or to the node."""
    TLS = "TLS"
    """Where the node has certificates."""
    DRIFT = "drift"
    """While the settings of a peer are others."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Samples of a histogram have the name with _bucket, _count and _sum."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    presence: Presence = Presence.ALWAYS


def _metric(
    name: str, kind: Kind, help_text: str, *labels: str, presence: Presence = Presence.ALWAYS
) -> tuple[str, Metric]:
    return name, Metric(name, kind, labels, help_text, presence)


_G, _C, _H = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM
_LEADER = Presence.LEADER

METRICS: Final[dict[str, Metric]] = dict(
    (
        _metric("raftkv_build_info", _G, "Always 1; the version is in the label.", "version"),
        # Leadership.
        _metric("raftkv_has_leader", _G, "1: this node knows who leads."),
        _metric("raftkv_is_leader", _G, "1: this node leads, and its state may be relied on."),
        _metric("raftkv_ready", _G, "1: this node can serve linearizable reads, as /readyz says."),
        _metric("raftkv_term", _G, "The term that this node is in."),
        _metric("raftkv_leader_changes_total", _C, "New leaders that this node has seen since it started."),
        _metric(
            "raftkv_failovers_total",
            _C,
            "Changes of leaders that this node has seen to their end; planned: the old leader handed over.",
            "planned",
        ),
        _metric(
            "raftkv_failover_duration_seconds",
            _G,
            "The newest change of leaders: from when this node heard the old one last to when an entry of the new one "
            "was committed; 0: none since it started.",
        ),
        _metric("raftkv_members", _G, "Members, as this node knows them.", "kind"),
        # The log.
        _metric("raftkv_commit_index", _G, "The newest entry that this node knows to be committed."),
        _metric("raftkv_applied_index", _G, "The newest entry that this node's state has."),
        _metric("raftkv_last_index", _G, "The last entry of this node's log."),
        _metric("raftkv_durable_index", _G, "The newest entry that this node's own disk has confirmed."),
        _metric(
            "raftkv_peer_lag_entries",
            _G,
            "Entries that the peer has not confirmed; absent until this leader knows what it has.",
            "peer",
            presence=_LEADER,
        ),
        _metric(
            "raftkv_peer_lag_seconds",
            _G,
            "For how long the leader has had an entry that the peer has not confirmed.",
            "peer",
            presence=_LEADER,
        ),
        _metric(
            "raftkv_peer_active",
            _G,
            "1: the peer has answered within an election timeout.",
            "peer",
            presence=_LEADER,
        ),
        _metric("raftkv_peer_connected", _G, "1: the stream to the peer is open.", "peer", presence=_LEADER),
        _metric(
            "raftkv_write_quorum_reached",
            _G,
            "1: the leader has heard from a quorum of voters within an election timeout.",
            presence=_LEADER,
        ),
        _metric(
            "raftkv_active_voters",
            _G,
            "Voters that the leader has heard within an election timeout, itself included.",
            presence=_LEADER,
        ),
        _metric("raftkv_quorum_size", _G, "Voters that make a majority.", presence=_LEADER),
        # Requests.
        _metric(
            "raftkv_requests_total",
            _C,
            "Operations that clients asked of this node, wherever they were run; kind: read or write; outcome: ok, or "
            "the error's code.",
            "kind",
            "outcome",
        ),
        _metric("raftkv_proposals_pending", _G, "Writes that wait here for an entry, or for theirs to be applied."),
        _metric(
            "raftkv_proposals_failed_total",
            _C,
            "Writes that this node took as the leader, and that failed or were given up; reason: the error's code.",
            "reason",
        ),
        _metric(
            "raftkv_commit_duration_seconds",
            _H,
            "From when the leader put an entry into its log to when it knew it to be committed.",
        ),
        # The disk.
        _metric("raftkv_wal_fsync_duration_seconds", _H, "How long the log's flushes to disk (fdatasync) took."),
        _metric("raftkv_wal_bytes", _G, "Size of the log on disk, room made ahead included."),
        _metric("raftkv_store_bytes", _G, "Size of the state store on disk, free pages included."),
        _metric("raftkv_store_used_bytes", _G, "What the state itself takes of it; counts against the quota."),
        _metric("raftkv_quota_bytes", _G, "From this size on, writes that make the state grow are refused; 0: none."),
        _metric("raftkv_disk_free_bytes", _G, "Free on the data directory's file system; 0: nobody looks."),
        _metric("raftkv_disk_reserve_bytes", _G, "With less free, no further entries are taken; 0: no reserve."),
        _metric("raftkv_alarm", _G, "1: the alarm is on; /api/v1/state says what it is about.", "alarm"),
        _metric("raftkv_checkpoint_index", _G, "The entry of the newest checkpoint; 0: there is none."),
        _metric("raftkv_checkpoint_bytes", _G, "Its size."),
        _metric(
            "raftkv_checkpoint_timestamp_seconds",
            _G,
            "When this process made or received it, in seconds since 1970; 0: before it started, or never.",
        ),
        _metric(
            "raftkv_checkpoint_transfer_bytes",
            _G,
            "How much of a checkpoint on its way is there; direction: send or receive.",
            "peer",
            "direction",
            presence=Presence.TRANSFER,
        ),
        _metric(
            "raftkv_checkpoint_transfer_size_bytes",
            _G,
            "How large it is as a whole.",
            "peer",
            "direction",
            presence=Presence.TRANSFER,
        ),
        # What is in the store.
        _metric("raftkv_sessions", _G, "Sessions of clients."),
        _metric("raftkv_leases", _G, "Leases."),
        _metric("raftkv_watches", _G, "Watches that this node serves."),
        _metric("raftkv_revision", _G, "The store's revision at this node."),
        _metric("raftkv_compacted_revision", _G, "Where history begins."),
        # Is the data right?
        _metric(
            "raftkv_states_differ",
            _G,
            "Members whose state was another one at the last comparison, as this node knows it; only leaders compare.",
        ),
        _metric("raftkv_scrubbed_bytes_total", _C, "Bytes of cold files that were read again in search of bit rot."),
        _metric("raftkv_scrub_damaged_files", _G, "Files that were found damaged since this node started."),
        # The process, and what it was told.
        _metric(
            "raftkv_event_loop_delay_seconds",
            _G,
            "How late the most delayed tick of the last minute came: so long everything had to wait.",
        ),
        _metric(
            "raftkv_certificate_not_after_timestamp_seconds",
            _G,
            "When the certificate in use ends, in seconds since 1970; purpose: clients or peers.",
            "purpose",
            presence=Presence.TLS,
        ),
        _metric(
            "raftkv_certificate_refused",
            _G,
            "1: a newer certificate on disk is not in use; /api/v1/state says why.",
            "purpose",
            presence=Presence.TLS,
        ),
        _metric(
            "raftkv_settings_drift",
            _G,
            "Settings that should agree and that the peer was given differently; absent: all agree.",
            "peer",
            presence=Presence.DRIFT,
        ),
        _metric(
            "raftkv_protocol_version", _G, "The newest version of the protocol that all members heard so far speak."
        ),
    )
)
"""By name, in the order in which they are documented."""

FROM_THE_LIBRARY: Final = ("process_", "python_info")
"""How the names begin of what prometheus_client adds by itself."""
