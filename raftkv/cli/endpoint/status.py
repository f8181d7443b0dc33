"""`raftkv endpoint status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from raftkv.cli.endpoint.drift import print_drift
from raftkv.cli.endpoint.transfers import print_transfers
from raftkv.cli.endpoint.verdict import fail_unless_all_answered
from raftkv.cli.options import DEFAULT_ENDPOINTS, DEFAULT_TIMEOUT_S, Endpoints, Format, Output, Timeout
from raftkv.cli.output import megabytes, print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.cli.view import MemberView, leader_of, look
from raftkv.client import Status

_COLUMNS: Final = (
    "ID",
    "ENDPOINT",
    "ROLE",
    "LEADER",
    "TERM",
    "COMMIT",
    "APPLIED",
    "LAG",
    "REVISION",
    "USED",
    "QUOTA",
    "STORE",
    "LOG",
    "FREE",
    "WRITE",
    "ALARMS",
)
_WORDS: Final = {"ENDPOINT", "ROLE", "ALARMS"}


def status(
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Show what each member knows. Exit code 1 when some do not answer or are of another cluster, 5 when none answers.

    USED is what the state itself takes of the file STORE, and what counts against QUOTA. The alarm `no space` says that
    the quota is reached: writes that make the state grow are refused until keys are deleted and history is compacted.
    LAG is what a member has not confirmed yet of the leader's log, as the leader sees it: how many entries, and for how
    long the leader has had the first of them. Checkpoints on their way between nodes are shown in a table of their own.

    FREE is what the disk has left, WRITE how long a write to the log takes on average. The alarms `disk full` and `slow
    disk` say that there is too little of the one or too much of the other: such a node hands leadership over.

    Settings that should be the same on all members and are not are shown in a table of their own, too.
    """
    views = run_with_client(endpoints, timeout, lambda client: look(client, timeout))
    leader = leader_of(views)
    if output is Output.JSON:
        print_json({"leader": leader.member_id if leader else None, "members": [_described(view) for view in views]})
    else:
        print_table(
            _COLUMNS,
            (_row(view, leader) for view in views),
            right=tuple(column for column in _COLUMNS if column not in _WORDS),
        )
        print_transfers(views)
        print_drift(views)
    fail_unless_all_answered(views)


def _row(view: MemberView, leader: Status | None = None) -> tuple[object, ...]:
    found = view.status
    lag = _lag(view, leader)
    if found is None:
        role = f"other cluster {view.other_cluster:016x}" if view.other_cluster else "unreachable"
        return (view.id, view.endpoint, role, *[None] * 4, lag, *[None] * 8)
    return (
        view.id,
        view.endpoint,
        found.role.name.lower().replace("_", "-"),
        found.leader_id or None,
        found.term,
        found.commit_index,
        found.applied_index,
        lag,
        found.revision,
        megabytes(found.used_bytes),
        megabytes(found.quota_bytes) if found.quota_bytes else None,
        megabytes(found.store_bytes),
        megabytes(found.log_bytes),
        megabytes(found.disk.free_bytes) if found.disk.free_bytes else None,
        f"{found.disk.write_s * 1000:.1f} ms",
        ", ".join(raised.alarm.name.lower().replace("_", " ") for raised in found.alarms) or None,
    )


def _lag(view: MemberView, leader: Status | None) -> str | None:
    progress = next((one for one in leader.progress if one.id == view.id), None) if leader is not None else None
    if leader is None or progress is None:
        return None
    if progress.match_index == 0 and progress.state == "probe":
        return f"?, {lag_text(progress.lag_s)}"  # it has not answered this leader yet, and may have everything
    entries = leader.last_index - progress.match_index
    return f"{entries}, {lag_text(progress.lag_s)}" if entries else "0"


def lag_text(seconds: float) -> str:
    """Return a lag for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"


def _described(view: MemberView) -> dict[str, object]:
    described: dict[str, object] = {"id": view.id, "endpoint": view.endpoint, "error": view.error}
    found = view.status
    if found is None:
        other = {"cluster_id": f"{view.other_cluster:016x}"} if view.other_cluster else {}
        return described | other
    return described | {
        "role": found.role.name.lower(),
        "leader_id": found.leader_id or None,
        "leader_address": found.leader_address or None,
        "term": found.term,
        "revision": found.revision,
        "commit_index": found.commit_index,
        "applied_index": found.applied_index,
        "last_index": found.last_index,
        "durable_index": found.durable_index,
        "store_bytes": found.store_bytes,
        "log_bytes": found.log_bytes,
        "used_bytes": found.used_bytes,
        "quota_bytes": found.quota_bytes or None,
        "disk": asdict(found.disk),
        "alarms": [
            {"alarm": raised.alarm.name.lower(), "message": raised.message, "since": raised.since}
            for raised in found.alarms
        ],
        "compacted_revision": found.compacted_revision,
        "sessions": found.sessions,
        "leases": found.leases,
        "watches": found.watches,
        "cluster_id": f"{found.cluster_id:016x}",
        "version": found.version,
        "started_at": found.started_at or None,
        "http_address": found.http_address or None,
        "failover": asdict(found.failover) if found.failover else None,
        "followers": [asdict(one) for one in found.progress],
        "scrub": asdict(found.scrub),
        "checkpoint": asdict(found.checkpoint),
        "transfers": [asdict(one) for one in found.transfers],
        "certificates": [asdict(one) for one in found.certificates],
        "settings_hash": found.settings_hash.hex(),
        "drift": [asdict(one) for one in found.drift],
        "protocol_version": found.protocol_version,
    }
